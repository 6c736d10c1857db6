# cython: language_level=3
"""A pool of pthreads that execute blocking system calls without the GIL.

The thread that submits works too, so a batch of one wakes nobody. Several batches may run at once: each sits in a job
slot, workers claim single commands from all of them.
"""

from libc.errno cimport EBADF, EFAULT, EINTR, EINVAL, ENOMEM, ESRCH
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.signal cimport sigset_t, sigfillset
from posix.unistd cimport close

from _fastpath.sgio cimport (
    SG_FATE_NOT_EXECUTED, SG_FATE_UNKNOWN, SG_IN, SG_OUT, Engine, bounce_free, bounce_settle, bounce_take,
    check_command, fail_all, fail_command, fork_generation, gather, scatter, sg_command,
)

import fcntl
import os

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, void *attributes, void *(*start)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **value)

cdef extern from "<signal.h>" nogil:
    int SIG_SETMASK
    int pthread_sigmask(int how, const sigset_t *new, sigset_t *old)

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)
    uint32_t sgio_add(uint32_t *word, uint32_t value)
    bint sgio_swap(uint32_t *word, uint32_t expected, uint32_t desired)
    uint64_t sgio_load64(const uint64_t *word)
    void sgio_store64(uint64_t *word, uint64_t value)
    bint sgio_swap64(uint64_t *word, uint64_t expected, uint64_t desired)
    void *sgio_load_pointer(void **word)
    void sgio_store_pointer(void **word, void *value)
    void sgio_pause()
    void sgio_futex_wait(uint32_t *word, uint32_t seen)
    void sgio_futex_wake(uint32_t *word, int waiters)

cdef enum:
    CALLERS = 8  # batches that workers help at once; further callers run theirs alone
    MAX_THREADS = 64
    MIN_SPIN = 16
    MAX_SPIN = 1024  # pauses, some tens of microseconds: about what waking a parked thread costs
    CALLER_SPIN = 256

MAX_POOL_THREADS = MAX_THREADS

cdef uint64_t _NOTHING_TO_CLAIM = 0xFFFFFFFF


cdef struct worker:
    pool *owner
    pthread_t thread
    participant self


cdef struct pool:
    issue_call issue
    uint32_t max_iovecs
    bint maps_pages
    bint mask_signals
    unsigned int forks
    int workers_started
    int shared_fd
    uint32_t users
    uint32_t closing
    uint32_t stop
    uint32_t wake
    uint32_t parked
    pool_job jobs[CALLERS]
    worker workers[MAX_THREADS]


cdef inline bint in_pieces(const sg_command *command) noexcept nogil:
    """Whether a target may be given the command's data in several pieces.

    Nodes that map the caller's pages hand the pieces to the host adapter as they are. The kernel's own target (LIO,
    reached by tcm_loop) takes the parameter data of other commands than these for contiguous pages: it would read
    beyond the first piece, or write over whatever lies behind it.
    """
    # READ and WRITE of 6, 10, 16 and 12 bytes, WRITE AND VERIFY of 10, 16 and 12.
    return command.cdb[0] in (0x08, 0x0A, 0x28, 0x2A, 0x88, 0x8A, 0xA8, 0xAA, 0x2E, 0x8E, 0xAE)


cdef void execute_with(
    issue_call issue, uint32_t max_iovecs, bint maps_pages, participant *who, sg_command *command
) noexcept nogil:
    cdef bint bounced = command.iovec_count > max_iovecs or (
        maps_pages and command.iovec_count > 1 and not in_pieces(command))
    cdef void *bounce = NULL
    cdef size_t received
    cdef int rc = check_command(command)
    if rc == 0 and bounced:
        bounce = bounce_take(&who.bounce, command.transfer_length)
        if bounce is NULL:
            rc = -ENOMEM
        elif command.direction == SG_OUT:
            gather(command, bounce)
    if rc == 0:
        rc = issue(who.fd, command, bounce)
        if rc == -EINVAL and bounce is NULL and maps_pages and command.transfer_length > 0:
            # Scattered or unaligned buffers can need more segments than the host takes; EINVAL precedes queuing.
            bounce = bounce_take(&who.bounce, command.transfer_length)
            if bounce is not NULL:
                if command.direction == SG_OUT:
                    gather(command, bounce)
                rc = issue(who.fd, command, bounce)
    if rc == 0 and bounce is not NULL and command.direction == SG_IN:
        received = command.transfer_length
        if command.residual > 0:
            received -= min(<size_t>command.residual, received)
        scatter(command, bounce, received)
    if bounce is not NULL:
        bounce_settle(&who.bounce)
    if rc < 0:
        # EINTR orphans a queued command; EFAULT can come from copying its data back.
        fail_command(command, -rc, SG_FATE_UNKNOWN if rc == -EINTR or rc == -EFAULT else SG_FATE_NOT_EXECUTED)


