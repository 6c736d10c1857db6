# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What workers leave to Python: reservation commands, whatever does not simply end with GOOD, task management, events.

One thread per controller. It holds the GIL only while the handler runs; workers never wait for it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _fastpath.cdb cimport parse_one
from _fastpath.dispatch cimport wake, worker_return
from _fastpath.lanes cimport LANE_EVENT_OVERFLOW
from _fastpath.virtio_scsi cimport (
    CONTROL_QUEUE, CONTROL_REQUEST_BYTES, CONTROL_RESPONSE_BYTES, REQUEST_FROM_PYTHON, RESPONSE_SENSE,
    VIRTIO_CDB_BYTES, VIRTIO_SCSI_FAILURE, attached_unit, lun_decode, request,
)
from _fastpath.virtqueue cimport RING_REASONS, chain, chain_read, chain_write
from _fastpath.worker_state cimport EVENT_ROOM, plane_event, pollfd, worker

import logging

cdef extern from "<poll.h>" nogil:
    int poll(pollfd *descriptors, unsigned long count, int timeout)
    enum:
        POLLIN

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)

cdef extern from "plane_atomic.h" nogil:
    void plane_fence()
    void *plane_take(void **head)
    bint plane_empty(void **head)
    bint plane_clear(int descriptor)

cdef enum:
    TASK_MANAGEMENT = 0  # type of a control request
    I_T_NEXUS_RESET = 4
    WHOLE_TARGET = -1
    PASSES = 2  # one may be half done
    RETRY_MS = 1
    VENDOR_CDB = 16  # a CDB whose operation code does not tell its length

MEMORY_GONE = "the memory of the guest was cut short by its owner"

_REASONS = (
    "",
    "the available index moved by more than the queue size",
    "a descriptor chain begins outside the descriptor table",
    "a descriptor chain was made available again before it was used",
    MEMORY_GONE,
    "the record of requests in flight contradicts itself",
)
assert len(_REASONS) == RING_REASONS

log = logging.getLogger(__name__)


cdef bytes _collect(request *one):
    """The data that the guest sends, copied: it may change what lies in its memory at any time."""
    cdef chain *buffers = &one.buffers
    cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>buffers.out_bytes)
    cdef char *target = PyBytes_AS_STRING(data)
    with nogil:
        chain_read(&buffers.pieces[buffers.header_count], buffers.out_count, target, buffers.out_bytes)
    return data


cdef void _hand_out(request *one, bytes data):
    """Write an answer's data to the guest. The worker tells the dirty log, when it announces the completion."""
    cdef chain *buffers = &one.buffers
    cdef uint32_t at = buffers.header_count + buffers.out_count + buffers.response_count
    cdef const char *source = PyBytes_AS_STRING(data)
    cdef uint64_t length = min(<uint64_t>len(data), buffers.in_bytes)
    with nogil:
        one.written = chain_write(NULL, &buffers.pieces[at], &buffers.addresses[at], buffers.in_count, source, length)


cdef bytes _cdb(request *one):
    cdef Py_ssize_t length = VIRTIO_CDB_BYTES
    parse_one(one.command.cdb, VIRTIO_CDB_BYTES, 512, &one.parsed)
    if one.parsed.cdb_length:
        length = min(<Py_ssize_t>one.parsed.cdb_length, length)
    else:
        while length > VENDOR_CDB and one.command.cdb[length - 1] == 0:
            length -= 1
    return PyBytes_FromStringAndSize(<const char *>one.command.cdb, length)


cdef class _Control:
    """A control request that waits until every command sent before it is on its way to an answer."""

    cdef request *one
    cdef bytes data
    cdef list seen
    cdef int target
    cdef int lun
    cdef bint is_management


