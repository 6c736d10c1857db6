# cython: language_level=3
"""Asynchronous pass-through on /dev/sgN: write queues a command, poll waits, read reaps it.

Every slot has its own open file: the commands of one file share one reserved buffer and all but one of them allocate
and zero a fresh one. A thread borrows free slots for a batch, so several batches share the device.

sg ties an open file to the credentials of its opener (EPERM otherwise), so the engine opens the node itself, in the
process and with the credentials that will use it.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, ENOMEM, EPROTO, ESRCH, ETIMEDOUT, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from posix.fcntl cimport O_CLOEXEC, O_NONBLOCK, O_RDWR, open
from posix.unistd cimport close, read, usleep, write

from _fastpath.sgio cimport (
    SG_FATE_NOT_EXECUTED, SG_FATE_UNKNOWN, SG_IN, SG_MAX_IOVECS, SG_OUT, Engine, bounce_free, bounce_settle,
    bounce_take, check_command, fail_all, fail_command, fork_generation, gather, scatter, sg_bounce, sg_command,
)
from _fastpath.sgio_v3 cimport SG_SET_RESERVED_SIZE, fill_header, sg_io_hdr, take_header

import os

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

    short POLLIN
    int poll(pollfd *descriptors, unsigned long count, int timeout)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, void *attributes)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    uint64_t sgio_now_ms()

cdef enum:
    MAX_SLOTS = 64
    RECHECK_MS = 1000  # how late a missed deadline may be noticed
    MIN_POLLS = 4
    MAX_POLLS = 256
    HUNG_UP_US = 2000  # poll does not sleep on the node of a removed device

DEFAULT_RESERVED_SIZE = 128 * 1024
DEFAULT_GRACE_MS = 300_000


cdef struct slot:
    int fd  # -1: given up, reopened at the next use
    int pack_id
    sg_command *command  # in flight, or NULL
    uint64_t deadline
    void *bounced  # where the data of the command in flight are, or NULL: in its own buffers
    sg_bounce bounce
    int polls_left  # until the next attempt to reap without a poll
    int polls  # how many polls the next failed attempt costs


cdef struct slot_table:
    pthread_mutex_t lock
    pthread_cond_t returned  # a slot became free
    pthread_cond_t drained  # a user left while closing
    unsigned int forks
    int anchor  # keeps the device's number from being reused while slots are reopened
    int reserved_size
    uint32_t grace_ms
    int free_count
    int free_slots[MAX_SLOTS]
    uint32_t waiting
    int users
    bint closing
    slot slots[MAX_SLOTS]


cdef struct borrowed:
    # The slots one submit works with; pollfd.fd is -1 while a slot is idle, which poll skips.
    int count
    int in_flight
    int slots[MAX_SLOTS]
    pollfd polled[MAX_SLOTS]


cdef struct source:
    sg_command *commands
    const int *indices
    int following
    int count


cdef int open_slot(slot_table *table) noexcept nogil:
    """A new open file of the device, with its reserved buffer: the descriptor or -errno."""
    cdef char path[32]
    cdef int fd
    cdef int error
    snprintf(path, sizeof(path), b"/proc/self/fd/%d", table.anchor)
    fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)
    if fd < 0:
        return -errno
    if ioctl(fd, SG_SET_RESERVED_SIZE, &table.reserved_size) < 0:
        error = errno
        close(fd)
        return -error
    return fd


cdef void give_up(slot *which, int error) noexcept nogil:
    """Let go of a command whose result cannot be had.

    The file is closed: sg copies data out in read(), and a later read on it would write to buffers that are no longer
    the command's.
    """
    close(which.fd)
    which.fd = -1
    fail_command(which.command, error, SG_FATE_UNKNOWN)
    which.command = NULL


cdef int queue(slot_table *table, slot *which, sg_command *command, uint64_t now) noexcept nogil:
    """Hand the command to the kernel: 0, or -errno and nothing was queued."""
    cdef sg_io_hdr header
    cdef ssize_t written
    cdef int rc = check_command(command)
    if rc < 0:
        return rc
    if which.fd < 0:
        which.fd = open_slot(table)
        if which.fd < 0:
            rc = which.fd
            which.fd = -1
            return rc
    which.bounced = NULL
    if command.iovec_count > SG_MAX_IOVECS:
        which.bounced = bounce_take(&which.bounce, command.transfer_length)
        if which.bounced is NULL:
            return -ENOMEM
        if command.direction == SG_OUT:
            gather(command, which.bounced)
    fill_header(&header, command, which.bounced)
    which.pack_id = (which.pack_id + 1) & 0x7FFFFFFF
    header.pack_id = which.pack_id
    header.usr_ptr = command
    while True:
        written = write(which.fd, &header, sizeof(header))
        if written >= 0:
            break
        if errno != EINTR:
            return -errno
    which.command = command
    which.deadline = now + command.timeout_ms + table.grace_ms
    return 0


cdef bint reap(slot *which) noexcept nogil:
    """Read the result of the slot's command if there is one; whether the slot is idle now."""
    cdef sg_io_hdr header
    cdef size_t received
    cdef sg_command *command = which.command
    if read(which.fd, &header, sizeof(header)) < 0:
        if errno == EAGAIN or errno == EINTR:
            return False
        give_up(which, errno)
        return True
    if header.usr_ptr != <void *>command or header.pack_id != which.pack_id:
        give_up(which, EPROTO)
        return True
    which.command = NULL
    take_header(&header, command)
    if which.bounced is not NULL:
        if command.direction == SG_IN:
            received = command.transfer_length
            if command.residual > 0:
                received -= min(<size_t>command.residual, received)
            scatter(command, which.bounced, received)
        bounce_settle(&which.bounce)
    return True