cdef void execute(pool *self, participant *who, sg_command *command) noexcept nogil:
    execute_with(self.issue, self.max_iovecs, self.maps_pages, who, command)


cdef uint32_t help_with(pool *self, pool_job *job, participant *who) noexcept nogil:
    """Claim and execute commands of the job until none is left; returns how many."""
    cdef uint32_t executed = 0
    cdef uint64_t cursor
    cdef uint32_t following
    cdef sg_command *commands
    cdef const int *indices
    while True:
        cursor = sgio_load64(&job.cursor)
        following = <uint32_t>cursor
        if following >= sgio_load(&job.count):
            return executed
        commands = <sg_command *>sgio_load_pointer(<void **>&job.commands)
        indices = <const int *>sgio_load_pointer(<void **>&job.indices)
        if not sgio_swap64(&job.cursor, cursor, cursor + 1):
            continue
        execute(self, who, &commands[following if indices is NULL else <uint32_t>indices[following]])
        executed += 1


cdef void account(pool_job *job, uint32_t executed) noexcept nogil:
    """Tell the job's caller that a worker finished commands of it."""
    cdef uint32_t total = sgio_load(&job.count)  # before the addition: afterwards the job may be another's
    if sgio_add(&job.done, executed) + executed == total and sgio_load(&job.waiting):
        sgio_futex_wake(&job.done, 1)


