# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The worker's loop: look at everything, tell the guest, poll for a while, sleep until something happens."""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from _fastpath.dispatch cimport break_queue, empty_inbox, queue_notify, run_port, serve_queue
from _fastpath.guest_memory cimport guest_struck, memory_broken
from _fastpath.port cimport Port
from _fastpath.virtio_scsi cimport attached_unit, queue
from _fastpath.virtqueue cimport RING_MEMORY_GONE, vring_listen, vring_publish
from _fastpath.worker_state cimport pollfd, worker

cdef extern from "<poll.h>" nogil:
    int poll(pollfd *descriptors, unsigned long count, int timeout)
    enum:
        POLLIN, POLLERR, POLLHUP, POLLNVAL

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    enum:
        EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)
    void sgio_pause()
    void sgio_futex_wait(uint32_t *word, uint32_t seen)
    void sgio_futex_wake(uint32_t *word, int waiters)

cdef extern from "plane_atomic.h" nogil:
    void plane_fence()
    bint plane_empty(void **head)
    bint plane_clear(int descriptor)
    uint64_t plane_now_ns()

cdef enum:
    SPINS = 32  # looks at the rings between two looks at the clock
    MIN_WINDOW_NS = 2000


cdef void _publish(worker *self, queue *owner) noexcept nogil:
    if owner.ring.broken:
        return
    vring_publish(&owner.ring)
    if owner.ring.signalled != owner.ring.published or not owner.ring.signalled_valid:
        if queue_notify(owner, False):
            self.counts.notifications += 1


cdef void _look_at_memory(worker *self) noexcept nogil:
    """A page was missing somewhere in this process: break the queues whose guest cut its own memory short."""
    cdef int i
    cdef queue *each
    self.struck = guest_struck()
    for i in range(self.queue_count):
        each = self.queues[i]
        if each.memory is not NULL and not each.ring.broken and memory_broken(each.memory):
            each.ring.broken = RING_MEMORY_GONE
            break_queue(self, each)


cdef int worker_pass(worker *self) noexcept nogil:
    """Look at everything once; returns how much there was to do."""
    cdef int busy = empty_inbox(self)
    cdef uint64_t requests = self.counts.requests
    cdef attached_unit *unit
    cdef int i
    for i in range(self.queue_count):
        if self.queues[i].running:
            busy += serve_queue(self, self.queues[i])
    unit = self.ports
    while unit is not NULL:
        busy += run_port(self, unit)
        unit = unit.next_port
    if guest_struck() != self.struck:
        _look_at_memory(self)
    for i in range(self.queue_count):
        _publish(self, self.queues[i])
    self.counts.passes += 1
    self.counts.batches += self.counts.requests != requests
    sgio_store(&self.sweeps, self.sweeps + 1)
    return busy


cdef void _park(worker *self) noexcept nogil:
    """Stand still while Python changes what the worker looks at."""
    sgio_store(&self.parked, 1)
    sgio_futex_wake(&self.parked, 1)
    while sgio_load(&self.pause):
        sgio_futex_wait(&self.pause, 1)
    sgio_store(&self.parked, 0)


cdef void _hung_up(queue *owner, short events) noexcept nogil:
    if events & (POLLERR | POLLHUP | POLLNVAL):
        # The front end closed its side of the kick: nobody will ever kick again.
        owner.running = False
        owner.started = False


cdef bint _wait(worker *self, int timeout) noexcept nogil:
    """Sleep until somebody wakes the worker; returns whether it did sleep."""
    cdef attached_unit *unit
    cdef int used = 1
    cdef int wanted
    cdef int i
    self.polled[0].fd = self.sleep.wake
    self.polled[0].events = POLLIN
    for i in range(self.queue_count):
        self.polled[used].fd = self.queues[i].kick if self.queues[i].running else -1
        self.polled[used].events = POLLIN
        used += 1
    unit = self.ports
    while unit is not NULL and used < self.polled_room:
        if sgio_load(<uint32_t *>&unit.in_flight):
            wanted = (<Port>unit.port).watch(&self.polled[used].fd, &self.polled[used].events)
            if wanted >= 0 and (timeout < 0 or wanted < timeout):
                timeout = wanted
            used += 1
        unit = unit.next_port
    sgio_store(&self.sleep.sleeping, 1)
    plane_fence()
    if not plane_empty(&self.inbox) or sgio_load(&self.pause) or sgio_load(&self.stop):
        sgio_store(&self.sleep.sleeping, 0)
        return False
    self.counts.sleeps += 1
    if poll(self.polled, used, timeout) < 0:
        self.polled[0].revents = POLLIN
        used = 1
    sgio_store(&self.sleep.sleeping, 0)
    if self.polled[0].revents & POLLIN:
        plane_clear(self.sleep.wake)
    for i in range(min(self.queue_count, used - 1)):
        if self.polled[i + 1].revents & POLLIN:
            plane_clear(self.queues[i].kick)
            self.counts.kicks += 1
        elif self.polled[i + 1].revents:
            _hung_up(self.queues[i], self.polled[i + 1].revents)
    return True


cdef void _sleep(worker *self) noexcept nogil:
    """Ask for kicks, look once more, sleep."""
    cdef int timeout = -1
    cdef bint missed = False
    cdef uint64_t began
    cdef int i
    for i in range(self.queue_count):
        if self.queues[i].running:
            missed |= vring_listen(&self.queues[i].ring)
            if self.queues[i].kick < 0:
                timeout = 1  # a ring without a kick descriptor has to be looked at
    if missed:
        return
    began = plane_now_ns()
    if _wait(self, timeout) and plane_now_ns() - began < self.poll_ns:
        # Polling a little longer would have spared the sleep.
        self.window_ns = min(self.poll_ns, max(self.window_ns * 2, <uint64_t>MIN_WINDOW_NS))


cdef void worker_run(worker *self) noexcept nogil:
    """Serve until told to stop."""
    cdef uint64_t idle_since = 0
    cdef int spins = 0
    self.window_ns = self.poll_ns
    while not sgio_load(&self.stop):
        if sgio_load(&self.pause):
            _park(self)
            continue
        if worker_pass(self):
            idle_since = 0
            spins = 0
            continue
        sgio_pause()
        spins += 1
        if spins < SPINS and self.poll_ns:
            continue
        spins = 0
        if self.poll_ns:
            if idle_since == 0:
                idle_since = plane_now_ns()
                continue
            if plane_now_ns() - idle_since < self.window_ns:
                continue
            self.window_ns = max(self.window_ns >> 1, min(<uint64_t>MIN_WINDOW_NS, self.poll_ns))
        idle_since = 0
        _sleep(self)
    sgio_store(&self.ended, 1)
    sgio_futex_wake(&self.ended, 1)


cdef int worker_open(worker *self, int queue_room) noexcept nogil:
    """Make an idle worker for at most so many queues: 0, or a negative errno."""
    memset(self, 0, sizeof(worker))
    self.queue_room = queue_room
    self.polled_room = 1 + queue_room + 256
    self.queues = <queue **>calloc(queue_room, sizeof(queue *))
    self.polled = <pollfd *>calloc(self.polled_room, sizeof(pollfd))
    self.sleep.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if self.queues is NULL or self.polled is NULL or self.sleep.wake < 0:
        worker_close(self)
        return -ENOMEM
    self.struck = guest_struck()
    return 0


cdef void worker_close(worker *self) noexcept nogil:
    free(self.queues)
    free(self.polled)
    if self.sleep.wake >= 0:
        close(self.sleep.wake)
    self.queues = NULL
    self.polled = NULL
    self.sleep.wake = -1
