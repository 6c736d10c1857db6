# cython: language_level=3
"""The asynchronous side of a back end: what a worker drives from its own poll loop, without the GIL."""

from _fastpath.sgio cimport sg_command


cdef class Port:
    # All noexcept nogil, called by one worker thread at a time. A command's iovecs point into memory that stays valid
    # until the command is reaped.

    # Take commands in order; returns how many were taken (the rest is offered again after a reap) or -errno: dead.
    cdef int start(self, sg_command **commands, int n) noexcept nogil
    # Fill ``done`` with up to ``room`` completed commands, results filled in; never blocks.
    cdef int reap(self, sg_command **done, int room) noexcept nogil
    # What to poll(2) for; returns a timeout in ms, or -1 for none.
    cdef int watch(self, int *descriptor, short *events) noexcept nogil
