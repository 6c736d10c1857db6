# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Asynchronous pass-through for a worker: threads wait in ioctl(SG_IO), each on its own open file.

/dev/sdX maps the guest's pages into the host adapter: nothing is copied. Commands lie in a ring that the worker fills
and the threads empty; each thread has a ring of its own for what is done.
"""

from libc.errno cimport ENODEV
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from posix.signal cimport sigdelset, sigfillset, sigset_t
from posix.unistd cimport close

from _fastpath.sgio cimport SG_MAX_IOVECS, bounce_free, fork_generation, sg_command
from _fastpath.sgio_pool cimport execute_with
from _fastpath.sgio_sync cimport issue_v3

import fcntl
import os
import stat

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, void *attributes, void *(*start)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **value)

cdef extern from "<signal.h>" nogil:
    int SIG_SETMASK, SIGBUS, SIGSEGV, SIGFPE, SIGILL
    int pthread_sigmask(int how, const sigset_t *new, sigset_t *old)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)
    uint32_t sgio_add(uint32_t *word, uint32_t value)
    bint sgio_swap(uint32_t *word, uint32_t expected, uint32_t desired)
    void *sgio_load_pointer(void **word)
    void sgio_store_pointer(void **word, void *value)
    void sgio_pause()
    void sgio_futex_wait(uint32_t *word, uint32_t seen)
    void sgio_futex_wake(uint32_t *word, int waiters)

cdef extern from "plane_atomic.h" nogil:
    bint plane_signal(int descriptor)
    bint plane_clear(int descriptor)

cdef enum:
    MASK = PORT_ROOM - 1
    SPIN = 256  # pauses before a thread without work sleeps

MAX_PORT_THREADS = PORT_THREADS


cdef sg_command *_claim(port_state *self) noexcept nogil:
    """The next command, NULL where there is none."""
    cdef sg_command *one
    cdef uint32_t head
    while True:
        head = sgio_load(&self.head)
        if head == sgio_load(&self.tail):
            return NULL
        # Read before it is claimed: from then on the worker may use the place again.
        one = <sg_command *>sgio_load_pointer(<void **>&self.commands[head & MASK])
        if sgio_swap(&self.head, head, head + 1):
            return one


cdef void _complete(port_thread *own, sg_command *one) noexcept nogil:
    cdef port_state *port = <port_state *>own.owner
    own.done[own.done_tail & MASK] = one
    sgio_store(&own.done_tail, own.done_tail + 1)
    if sgio_load(&port.watching) and sgio_swap(&port.watching, 1, 0):
        plane_signal(port.bell)


cdef void *_work(void *argument) noexcept nogil:
    cdef port_thread *own = <port_thread *>argument
    cdef port_state *port = <port_state *>own.owner
    cdef sg_command *one
    cdef uint32_t seen
    cdef int spin = 0
    while True:
        seen = sgio_load(&port.tail)
        one = _claim(port)
        if one is not NULL:
            execute_with(issue_v3, SG_MAX_IOVECS, port.maps_pages, &own.self, one)
            _complete(own, one)
            spin = 0
            continue
        if sgio_load(&port.stop):
            return NULL
        if spin < SPIN:
            sgio_pause()
            spin += 1
            continue
        sgio_add(&port.parked, 1)
        sgio_futex_wait(&port.tail, seen)
        sgio_add(&port.parked, <uint32_t>-1)
        spin = 0


cdef class SgPort(Port):
    def __init__(self, int fd, int threads=4, *, label=None):
        cdef sigset_t most
        cdef sigset_t before
        cdef port_state *state
        cdef int i
        cdef int rc = 0
        if self.state is not NULL:
            raise RuntimeError(f"{self.label}: the port is open already")
        if not 1 <= threads <= PORT_THREADS:
            raise ValueError(f"{threads} threads is not between 1 and {PORT_THREADS}")
        self.label = f"descriptor {fd}" if label is None else label
        self.forks = fork_generation()
        character = stat.S_ISCHR(os.fstat(fd).st_mode)
        state = <port_state *>calloc(1, sizeof(port_state))
        if state is NULL:
            raise MemoryError
        self.state = state
        state.maps_pages = not character
        state.bell = -1
        for i in range(PORT_THREADS):
            state.workers[i].owner = state
            state.workers[i].self.fd = -1
        state.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for i in range(threads):
            state.workers[i].self.fd = _descriptor(fd, character)
        # A signal during SG_IO on /dev/sgN orphans the command; those that tell of a fault in the thread itself pass,
        # above all SIGBUS where a guest cut its memory short.
        sigfillset(&most)
        sigdelset(&most, SIGBUS)
        sigdelset(&most, SIGSEGV)
        sigdelset(&most, SIGFPE)
        sigdelset(&most, SIGILL)
        pthread_sigmask(SIG_SETMASK, &most, &before)
        for i in range(threads):
            rc = pthread_create(&state.workers[i].thread, NULL, _work, &state.workers[i])
            if rc != 0:
                break
            state.threads += 1
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if rc != 0:
            self.close()
            raise OSError(rc, f"{self.label}: cannot start thread {state.threads + 1}: {os.strerror(rc)}")

    cdef int start(self, sg_command **commands, int n) noexcept nogil:
        cdef port_state *state = self.state
        cdef uint32_t parked
        cdef int accepted = 0
        if state is NULL or sgio_load(&state.stop) or self.forks != fork_generation():
            return -ENODEV
        while accepted < n and state.outstanding < PORT_ROOM:
            sgio_store_pointer(<void **>&state.commands[(state.tail + <uint32_t>accepted) & MASK], commands[accepted])
            accepted += 1
            state.outstanding += 1
        if accepted:
            sgio_store(&state.tail, state.tail + <uint32_t>accepted)
            parked = sgio_load(&state.parked)
            if parked:
                sgio_futex_wake(&state.tail, min(<int>parked, accepted))
        return accepted

    cdef int reap(self, sg_command **done, int room) noexcept nogil:
        cdef port_state *state = self.state
        cdef port_thread *one
        cdef uint32_t tail
        cdef int count = 0
        cdef int i
        if state is NULL:
            return 0
        for i in range(state.threads):
            one = &state.workers[i]
            tail = sgio_load(&one.done_tail)
            while one.done_head != tail and count < room:
                done[count] = one.done[one.done_head & MASK]
                one.done_head += 1
                count += 1
        state.outstanding -= <uint32_t>count
        return count

    cdef int watch(self, int *descriptor, short *events) noexcept nogil:
        cdef port_state *state = self.state
        cdef int i
        descriptor[0] = -1
        events[0] = POLLIN
        if state is NULL:
            return -1
        descriptor[0] = state.bell
        plane_clear(state.bell)
        sgio_store(&state.watching, 1)
        # What was done before it was watched for rings no more.
        for i in range(state.threads):
            if sgio_load(&state.workers[i].done_tail) != state.workers[i].done_head:
                return 0
        return -1

    def close(self):
        """End the threads after the commands they have; safe to repeat."""
        cdef port_state *state = self.state
        cdef int i
        if state is NULL or sgio_load(&state.stop):
            return
        sgio_store(&state.stop, 1)
        if self.forks == fork_generation():  # in a forked child the threads are the parent's
            with nogil:
                for i in range(state.threads):
                    # tail is what they sleep on; it must not move, so they are woken until they have gone.
                    sgio_futex_wake(&state.tail, PORT_THREADS)
                    while sgio_load(&state.parked):
                        sgio_futex_wake(&state.tail, PORT_THREADS)
                        sgio_pause()
                    pthread_join(state.workers[i].thread, NULL)
        for i in range(PORT_THREADS):
            bounce_free(&state.workers[i].self.bounce)
            if state.workers[i].self.fd >= 0:
                close(state.workers[i].self.fd)
                state.workers[i].self.fd = -1
        if state.bell >= 0:
            close(state.bell)
            state.bell = -1

    def __dealloc__(self):
        if self.state is not NULL:
            SgPort.close(self)
            free(self.state)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _descriptor(int fd, bint own):
    """A descriptor for one thread: its own open file of /dev/sgN, since each has one reserved buffer."""
    if own:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        try:
            return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            pass  # no /proc, or opened O_EXCL elsewhere: slower, not wrong
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