cdef bint feed(slot_table *table, borrowed *mine, int position, source *work, uint64_t now) noexcept nogil:
    """Queue the next command on an idle slot; False where none is left."""
    cdef slot *which = &table.slots[mine.slots[position]]
    cdef sg_command *command
    cdef int rc
    while work.following < work.count:
        command = &work.commands[work.following if work.indices is NULL else work.indices[work.following]]
        work.following += 1
        rc = queue(table, which, command, now)
        if rc == 0:
            mine.polled[position].fd = which.fd
            mine.in_flight += 1
            return True
        fail_command(command, -rc, SG_FATE_NOT_EXECUTED)
    return False


cdef void put_back(slot_table *table, borrowed *mine, int position) noexcept nogil:
    """Return an idle slot; the last one takes its place."""
    pthread_mutex_lock(&table.lock)
    table.free_slots[table.free_count] = mine.slots[position]
    table.free_count += 1
    pthread_cond_signal(&table.returned)
    pthread_mutex_unlock(&table.lock)
    mine.count -= 1
    mine.slots[position] = mine.slots[mine.count]
    mine.polled[position] = mine.polled[mine.count]


cdef void borrow(slot_table *table, borrowed *mine, int wanted) noexcept nogil:
    """Take up to ``wanted`` free slots, waiting for the first."""
    pthread_mutex_lock(&table.lock)
    table.waiting += 1
    while table.free_count == 0:
        pthread_cond_wait(&table.returned, &table.lock)
    table.waiting -= 1
    mine.count = 0
    mine.in_flight = 0
    while mine.count < wanted and table.free_count > 0:
        table.free_count -= 1
        mine.slots[mine.count] = table.free_slots[table.free_count]
        mine.polled[mine.count].fd = -1
        mine.polled[mine.count].events = POLLIN
        mine.count += 1
    pthread_mutex_unlock(&table.lock)


cdef void drive(slot_table *table, borrowed *mine, source *work) noexcept nogil:
    """Queue and reap until every command of ``work`` has its result."""
    cdef uint64_t now = sgio_now_ms()
    cdef slot *which = &table.slots[mine.slots[0]]
    cdef int polls_left = which.polls_left
    cdef int polls = which.polls
    cdef int position
    cdef int ready
    cdef int reaped
    cdef int missed
    cdef bint polled
    for position in range(mine.count):
        if not feed(table, mine, position, work, now):
            break
    while mine.in_flight > 0:
        # Where commands end before anyone can ask, reading at once saves the poll; where they do not, ask ever rarer.
        polled = polls_left > 0
        ready = poll(mine.polled, mine.count, RECHECK_MS) if polled else 1
        now = sgio_now_ms()
        reaped = 0
        missed = 0
        position = mine.count
        # Backwards, because put_back moves the last slot into the place of the one returned.
        while position > 0:
            position -= 1
            if mine.polled[position].fd < 0:
                continue
            which = &table.slots[mine.slots[position]]
            if ready <= 0 or (polled and mine.polled[position].revents == 0) or not reap(which):
                if now <= which.deadline:
                    missed += 1
                    continue
                give_up(which, ETIMEDOUT)
            reaped += 1
            mine.in_flight -= 1
            mine.polled[position].fd = -1
            # As long as there is work every slot held is in flight, so one is left to do it when others are returned.
            if mine.count > 1 and (sgio_load(&table.waiting) > 0 or work.following == work.count):
                put_back(table, mine, position)
            else:
                feed(table, mine, position, work, now)
        if polled:
            polls_left -= 1
            if reaped == 0 and ready > 0:
                # Hung up with commands still in flight: the kernel completes them while it removes the device.
                usleep(HUNG_UP_US)
        elif missed > reaped:
            polls = min(polls * 2, <int>MAX_POLLS)
            polls_left = polls
        else:
            polls = MIN_POLLS
    which = &table.slots[mine.slots[0]]
    which.polls_left = polls_left
    which.polls = polls


