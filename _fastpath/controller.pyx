# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""One guest's virtio-scsi controller as the front end commands it: memory, queues, units, workers.

Workers read everything here without locks. Whoever changes something makes them stand still first, for the
microseconds that takes; what must not be in use is drained before.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close, usleep

from _fastpath.block_port cimport BlockPort
from _fastpath.dispatch cimport queue_notify, wake
from _fastpath.port cimport Port
from _fastpath.verdict cimport Verdicts
from _fastpath.virtio_scsi cimport (
    DEFAULT_TIMEOUT_MS, EVENT_BYTES, EVENT_QUEUE, FIRST_REQUEST_QUEUE, REQUEST_BYTES, REQUEST_BYTES_T10_PI, UNIT_BLOCKS,
    UNIT_PORT, UNIT_PYTHON, queue_close, queue_deliver, queue_open,
)
from _fastpath.virtqueue cimport MAX_QUEUE_SIZE, RING_MEMORY_GONE
from _fastpath.worker cimport worker_close, worker_open, worker_pass, worker_run
from _fastpath.traffic cimport unit_traffic
from _fastpath.worker_state cimport worker_counts
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer

import os
import threading
import time

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    enum:
        EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)

cdef extern from "plane_atomic.h" nogil:
    uint64_t plane_now_ns()
    void sgio_store(uint32_t *word, uint32_t value)
    void sgio_futex_wait(uint32_t *word, uint32_t seen)
    void sgio_futex_wake(uint32_t *word, int waiters)

F_HOTPLUG = 1 << 1
F_CHANGE = 1 << 2
F_T10_PI = 1 << 3
F_LOG_ALL = 1 << 26
F_ANY_LAYOUT = 1 << 27
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
FEATURES = F_HOTPLUG | F_CHANGE | F_LOG_ALL | F_ANY_LAYOUT | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1

EVENTS_MISSED = 1 << 31
DEFAULT_POLL_US = 50

# The members of worker_counts, in order.
_COUNTS = (
    "requests", "inline", "port", "python", "bytes_in", "bytes_out", "malformed", "kicks", "notifications", "sleeps",
    "passes",
    "batches",
)
assert len(_COUNTS) * sizeof(uint64_t) == sizeof(worker_counts)


cdef void _free_unit(attached_unit *unit) noexcept:
    free(unit.traffic)
    free(unit)


cdef tuple _traffic(const unit_traffic *counted, int workers):
    """Sum what the workers have counted, in the order of the struct."""
    cdef const uint64_t *numbers
    cdef int count = sizeof(unit_traffic) // sizeof(uint64_t)
    cdef int worker_number
    cdef int i
    total = [0] * count
    for worker_number in range(workers):
        numbers = <const uint64_t *>&counted[worker_number]
        for i in range(count):
            total[i] += numbers[i]
    return tuple(total)


cdef enum:
    T10_PI_BIT = 3
    LOG_ALL_BIT = 26
    INDIRECT_BIT = 28
    EVENT_IDX_BIT = 29


cdef void _wait_for(const uint32_t *word, uint32_t wanted) noexcept nogil:
    cdef unsigned int pause = 5
    while sgio_load(word) != wanted:
        usleep(pause)
        if pause < 500:
            pause *= 2


cdef void _close(int descriptor) noexcept nogil:
    if descriptor >= 0:
        close(descriptor)


def _owned(descriptor):
    """Make a descriptor that came with a message ours: neither side of it may ever block a worker."""
    if descriptor >= 0:
        os.set_blocking(descriptor, False)
    return descriptor


