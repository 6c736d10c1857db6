# cython: language_level=3
"""SG_IO on a descriptor that another process opened and passed: one command at a time, in the calling thread."""

from libc.errno cimport EBADF, EFAULT, EINTR, EINVAL, errno

from _fastpath.sgio cimport (
    SG_FATE_NOT_EXECUTED, SG_FATE_UNKNOWN, SG_MAX_IOVECS, Engine, check_command, fail_all, fail_command, sg_command,
)
from _fastpath.sgio_v3 cimport SG_IO, fill_header, sg_io_hdr, take_header

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)


cdef void execute_passed(int fd, sg_command *command) noexcept nogil:
    cdef sg_io_hdr header
    cdef int rc = check_command(command)
    if rc == 0 and command.iovec_count > SG_MAX_IOVECS:
        rc = -EINVAL
    if rc == 0:
        fill_header(&header, command, NULL)
        if ioctl(fd, SG_IO, &header) < 0:
            rc = -errno
    if rc == 0:
        take_header(&header, command)
    else:
        # EINTR orphans a queued command; EFAULT can come from copying its data back.
        fail_command(command, -rc, SG_FATE_UNKNOWN if rc == -EINTR or rc == -EFAULT else SG_FATE_NOT_EXECUTED)


cdef class PassedEngine(Engine):
    def __cinit__(self, int fd, *, label=None):
        self.fd = fd
        self.label = f"descriptor {fd}" if label is None else label

    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil:
        cdef int i
        if self.fd < 0:
            fail_all(commands, indices, n, EBADF)
            return -EBADF
        for i in range(n):
            execute_passed(self.fd, &commands[i if indices is NULL else indices[i]])
        return 0

    def close(self):
        self.fd = -1
