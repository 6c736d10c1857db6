# cython: language_level=3
"""Synchronous pass-through: ioctl(SG_IO) with sg_io_hdr on /dev/sgN and /dev/sdX, from a pool of threads."""

from libc.errno cimport errno

from _fastpath.sgio cimport SG_MAX_IOVECS, sg_command
from _fastpath.sgio_pool cimport PoolEngine
from _fastpath.sgio_v3 cimport SG_IO, fill_header, sg_io_hdr, take_header

import os
import stat

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)


cdef int issue_v3(int fd, sg_command *command, void *bounce) noexcept nogil:
    cdef sg_io_hdr header
    fill_header(&header, command, bounce)
    if ioctl(fd, SG_IO, &header) < 0:
        return -errno
    take_header(&header, command)
    return 0


cdef class SyncEngine(PoolEngine):
    def __init__(self, int fd, int threads=4, *, label=None):
        self.label = f"descriptor {fd}" if label is None else label
        # /dev/sgN has one reserved buffer per open file and an interruptible SG_IO; /dev/sdX has neither.
        character = stat.S_ISCHR(os.fstat(fd).st_mode)
        self.start(fd, threads, issue_v3, SG_MAX_IOVECS, character, character)