cdef class Service:
    def __cinit__(self):
        self.side.sleep.wake = -1
        self.controls = []

    cdef bint _nothing(self) noexcept nogil:
        cdef int i
        if not plane_empty(&self.side.inbox) or sgio_load(&self.stopping):
            return False
        if sgio_load(&self.side.broken) != self.broken_seen:
            return False
        for i in range(self.worker_count):
            if sgio_load(&self.workers[i].events.tail) != self.workers[i].events.head:
                return False
        return True

    cdef void _sleep(self, int timeout) noexcept nogil:
        cdef pollfd waited
        waited.fd = self.side.sleep.wake
        waited.events = POLLIN
        sgio_store(&self.side.sleep.sleeping, 1)
        plane_fence()
        if self._nothing():
            poll(&waited, 1, timeout)
        sgio_store(&self.side.sleep.sleeping, 0)
        plane_clear(self.side.sleep.wake)

    def run(self):
        """Serve until told to stop; what is left then is answered with a failure."""
        cdef request *one
        cdef request *following
        cdef int timeout
        while True:
            timeout = RETRY_MS if self.controls else -1
            with nogil:
                self._sleep(timeout)
                one = <request *>plane_take(&self.side.inbox)
            while one is not NULL:
                following = one.link
                if one.owner.index == CONTROL_QUEUE:
                    self._control(one)
                else:
                    self._execute(one)
                one = following
            self._finish_controls()
            self._tell_events()
            self._tell_broken()
            if sgio_load(&self.stopping) and plane_empty(&self.side.inbox) and not self.controls:
                return

    cdef void _execute(self, request *one):
        cdef bytes data
        cdef bytes sense
        cdef int response = VIRTIO_SCSI_FAILURE
        cdef int status = 0
        cdef uint64_t residual = one.buffers.in_bytes + one.buffers.out_bytes
        one.command.sense_length = 0
        one.written = 0
        try:
            response, status, sense, data, residual = self.handler.execute(
                one.target, one.lun, _cdb(one), _collect(one), one.buffers.in_bytes)
            one.command.sense_length = <uint8_t>min(len(sense), <Py_ssize_t>RESPONSE_SENSE)
            memcpy(one.command.sense, PyBytes_AS_STRING(sense), one.command.sense_length)
            _hand_out(one, data)
        except BaseException:
            self.failures += 1
            log.exception("target %d LUN %d: command %02Xh could not be executed; the guest is told that it failed",
                          one.target, one.lun, one.command.cdb[0])
            response = VIRTIO_SCSI_FAILURE
            status = 0
        one.response = <uint8_t>response
        one.command.status = <uint8_t>status
        one.residual = residual
        worker_return(one, REQUEST_FROM_PYTHON)

    cdef void _control(self, request *one):
        cdef _Control control = _Control()
        cdef uint8_t raw[CONTROL_REQUEST_BYTES]
        cdef uint64_t length
        length = chain_read(&one.buffers.pieces[one.buffers.header_count], one.buffers.out_count, raw, sizeof(raw))
        control.one = one
        control.data = PyBytes_FromStringAndSize(<const char *>raw, <Py_ssize_t>length)
        control.target = WHOLE_TARGET
        control.lun = WHOLE_TARGET
        control.is_management = length == CONTROL_REQUEST_BYTES and raw[0] == TASK_MANAGEMENT
        if control.is_management and lun_decode(&raw[8], &control.target, &control.lun) == 0 \
                and raw[4] == I_T_NEXUS_RESET:
            control.lun = WHOLE_TARGET
        control.seen = [sgio_load(&self.workers[number].sweeps) for number in range(self.worker_count)]
        self.controls.append(control)

    cdef bint _port_busy(self, int target, int lun) noexcept nogil:
        cdef attached_unit *each = self.units[0]
        while each is not NULL:
            if each.target == target and lun in (WHOLE_TARGET, each.lun):
                if sgio_load(<uint32_t *>&each.in_flight):
                    return True
            each = each.following
        return False

    def _ready(self, _Control control):
        """Whether all that the guest sent before was taken, and a device has none of it any more."""
        cdef uint32_t since
        cdef int i
        if not control.is_management:
            return True
        for i in range(self.worker_count):
            since = sgio_load(&self.workers[i].sweeps) - <uint32_t>control.seen[i]
            if since < PASSES:
                wake(&self.workers[i].sleep)
                return False
        # Taken commands that are for Python are in the inbox: they are executed before this is asked again.
        return plane_empty(&self.side.inbox) and not self._port_busy(control.target, control.lun)

    def _finish_controls(self):
        cdef _Control control
        cdef bytes response
        for control in list(self.controls):
            if not self._ready(control):
                continue
            self.controls.remove(control)
            try:
                response = self.handler.control(control.data)
            except BaseException:
                self.failures += 1
                log.exception("a task management request failed; the guest is told that it was rejected")
                response = b"\x0b" if control.is_management else bytes(4) + b"\x0b"
            _hand_out(control.one, response[:CONTROL_RESPONSE_BYTES])
            worker_return(control.one, REQUEST_FROM_PYTHON)

    cdef void _tell_events(self):
        cdef worker *each
        cdef plane_event *event
        cdef int i
        for i in range(self.worker_count):
            each = &self.workers[i]
            while sgio_load(&each.events.tail) != each.events.head:
                event = &each.events.events[each.events.head & (EVENT_ROOM - 1)]
                arguments = (event.target, event.lun, PyBytes_FromStringAndSize(<const char *>event.cdb, 32),
                             event.kind, event.asc, event.ascq)
                sgio_store(&each.events.head, each.events.head + 1)
                self._call(self.handler.inspect, arguments)
            if each.events.lost:
                each.events.lost = 0
                self._call(self.handler.inspect, (-1, -1, b"", LANE_EVENT_OVERFLOW, 0, 0))

    cdef void _tell_broken(self):
        cdef int i
        self.broken_seen = sgio_load(&self.side.broken)
        for i in range(self.queue_count):
            if self.queues[i] is not NULL and self.queues[i].ring.broken and not self.queues[i].told:
                self.queues[i].told = 1
                self._call(self.handler.queue_broken, (i, _REASONS[self.queues[i].ring.broken]))

    def _call(self, method, arguments):
        try:
            method(*arguments)
        except BaseException:
            self.failures += 1
            log.exception("a report of the data plane was not taken")
