# cython: language_level=3
"""C view of one guest's virtio-scsi controller."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from _fastpath.guest_memory cimport DirtyLog, GuestMemory
from _fastpath.inflight cimport InflightRegion
from _fastpath.service cimport Service
from _fastpath.virtio_scsi cimport attached_unit, queue
from _fastpath.worker_state cimport worker


cdef enum:
    MAX_QUEUES = 1026  # control, event and 1024 request queues
    MAX_WORKERS = 16


# Where the front end put a ring, so that it can be found again in a new memory table.
cdef struct ring_addresses:
    uint64_t descriptors
    uint64_t available
    uint64_t used


cdef class Controller:
    cdef Service service
    cdef queue *queues[MAX_QUEUES]
    cdef ring_addresses addresses[MAX_QUEUES]
    cdef bint enabled[MAX_QUEUES]
    cdef worker *workers
    cdef int worker_count
    cdef readonly int queue_count
    cdef attached_unit *units
    cdef GuestMemory memory
    cdef DirtyLog log
    cdef InflightRegion inflight
    cdef uint64_t features
    cdef bint events_missed
    cdef readonly bint closed
    cdef bint held
    cdef bint shut
    cdef object lock
    cdef dict ports
    cdef list threads
    cdef uint64_t poll_ns
    cdef uint64_t broken_queues

    cdef queue *_started(self, int index) except NULL
    cdef worker *_worker_of(self, int index) noexcept
    cdef void _pause(self) noexcept
    cdef void _resume(self) noexcept
    cdef uint32_t _in_flight(self) noexcept
    cdef void _run_what_may(self) noexcept
    cdef void _drain(self, queue *one) noexcept
    cdef void _apply(self, queue *one) noexcept
    cdef void _set_running(self, queue *one) noexcept
    cdef bint _place(self, queue *one, int index) noexcept
    cdef int _drop(self, int index) noexcept
    cdef attached_unit *_find(self, int target, int lun) noexcept
    cdef void _unlink(self, attached_unit *unit) noexcept
