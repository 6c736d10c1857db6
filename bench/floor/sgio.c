/* The least SCSI pass-through can be: loops of the same system calls each engine of _fastpath makes.
 *
 * Every function executes `commands` copies of one command and returns the nanoseconds that took, or -errno. Buffers:
 * `depth` (or `threads`) of `size` bytes each in `data`, one per command in flight.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bsg.h>
#include <poll.h>
#include <pthread.h>
#include <scsi/sg.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MOST 64
#define TIMEOUT_MS 60000
#define Q_AT_TAIL 0x10

struct job {
    const uint8_t *cdb;
    int cdb_length;
    char *data;
    int size;
    int bsg;
    int masked;
    atomic_int left;
    atomic_int ready;
    atomic_int go;
    atomic_int error;
};

struct runner {
    struct job *job;
    int fd;
    int number;
    pthread_t thread;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void fill(struct sg_io_hdr *header, const struct job *job, char *data, unsigned char *sense)
{
    memset(header, 0, sizeof *header);
    header->interface_id = 'S';
    header->flags = Q_AT_TAIL;
    header->cmdp = (unsigned char *)job->cdb;
    header->cmd_len = job->cdb_length;
    header->sbp = sense;
    header->mx_sb_len = 96;
    header->timeout = TIMEOUT_MS;
    header->dxfer_direction = job->size ? SG_DXFER_FROM_DEV : SG_DXFER_NONE;
    header->dxferp = data;
    header->dxfer_len = job->size;
}

static int issue(int fd, const struct job *job, char *data)
{
    unsigned char sense[96];
    if (!job->bsg) {
        struct sg_io_hdr header;
        fill(&header, job, data, sense);
        if (ioctl(fd, SG_IO, &header) < 0)
            return -errno;
        return header.status || header.host_status ? -EIO : 0;
    }
    struct sg_io_v4 header;
    memset(&header, 0, sizeof header);
    header.guard = 'Q';
    header.flags = Q_AT_TAIL;
    header.request = (uintptr_t)job->cdb;
    header.request_len = job->cdb_length;
    header.response = (uintptr_t)sense;
    header.max_response_len = sizeof sense;
    header.timeout = TIMEOUT_MS;
    header.din_xferp = (uintptr_t)data;
    header.din_xfer_len = job->size;
    if (ioctl(fd, SG_IO, &header) < 0)
        return -errno;
    return header.device_status || header.transport_status ? -EIO : 0;
}

static void loop(struct runner *self)
{
    struct job *job = self->job;
    sigset_t every, before;
    int mask = self->number == 0 && job->masked;
    sigfillset(&every);
    for (int i = 0; atomic_fetch_sub(&job->left, 1) > 0; i++) {
        if (mask && i % job->masked == 0) {
            if (i)
                pthread_sigmask(SIG_SETMASK, &before, NULL);
            pthread_sigmask(SIG_SETMASK, &every, &before);
        }
        int rc = issue(self->fd, job, job->data + (size_t)self->number * job->size);
        if (rc < 0)
            atomic_store(&job->error, rc);
    }
    if (mask)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void *run(void *argument)
{
    struct runner *self = argument;
    atomic_fetch_add(&self->job->ready, 1);
    while (!atomic_load(&self->job->go))
        usleep(100);
    loop(self);
    return NULL;
}

/* ioctl(SG_IO) from `threads` threads, the caller among them; fds[i] is thread i's. The caller blocks signals around
 * every `masked` commands (0: never), as it must on /dev/sgN, where a signal makes the kernel issue the command again. */
int64_t floor_sync(const int *fds, int threads, int commands, const uint8_t *cdb, int cdb_length, char *data, int size,
                   int bsg, int masked)
{
    struct job job = {
        .cdb = cdb, .cdb_length = cdb_length, .data = data, .size = size, .bsg = bsg, .masked = masked};
    struct runner runners[MOST];
    if (threads < 1 || threads > MOST)
        return -EINVAL;
    atomic_store(&job.left, commands);
    for (int i = 0; i < threads; i++) {
        runners[i] = (struct runner){.job = &job, .fd = fds[i], .number = i};
        if (i && pthread_create(&runners[i].thread, NULL, run, &runners[i]))
            return -EAGAIN; /* those started so far wait for ever: the benchmark ends here */
    }
    while (atomic_load(&job.ready) < threads - 1)
        usleep(100);
    int64_t start = now_ns();
    atomic_store(&job.go, 1);
    loop(&runners[0]);
    for (int i = 1; i < threads; i++)
        pthread_join(runners[i].thread, NULL);
    int64_t took = now_ns() - start;
    int error = atomic_load(&job.error);
    return error ? error : took;
}

/* write, poll, read with `depth` commands in flight, one descriptor each. */
int64_t floor_async(const int *fds, int depth, int commands, const uint8_t *cdb, int cdb_length, char *data, int size)
{
    struct job job = {.cdb = cdb, .cdb_length = cdb_length, .data = data, .size = size};
    struct pollfd polled[MOST];
    unsigned char sense[MOST][96];
    struct sg_io_hdr header;
    int sent = 0, done = 0;
    if (depth < 1 || depth > MOST)
        return -EINVAL;
    int64_t start = now_ns();
    for (int i = 0; i < depth; i++) {
        polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
        if (sent == commands)
            continue;
        fill(&header, &job, data + (size_t)i * size, sense[i]);
        if (write(fds[i], &header, sizeof header) < 0)
            return -errno;
        polled[i].fd = fds[i];
        sent++;
    }
    while (done < commands) {
        if (poll(polled, depth, 1000) < 0)
            return -errno;
        for (int i = 0; i < depth; i++) {
            if (polled[i].fd < 0 || !(polled[i].revents & POLLIN))
                continue;
            if (read(polled[i].fd, &header, sizeof header) < 0)
                return -errno;
            if (header.status || header.host_status)
                return -EIO;
            done++;
            if (sent == commands) {
                polled[i].fd = -1;
                continue;
            }
            fill(&header, &job, data + (size_t)i * size, sense[i]);
            if (write(polled[i].fd, &header, sizeof header) < 0)
                return -errno;
            sent++;
        }
    }
    return now_ns() - start;
}
