# The emulated unit's medium as Python holds it; data threads use its state with the functions of _fastpath.blocks.

from libc.stdint cimport uint32_t, uint64_t

from _fastpath.blocks cimport medium_state


cdef class Medium:
    cdef medium_state state
    cdef readonly uint64_t size
    cdef readonly uint32_t block_size
    cdef bint opened
