# cython: language_level=3
"""The asynchronous side of a back end as a worker thread sees it; see port.pxd."""

from libc.errno cimport ENODEV

from _fastpath.sgio cimport sg_command


cdef class Port:
    cdef int start(self, sg_command **commands, int n) noexcept nogil:
        return -ENODEV

    cdef int reap(self, sg_command **done, int room) noexcept nogil:
        return 0

    cdef int watch(self, int *descriptor, short *events) noexcept nogil:
        descriptor[0] = -1
        events[0] = 0
        return -1