cdef int enter(slot_table *table) noexcept nogil:
    cdef int rc = 0
    if table is NULL:
        return -EBADF
    if table.forks != fork_generation():
        return -ESRCH
    pthread_mutex_lock(&table.lock)
    if table.closing:
        rc = -EBADF
    else:
        table.users += 1
    pthread_mutex_unlock(&table.lock)
    return rc


cdef void leave(slot_table *table) noexcept nogil:
    pthread_mutex_lock(&table.lock)
    table.users -= 1
    if table.closing:
        pthread_cond_broadcast(&table.drained)
    pthread_mutex_unlock(&table.lock)


cdef class AsyncEngine(Engine):
    cdef slot_table *table

    def __init__(self, path, int slots=16, *, label=None, int reserved_size=DEFAULT_RESERVED_SIZE,
                 grace_ms=DEFAULT_GRACE_MS):
        cdef slot_table *table
        cdef int i
        if self.table is not NULL:
            raise RuntimeError(f"{self.label}: the engine is already open")
        self.label = os.fspath(path) if label is None else label
        if not 1 <= slots <= MAX_SLOTS:
            raise ValueError(f"{slots} slots is not between 1 and {MAX_SLOTS}")
        if reserved_size < 0 or grace_ms < 0:
            raise ValueError("reserved_size and grace_ms cannot be negative")
        table = <slot_table *>calloc(1, sizeof(slot_table))
        if table is NULL:
            raise MemoryError
        pthread_mutex_init(&table.lock, NULL)
        pthread_cond_init(&table.returned, NULL)
        pthread_cond_init(&table.drained, NULL)
        table.closing = True  # until it is open
        table.forks = fork_generation()
        table.anchor = -1
        table.reserved_size = reserved_size
        table.grace_ms = grace_ms
        for i in range(MAX_SLOTS):
            table.slots[i].fd = -1
            table.slots[i].polls = MIN_POLLS
        self.table = table
        table.anchor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        for i in range(slots):
            table.slots[i].fd = open_slot(table)
            if table.slots[i].fd < 0:
                self._raise(table.slots[i].fd)
            table.free_slots[i] = i
            table.free_count += 1
        table.closing = False

    def _raise(self, int rc):
        self.close()
        raise OSError(-rc, f"{self.label}: cannot open a slot of the asynchronous engine: {os.strerror(-rc)}; "
                           "it needs a /dev/sgN node that is open for reading and writing")

    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil:
        cdef borrowed mine
        cdef source work
        cdef int rc = enter(self.table)
        if rc < 0:
            fail_all(commands, indices, n, -rc)
            return rc
        if n > 0:
            work.commands = commands
            work.indices = indices
            work.following = 0
            work.count = n
            borrow(self.table, &mine, min(n, <int>MAX_SLOTS))
            drive(self.table, &mine, &work)
            while mine.count > 0:
                put_back(self.table, &mine, mine.count - 1)
        leave(self.table)
        return 0

    def close(self):
        cdef slot_table *table = self.table
        cdef int i
        if table is NULL:
            return
        if table.forks == fork_generation():
            with nogil:
                pthread_mutex_lock(&table.lock)
                table.closing = True
                while table.users > 0:
                    pthread_cond_wait(&table.drained, &table.lock)
                pthread_mutex_unlock(&table.lock)
        for i in range(MAX_SLOTS):
            bounce_free(&table.slots[i].bounce)
            if table.slots[i].fd >= 0:
                close(table.slots[i].fd)
                table.slots[i].fd = -1
        if table.anchor >= 0:
            close(table.anchor)
            table.anchor = -1

    def __dealloc__(self):
        if self.table is not NULL:
            AsyncEngine.close(self)
            free(self.table)
