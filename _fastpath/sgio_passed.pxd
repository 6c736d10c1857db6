# cython: language_level=3
"""SG_IO on a descriptor as it is, by the calling thread; see sgio_passed.pyx."""

from _fastpath.sgio cimport Engine, sg_command


cdef class PassedEngine(Engine):
    cdef int fd


# Execute the command on the descriptor and fill its result, error and fate included.
cdef void execute_passed(int fd, sg_command *command) noexcept nogil
