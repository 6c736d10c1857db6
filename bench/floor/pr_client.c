/* A client of the persistent reservation helper protocol: one request after the other on a connected socket. */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CDB = 16, HEADER = 104, DATA = 8192 };

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int send_cdb(int sock, const uint8_t *cdb, int device)
{
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr alignment; } control;
    struct iovec vector = { (void *)cdb, CDB };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                              .msg_controllen = sizeof(control) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &device, sizeof(int));
    return sendmsg(sock, &message, MSG_NOSIGNAL) == CDB ? 0 : -EIO;
}

static int send_all(int sock, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(sock, data, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return -EIO;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int receive_all(int sock, uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t received = recv(sock, data, size, 0);
        if (received <= 0)
            return -EIO;
        data += received;
        size -= (size_t)received;
    }
    return 0;
}

/* Nanoseconds that `count` requests took, each one's own in `latencies`; negative errno where one was not GOOD. */
int64_t pr_client(int sock, int device, int count, const uint8_t *cdb, const uint8_t *list, int list_size,
                  int64_t *latencies)
{
    uint8_t reply[HEADER + DATA];
    int64_t start = now();
    for (int i = 0; i < count; i++) {
        int64_t before = now();
        if (send_cdb(sock, cdb, device) || (list_size && send_all(sock, list, (size_t)list_size)) ||
            receive_all(sock, reply, HEADER))
            return -EIO;
        uint32_t size = (uint32_t)reply[4] << 24 | (uint32_t)reply[5] << 16 | (uint32_t)reply[6] << 8 | reply[7];
        if (size > DATA || receive_all(sock, reply + HEADER, size))
            return -EIO;
        if (reply[0] | reply[1] | reply[2] | reply[3])
            return -EPROTO;
        latencies[i] = now() - before;
    }
    return now() - start;
}
