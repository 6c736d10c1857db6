# cython: language_level=3
"""C view of synchronous pass-through with sg_io_hdr."""

from _fastpath.sgio cimport sg_command
from _fastpath.sgio_pool cimport PoolEngine


# Execute on a descriptor of /dev/sgN or /dev/sdX, with the data in ``bounce`` unless NULL: 0, or a negative errno.
cdef int issue_v3(int fd, sg_command *command, void *bounce) noexcept nogil


cdef class SyncEngine(PoolEngine):
    pass
