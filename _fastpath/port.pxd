# cython: language_level=3
"""What a back end offers to a worker thread: start commands, reap completions, never block."""

from _fastpath.sgio cimport sg_command


cdef class Port:
    # All are called by one thread at a time, without the GIL. The commands, with their iovecs into guest memory, stay
    # valid and in place until they are reaped; a port never touches one after that. Every started command is reaped
    # once, in any order, with its result filled in.
    #
    # start: how many of the n were accepted, in order; the rest will be offered again after the next reap. A negative
    #        errno: the port is dead and takes no more commands; those in flight are still reaped.
    # reap:  at most ``room`` completed commands; never blocks.
    # watch: what to poll(2) for while commands are in flight (descriptor -1: nothing); returns after how many
    #        milliseconds reap wants to be called without an event, or -1.
    cdef int start(self, sg_command **commands, int n) noexcept nogil
    cdef int reap(self, sg_command **done, int room) noexcept nogil
    cdef int watch(self, int *descriptor, short *events) noexcept nogil