cdef void *work(void *argument) noexcept nogil:
    cdef worker *me = <worker *>argument
    cdef pool *self = me.owner
    cdef uint32_t seen
    cdef uint32_t executed
    cdef int spin = MIN_SPIN
    cdef int left
    cdef int i
    cdef bint worked
    while True:
        seen = sgio_load(&self.wake)
        if sgio_load(&self.stop):
            return NULL
        worked = False
        for i in range(CALLERS):
            executed = help_with(self, &self.jobs[i], &me.self)
            if executed:
                account(&self.jobs[i], executed)
                worked = True
        if worked:
            continue
        left = spin
        while left > 0 and sgio_load(&self.wake) == seen:
            sgio_pause()
            left -= 1
        if sgio_load(&self.wake) != seen:
            spin = min(spin * 2, <int>MAX_SPIN)
            continue
        spin = max(spin // 2, <int>MIN_SPIN)
        sgio_add(&self.parked, 1)
        sgio_futex_wait(&self.wake, seen)
        sgio_add(&self.parked, <uint32_t>-1)


cdef pool_job *take_job(pool *self) noexcept nogil:
    cdef int i
    for i in range(CALLERS):
        if sgio_load(&self.jobs[i].busy) == 0 and sgio_swap(&self.jobs[i].busy, 0, 1):
            return &self.jobs[i]
    return NULL


cdef void run_alone(pool *self, participant *who, sg_command *commands, const int *indices, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        execute(self, who, &commands[i if indices is NULL else indices[i]])


cdef void run_together(pool *self, pool_job *job, sg_command *commands, const int *indices, int n) noexcept nogil:
    cdef uint32_t total = <uint32_t>n
    cdef uint32_t executed
    cdef uint32_t done
    cdef uint32_t parked
    cdef int spin = CALLER_SPIN
    cdef uint64_t generation = sgio_load64(&job.cursor) >> 32
    # While the job is rewritten it offers nothing: the next index is beyond every count.
    sgio_store64(&job.cursor, (generation << 32) | _NOTHING_TO_CLAIM)
    sgio_store_pointer(<void **>&job.commands, commands)
    sgio_store_pointer(<void **>&job.indices, <void *>indices)
    sgio_store(&job.waiting, 0)
    sgio_store(&job.done, 0)
    sgio_store(&job.count, total)
    sgio_store64(&job.cursor, (generation + 1) << 32)
    sgio_add(&self.wake, 1)
    parked = sgio_load(&self.parked)
    if parked > 0:
        sgio_futex_wake(&self.wake, <int>min(parked, total - 1))
    executed = help_with(self, job, &job.caller)
    sgio_add(&job.done, executed)
    while spin > 0:
        if sgio_load(&job.done) == total:
            return
        sgio_pause()
        spin -= 1
    sgio_store(&job.waiting, 1)
    while True:
        done = sgio_load(&job.done)
        if done == total:
            return
        sgio_futex_wait(&job.done, done)


cdef int enter(pool *self) noexcept nogil:
    if self is NULL:
        return -EBADF
    if self.forks != fork_generation():
        return -ESRCH
    sgio_add(&self.users, 1)
    if sgio_load(&self.closing):
        leave(self)
        return -EBADF
    return 0


cdef void leave(pool *self) noexcept nogil:
    if sgio_add(&self.users, <uint32_t>-1) == 1 and sgio_load(&self.closing):
        sgio_futex_wake(&self.users, 64)


cdef class PoolEngine(Engine):
    cdef int start(self, int fd, int threads, issue_call issue, uint32_t max_iovecs, bint own_descriptors,
                   bint mask_signals) except -1:
        cdef sigset_t every
        cdef sigset_t before
        cdef pool *state
        cdef int i
        cdef int rc = 0
        if self.state is not NULL:
            raise RuntimeError(f"{self.label}: the engine is already open")
        if not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"{threads} threads is not between 1 and {MAX_THREADS}")
        state = <pool *>calloc(1, sizeof(pool))
        if state is NULL:
            raise MemoryError
        state.issue = issue
        state.max_iovecs = max_iovecs
        state.maps_pages = not own_descriptors
        state.mask_signals = mask_signals
        state.forks = fork_generation()
        state.shared_fd = -1
        for i in range(CALLERS):
            state.jobs[i].caller.fd = -1
        for i in range(MAX_THREADS):
            state.workers[i].self.fd = -1
            state.workers[i].owner = state
        self.state = state
        state.shared_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        for i in range(CALLERS):
            state.jobs[i].caller.fd = self._descriptor(own_descriptors)
        for i in range(threads - 1):
            state.workers[i].self.fd = self._descriptor(own_descriptors)
        # Workers inherit a full mask: a signal during SG_IO on /dev/sgN orphans the command, and with an SA_RESTART
        # handler the kernel would issue it a second time.
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &before)
        for i in range(threads - 1):
            rc = pthread_create(&state.workers[i].thread, NULL, work, &state.workers[i])
            if rc != 0:
                break
            state.workers_started += 1
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if rc != 0:
            self.close()
            raise OSError(rc, f"{self.label}: cannot start thread {i + 1}: {os.strerror(rc)}")
        return 0

    def _descriptor(self, bint own):
        """A descriptor for one thread: its own open file where possible, since each has one reserved buffer."""
        cdef int shared = self.state.shared_fd
        if own:
            flags = fcntl.fcntl(shared, fcntl.F_GETFL) & os.O_ACCMODE
            try:
                return os.open(f"/proc/self/fd/{shared}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                pass  # no /proc, or opened O_EXCL elsewhere: slower, not wrong
        return fcntl.fcntl(shared, fcntl.F_DUPFD_CLOEXEC, 3)

    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil:
        cdef pool *state = self.state
        cdef pool_job *job
        cdef participant alone
        cdef sigset_t every
        cdef sigset_t before
        cdef int rc = enter(state)
        if rc < 0:
            fail_all(commands, indices, n, -rc)
            return rc
        if state.mask_signals:
            sigfillset(&every)
            pthread_sigmask(SIG_SETMASK, &every, &before)
        job = take_job(state)
        if job is NULL:
            alone.fd = state.shared_fd
            alone.bounce.data = NULL
            alone.bounce.size = 0
            run_alone(state, &alone, commands, indices, n)
            bounce_free(&alone.bounce)
        else:
            if n == 1 or state.workers_started == 0:
                run_alone(state, &job.caller, commands, indices, n)
            elif n > 1:
                run_together(state, job, commands, indices, n)
            sgio_store(&job.busy, 0)
        if state.mask_signals:
            pthread_sigmask(SIG_SETMASK, &before, NULL)
        leave(state)
        return 0

    def close(self):
        cdef pool *state = self.state
        cdef bint ours
        cdef int i
        cdef uint32_t users
        if state is NULL or not sgio_swap(&state.closing, 0, 1):
            return
        ours = state.forks == fork_generation()  # after a fork the threads and the callers are the parent's
        if ours:
            with nogil:
                while True:
                    users = sgio_load(&state.users)
                    if users == 0:
                        break
                    sgio_futex_wait(&state.users, users)
                sgio_store(&state.stop, 1)
                sgio_add(&state.wake, 1)
                sgio_futex_wake(&state.wake, MAX_THREADS)
                for i in range(state.workers_started):
                    pthread_join(state.workers[i].thread, NULL)
        for i in range(MAX_THREADS):
            _let_go(&state.workers[i].self)
        for i in range(CALLERS):
            _let_go(&state.jobs[i].caller)
        if state.shared_fd >= 0:
            close(state.shared_fd)
            state.shared_fd = -1

    def __dealloc__(self):
        if self.state is not NULL:
            PoolEngine.close(self)
            free(self.state)


cdef void _let_go(participant *who) noexcept nogil:
    bounce_free(&who.bounce)
    if who.fd >= 0:
        close(who.fd)
        who.fd = -1
