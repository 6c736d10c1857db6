# cython: language_level=3
"""C view of the thread that takes a controller's requests to Python and their answers back."""

from libc.stdint cimport uint32_t

from _fastpath.virtio_scsi cimport attached_unit, queue, request
from _fastpath.worker_state cimport python_side, worker


cdef class Service:
    cdef python_side side
    cdef object handler
    cdef list controls
    cdef worker *workers
    cdef int worker_count
    cdef attached_unit **units
    cdef queue **queues
    cdef int queue_count
    cdef uint32_t stopping
    cdef uint32_t broken_seen
    cdef readonly int failures

    cdef bint _nothing(self) noexcept nogil
    cdef void _sleep(self, int timeout) noexcept nogil
    cdef void _execute(self, request *one)
    cdef void _control(self, request *one)
    cdef bint _port_busy(self, int target, int lun) noexcept nogil
    cdef void _tell_broken(self)
    cdef void _tell_events(self)