cdef class Controller:
    def __cinit__(self, handler, int queues, *, int poll_us=DEFAULT_POLL_US, int workers=1):
        cdef int i
        if not FIRST_REQUEST_QUEUE < queues <= MAX_QUEUES:
            raise ValueError(f"a controller has {FIRST_REQUEST_QUEUE + 1} to {MAX_QUEUES} queues, not {queues}")
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"{workers} workers is not between 1 and {MAX_WORKERS}")
        if not 0 <= poll_us <= 1_000_000:
            raise ValueError(f"polling for {poll_us} microseconds is not between 0 and a second")
        self.lock = threading.RLock()
        self.ports = {}
        self.threads = []
        self.memory = GuestMemory()
        self.queue_count = queues
        self.workers = <worker *>calloc(workers, sizeof(worker))
        if self.workers is NULL:
            raise MemoryError
        self.service = Service()
        self.service.handler = handler
        self.service.side.sleep.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        for i in range(workers):
            self.worker_count = i + 1
            if worker_open(&self.workers[i], queues) < 0 or self.service.side.sleep.wake < 0:
                raise OSError("no memory or descriptors for another guest's worker; raise its limits")
            self.workers[i].python = &self.service.side
            self.workers[i].units = &self.units
            self.workers[i].poll_ns = <uint64_t>poll_us * 1000
            self.workers[i].number = i
        self.service.workers = self.workers
        self.service.worker_count = workers
        self.service.units = &self.units
        self.service.queues = self.queues
        self.service.queue_count = queues

    def __init__(self, handler, queues, *, poll_us=DEFAULT_POLL_US, workers=1):
        for number in range(self.worker_count):
            self._spawn(f"worker-{number}", self._work, number)
        self._spawn("plane-service", self.service.run)

    def _spawn(self, name, target, *arguments):
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _work(self, int number):
        cdef worker *own = &self.workers[number]
        with nogil:
            worker_run(own)

    def __dealloc__(self):
        cdef attached_unit *unit
        cdef int i
        for i in range(self.queue_count):
            if self.queues[i] is not NULL:
                queue_close(self.queues[i])
                free(self.queues[i])
        if self.workers is not NULL:
            for i in range(self.worker_count):
                worker_close(&self.workers[i])
            free(self.workers)
        while self.units is not NULL:
            unit = self.units
            self.units = unit.following
            _free_unit(unit)
        if self.service is not None:
            _close(self.service.side.sleep.wake)

    # --- standing still ---

    cdef void _pause(self) noexcept:
        """Make every worker stand still between two passes: nothing is half done, everything is published."""
        cdef int i
        with nogil:
            for i in range(self.worker_count):
                sgio_store(&self.workers[i].pause, 1)
                wake(&self.workers[i].sleep)
            for i in range(self.worker_count):
                if not sgio_load(&self.workers[i].ended):
                    _wait_for(&self.workers[i].parked, 1)

    cdef void _resume(self) noexcept:
        cdef int i
        with nogil:
            for i in range(self.worker_count):
                sgio_store(&self.workers[i].pause, 0)
                sgio_futex_wake(&self.workers[i].pause, 1)
            for i in range(self.worker_count):
                if not sgio_load(&self.workers[i].ended):
                    _wait_for(&self.workers[i].parked, 0)

    cdef void _drain(self, queue *one) noexcept:
        """Wait until every request that was taken is answered; the queue takes no more."""
        with nogil:
            _wait_for(&one.in_flight, 0)

    def hold(self):
        self.lock.acquire()
        self._pause()
        self.held = True

    def step(self, int number=0):
        cdef int busy
        if not self.held or not 0 <= number < self.worker_count:
            raise RuntimeError("only a worker that is held can be stepped")
        with nogil:
            busy = worker_pass(&self.workers[number])
        return busy

    def release(self):
        self.held = False
        self._resume()
        self.lock.release()

    # --- the serve gate ---

    def shut_gate(self):
        self._check_caller()
        with self.lock:
            self.shut = True
            self._run_what_may()

    def open_gate(self):
        cdef int i
        self._check_caller()
        with self.lock:
            self.shut = False
            self._run_what_may()
            for i in range(self.worker_count):
                wake(&self.workers[i].sleep)

    def drain_gate(self, double seconds):
        self._check_caller()
        deadline = time.monotonic() + seconds
        while True:
            # Whoever stops a queue holds the lock until that queue's requests have ended.
            if not self.lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
                return False
            try:
                if self._in_flight() == 0:
                    self._pause()  # what was answered last is published before a worker stands still
                    self._resume()
                    return True
            finally:
                self.lock.release()
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)

    cdef uint32_t _in_flight(self) noexcept:
        cdef uint32_t total = 0
        cdef int i
        for i in range(self.queue_count):
            if self.queues[i] is not NULL and i != EVENT_QUEUE:
                total += sgio_load(&self.queues[i].in_flight)
        return total

    cdef void _run_what_may(self) noexcept:
        cdef int i
        self._pause()
        for i in range(self.queue_count):
            if self.queues[i] is not NULL:
                self._set_running(self.queues[i])
        self._resume()

    def _check_caller(self):
        if threading.current_thread() in self.threads:
            raise RuntimeError("a handler cannot wait for the requests it is itself needed for; use another thread")

    # --- memory, log, features ---

    def set_memory(self, GuestMemory memory):
        cdef queue *one
        cdef int i
        self._check_caller()
        memory = GuestMemory() if memory is None else memory
        with self.lock:
            self._pause()
            for i in range(self.queue_count):
                if self.queues[i] is not NULL:
                    self.queues[i].running = False
            self._resume()
            for i in range(self.queue_count):
                if self.queues[i] is not NULL:
                    self._drain(self.queues[i])
            self._pause()
            lost = []
            self.memory = memory
            for i in range(self.queue_count):
                one = self.queues[i]
                if one is not NULL:
                    if not self._place(one, i):
                        lost.append(i)
                        one.ring.broken = RING_MEMORY_GONE
                    self._apply(one)
                    self._set_running(one)
            self._resume()
        if lost:
            raise ValueError(f"queues {lost} are not in the new memory and were stopped for good")

    def set_log(self, DirtyLog log):
        cdef int i
        with self.lock:
            self._pause()
            before, self.log = self.log, log
            for i in range(self.queue_count):
                if self.queues[i] is not NULL:
                    self._apply(self.queues[i])
            self._resume()
            del before  # unmapped only now

    def set_features(self, uint64_t features):
        cdef int i
        with self.lock:
            self._pause()
            self.features = features
            for i in range(self.worker_count):
                self.workers[i].t10_pi = features >> T10_PI_BIT & 1
            for i in range(self.queue_count):
                if self.queues[i] is not NULL:
                    self._apply(self.queues[i])
            self._resume()

    cdef void _apply(self, queue *one) noexcept:
        """Bring a queue level with memory, features and log; workers stand still."""
        cdef bint logging = self.features >> LOG_ALL_BIT & 1 and self.log is not None
        one.memory = &self.memory.table
        one.ring.event_index = self.features >> EVENT_IDX_BIT & 1
        one.ring.indirect = self.features >> INDIRECT_BIT & 1
        one.ring.log = &self.log.log if logging else NULL
        one.ring.used_log = &self.log.log if logging and one.used_logged else NULL
        one.header_bytes = 0
        if one.index >= FIRST_REQUEST_QUEUE:
            one.header_bytes = REQUEST_BYTES_T10_PI if self.features >> T10_PI_BIT & 1 else REQUEST_BYTES

    cdef bint _place(self, queue *one, int index) noexcept:
        """Find the ring in memory; False where it is not all there."""
        cdef uint64_t size = one.ring.size
        one.ring.descriptors = self.memory.user_pointer(self.addresses[index].descriptors, 16 * size)
        one.ring.available = self.memory.user_pointer(self.addresses[index].available, 6 + 2 * size)
        one.ring.used = self.memory.user_pointer(self.addresses[index].used, 6 + 8 * size)
        return one.ring.descriptors is not NULL and one.ring.available is not NULL and one.ring.used is not NULL

    # --- requests in flight across a restart ---

    def get_inflight(self, int queues, int queue_size):
        with self.lock:
            self.inflight = InflightRegion.create(queues, queue_size)
            return self.inflight.descriptor, self.inflight.offset, self.inflight.size

    def set_inflight(self, descriptor, uint64_t offset, uint64_t size, int queues, int queue_size):
        with self.lock:
            self.inflight = InflightRegion(descriptor, offset, size, queues, queue_size)

    def drop_inflight(self):
        with self.lock:
            for index in range(self.queue_count):
                if self.queues[index] is not NULL:
                    raise ValueError(f"queue {index} is started and may use the inflight region")
            self.inflight = None

    # --- queues ---

    cdef queue *_started(self, int index) except NULL:
        if not 0 <= index < self.queue_count or self.queues[index] is NULL:
            raise ValueError(f"queue {index} is not started")
        return self.queues[index]

    cdef worker *_worker_of(self, int index) noexcept:
        return &self.workers[max(index - FIRST_REQUEST_QUEUE, 0) % self.worker_count]

    cdef void _set_running(self, queue *one) noexcept:
        one.enabled = self.enabled[one.index]
        one.running = one.started and one.enabled and not one.ring.broken and not one.stopping
        if self.shut and one.index != EVENT_QUEUE:
            one.running = False

    def start_queue(self, int index, *, int size, uint64_t descriptor_address, uint64_t available_address,
                    uint64_t used_address, used_log_address=None, int base=0, int kick=-1, int call=-1, int error=-1):
        cdef queue *one = NULL
        cdef worker *own
        cdef int recovered = 0
        if not 0 <= index < self.queue_count:
            raise ValueError(f"there is no queue {index}, the controller has {self.queue_count}")
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise ValueError(f"queue {index}: a size of {size} is not a power of two up to {MAX_QUEUE_SIZE}")
        if descriptor_address % 16 or available_address % 2 or used_address % 4:
            raise ValueError(f"queue {index}: its rings are not aligned to 16, 2 and 4 bytes")
        with self.lock:
            if self.closed:
                raise ValueError("the controller is closed")
            if self.queues[index] is not NULL:
                raise ValueError(f"queue {index} is started already")
            if self.inflight is not None and (index >= self.inflight.queues or size > self.inflight.queue_size):
                raise ValueError(f"queue {index} of {size} descriptors has no room in the inflight region")
            one = <queue *>calloc(1, sizeof(queue))
            if one is NULL or queue_open(one, index, <uint16_t>size) < 0:
                free(one)
                raise MemoryError
            self.addresses[index].descriptors = descriptor_address
            self.addresses[index].available = available_address
            self.addresses[index].used = used_address
            if not self._place(one, index):
                queue_close(one)
                free(one)
                raise ValueError(f"queue {index}: its rings are not in the guest's memory, each in one piece")
            one.units = &self.units
            one.used_logged = used_log_address is not None
            one.ring.used_address = used_log_address or 0
            one.ring.last_available = one.ring.used_index = one.ring.published = one.ring.signalled = <uint16_t>base
            if self.inflight is not None:
                recovered = self.inflight.attach(&one.ring, index, one.recovered)
                one.recovered_count = max(recovered, 0)
            one.kick, one.call, one.error = _owned(kick), _owned(call), _owned(error)
            one.started = True
            self._apply(one)
            self._set_running(one)
            own = self._worker_of(index)
            one.worker = own
            self._pause()
            self.queues[index] = one
            if index != EVENT_QUEUE:
                own.queues[own.queue_count] = one
                own.queue_count += 1
            self._resume()
            if one.ring.broken:
                sgio_store(&self.service.side.broken, self.service.side.broken + 1)
                wake(&self.service.side.sleep)
            wake(&own.sleep)

    def stop_queue(self, int index):
        self._check_caller()
        with self.lock:
            self._started(index)
            return self._drop(index)

    cdef int _drop(self, int index) noexcept:
        """Stop a queue: what was taken is answered, what was not stays available. Returns the index to resume at."""
        cdef queue *one = self.queues[index]
        cdef worker *own = <worker *>one.worker
        cdef int resume
        cdef int i
        cdef int kept = 0
        self._pause()
        one.stopping = 1
        one.running = False
        self._resume()
        self._drain(one)
        self._pause()
        for i in range(own.queue_count):
            if own.queues[i] is not one:
                own.queues[kept] = own.queues[i]
                kept += 1
        own.queue_count = kept
        self.queues[index] = NULL
        self._resume()
        # Recovered requests that were not looked at yet are as good as available: the region still names them.
        resume = <uint16_t>(one.ring.last_available - (one.recovered_count - one.recovered_at))
        if one.ring.broken:
            self.broken_queues += 1
        _close(one.kick)
        _close(one.call)
        _close(one.error)
        queue_close(one)
        free(one)
        return resume

    def set_call(self, int index, int descriptor):
        cdef queue *one
        with self.lock:
            one = self._started(index)
            descriptor = _owned(descriptor)
            self._pause()
            _close(one.call)
            one.call = descriptor
            one.ring.signalled_valid = False
            if not one.ring.broken:  # a broken one may have no memory any more
                queue_notify(one, True)
            self._resume()

    def set_error(self, int index, int descriptor):
        cdef queue *one
        with self.lock:
            one = self._started(index)
            descriptor = _owned(descriptor)
            self._pause()
            _close(one.error)
            one.error = descriptor
            self._resume()

    def set_used_log(self, int index, address):
        cdef queue *one
        with self.lock:
            one = self._started(index)
            self._pause()
            one.used_logged = address is not None
            one.ring.used_address = address or 0
            self._apply(one)
            self._resume()

    def set_enabled(self, int index, bint enabled):
        if not 0 <= index < self.queue_count:
            raise ValueError(f"there is no queue {index}, the controller has {self.queue_count}")
        with self.lock:
            self.enabled[index] = enabled
            if self.queues[index] is not NULL:
                self._pause()
                self._set_running(self.queues[index])
                self._resume()
                wake(&(<worker *>self.queues[index].worker).sleep)

    # --- events ---

    def send_event(self, event):
        cdef queue *one
        cdef const unsigned char[::1] raw
        if len(event) != EVENT_BYTES:
            raise ValueError(f"a virtio-scsi event has {EVENT_BYTES} bytes, not {len(event)}")
        with self.lock:
            if self.events_missed:
                event = (int.from_bytes(event[:4], "little") | EVENTS_MISSED).to_bytes(4, "little") + event[4:]
            raw = event
            one = self.queues[EVENT_QUEUE]
            self.events_missed = one is NULL or not one.running or not queue_deliver(one, &raw[0], EVENT_BYTES)
            if one is not NULL and not one.ring.broken:
                queue_notify(one, False)
            return not self.events_missed

    # --- units ---

    cdef attached_unit *_find(self, int target, int lun) noexcept:
        cdef attached_unit *each = self.units
        while each is not NULL and (each.target != target or each.lun != lun):
            each = each.following
        return each

    def attach(self, int target, int lun, port=None, *, Verdicts verdicts=None, waiting=None,
               uint32_t timeout_ms=DEFAULT_TIMEOUT_MS):
        cdef attached_unit *unit
        cdef Py_buffer view
        if not 0 <= target <= 255 or not 0 <= lun <= 16383:
            raise ValueError(f"target {target} LUN {lun} is not within 0 to 255 and 0 to 16383")
        with self.lock:
            if self._find(target, lun) is not NULL:
                raise ValueError(f"target {target} LUN {lun} is attached already")
            unit = <attached_unit *>calloc(1, sizeof(attached_unit))
            if unit is NULL:
                raise MemoryError
            unit.target = target
            unit.lun = lun
            unit.timeout_ms = max(timeout_ms, 1)
            unit.traffic = <unit_traffic *>calloc(self.worker_count, sizeof(unit_traffic))
            if unit.traffic is NULL:
                free(unit)
                raise MemoryError
            if verdicts is not None:
                unit.verdicts = &verdicts.table
            try:
                if waiting is not None:
                    # The export may end here: the object is kept, and its owner never resizes it.
                    PyObject_GetBuffer(waiting, &view, PyBUF_SIMPLE)
                    unit.waiting = <const uint8_t *>view.buf
                    size = view.len
                    PyBuffer_Release(&view)
                    if size != 1:
                        raise ValueError(f"the byte that tells of waiting unit attentions has {size} bytes")
                if isinstance(port, BlockPort):
                    unit.kind = UNIT_BLOCKS
                    unit.blocks = (<BlockPort>port).unit
                elif isinstance(port, Port):
                    unit.kind = UNIT_PORT
                    unit.port = <void *>port
                    unit.owner = &self.workers[len(self.ports) % self.worker_count]
                elif port is None:
                    unit.kind = UNIT_PYTHON
                else:
                    raise TypeError(f"a unit is reached through a Port, a BlockPort or None, not {port!r}")
            except BaseException:
                _free_unit(unit)
                raise
            self.ports[target, lun] = (port, verdicts, waiting)
            self._pause()
            unit.following = self.units
            self.units = unit
            if unit.kind == UNIT_PORT:
                unit.next_port = (<worker *>unit.owner).ports
                (<worker *>unit.owner).ports = unit
            self._resume()

    def detach(self, int target, int lun):
        cdef attached_unit *unit
        self._check_caller()
        with self.lock:
            unit = self._find(target, lun)
            if unit is NULL:
                raise ValueError(f"target {target} LUN {lun} is not attached")
            self._pause()
            unit.detaching = True
            self._resume()
            with nogil:
                _wait_for(<uint32_t *>&unit.in_flight, 0)
            self._pause()
            self._unlink(unit)
            self._resume()
            _free_unit(unit)
            del self.ports[target, lun]

    cdef void _unlink(self, attached_unit *unit) noexcept:
        cdef attached_unit **at = &self.units
        cdef int i
        while at[0] is not unit:
            at = &at[0].following
        at[0] = unit.following
        if unit.kind == UNIT_PORT:
            at = &(<worker *>unit.owner).ports
            while at[0] is not unit:
                at = &at[0].next_port
            at[0] = unit.next_port
        for i in range(self.queue_count):
            if self.queues[i] is not NULL and self.queues[i].last_unit is unit:
                self.queues[i].last_unit = NULL

    def counts(self):
        cdef const uint64_t *counts
        cdef int i
        cdef int number
        total = dict.fromkeys(_COUNTS, 0)
        for i in range(self.worker_count):
            counts = <const uint64_t *>&self.workers[i].counts
            for number, name in enumerate(_COUNTS):
                total[name] += counts[number]
        with self.lock:
            broken = self.broken_queues
            for i in range(self.queue_count):
                if self.queues[i] is not NULL and self.queues[i].ring.broken:
                    broken += 1
            total["broken_queues"] = broken
            total["in_flight"] = self._in_flight()
            total["log_missed"] = 0 if self.log is None else self.log.missed
        total["handler_failures"] = self.service.failures
        return total

    def traffic(self):
        cdef attached_unit *unit
        cdef uint32_t in_flight
        cdef uint64_t waiting, moved, now
        found = []
        with self.lock:
            unit = self.units
            while unit is not NULL:
                in_flight = sgio_load(<uint32_t *>&unit.in_flight)
                moved = unit.moved_ns
                now = plane_now_ns()
                # A worker may have moved it on since.
                waiting = now - moved if in_flight and now > moved else 0
                found.append((unit.target, unit.lun, in_flight, waiting, _traffic(unit.traffic, self.worker_count)))
                unit = unit.following
        return found

    def broken(self, int index):
        return self.queues[index] is not NULL and self.queues[index].ring.broken != 0

    def close(self):
        cdef int i
        self._check_caller()
        with self.lock:
            if self.closed:
                return
            for i in range(self.queue_count):
                if self.queues[i] is not NULL:
                    self._drop(i)
            self.closed = True
            for i in range(self.worker_count):
                sgio_store(&self.workers[i].stop, 1)
                wake(&self.workers[i].sleep)
            sgio_store(&self.service.stopping, 1)
            wake(&self.service.side.sleep)
            for thread in self.threads:
                thread.join()
            self.memory = GuestMemory()
            self.log = None
            self.inflight = None
            self.ports.clear()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
