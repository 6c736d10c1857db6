# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Byte storage of the emulated logical unit."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINVAL, ENOMEM, ERANGE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strerror

from _fastpath.gate cimport NexusGate
from _fastpath.blocks cimport (
    iovec,
    medium_check,
    medium_close,
    medium_compare,
    medium_compare_same,
    medium_compare_write,
    medium_fill,
    medium_flush,
    medium_free,
    medium_grow,
    medium_open,
    medium_rw,
    medium_same_state,
    medium_unmap,
    medium_verify,
    medium_write_compare,
)


cdef int _check(int rc) except -1:
    # The one place where a negative errno becomes an exception.
    if rc == -ENOMEM:
        raise MemoryError
    if rc < 0:
        raise OSError(-rc, strerror(-rc).decode("ascii", "replace"))
    return 0


cdef class _Buffers:
    """The caller's buffers as an iovec array; releases them when it goes."""

    cdef Py_buffer *views
    cdef iovec *iov
    cdef int count

    def __cinit__(self, object buffers, bint writable):
        cdef Py_ssize_t wanted, i
        cdef int flags = PyBUF_WRITABLE if writable else PyBUF_SIMPLE
        if isinstance(buffers, (bytes, bytearray, memoryview)):
            buffers = (buffers,)
        wanted = len(buffers)
        self.views = <Py_buffer *> calloc(wanted + 1, sizeof(Py_buffer))
        self.iov = <iovec *> calloc(wanted + 1, sizeof(iovec))
        if self.views == NULL or self.iov == NULL:
            raise MemoryError
        for i in range(wanted):
            PyObject_GetBuffer(buffers[i], &self.views[i], flags)
            self.iov[i].iov_base = self.views[i].buf
            self.iov[i].iov_len = self.views[i].len
            self.count += 1

    def __dealloc__(self):
        cdef int i
        if self.views != NULL:
            for i in range(self.count):
                PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.iov)


cdef class Medium:

    def __cinit__(self, uint64_t size, uint32_t block_size, int fd=-1):
        cdef uint32_t shift = 9 if block_size == 512 else 12
        cdef int rc
        if block_size not in (512, 4096):
            raise ValueError(f"block size {block_size} is not supported; use 512 or 4096")
        if size == 0 or size % block_size or size >= <uint64_t> 1 << 63:
            raise ValueError(f"medium size {size} must be a positive multiple of the block size {block_size}")
        self.size = size
        self.block_size = block_size
        self.opened = True
        with nogil:
            rc = medium_open(&self.state, size, shift, fd)
        _check(rc)

    def __dealloc__(self):
        if self.opened:
            medium_free(&self.state)

    def read(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length):
        cdef iovec whole
        cdef bytes data
        cdef int rc
        _check(medium_check(&self.state, offset, length))
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> length)
        whole.iov_base = PyBytes_AS_STRING(data)
        whole.iov_len = length
        with nogil:
            rc = medium_rw(&self.state, &gate.gate, token, False, offset, length, &whole, 1, False)
        _check(rc)
        return data

    def read_into(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length, object buffers):
        cdef _Buffers held = _Buffers(buffers, True)
        cdef int rc
        with nogil:
            rc = medium_rw(&self.state, &gate.gate, token, False, offset, length, held.iov, held.count, False)
        _check(rc)

    def write(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length, object buffers,
              bint durable=False):
        cdef _Buffers held = _Buffers(buffers, False)
        cdef int rc
        with nogil:
            rc = medium_rw(&self.state, &gate.gate, token, True, offset, length, held.iov, held.count, durable)
        _check(rc)

    def write_and_compare(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length,
                          object buffers):
        cdef _Buffers held = _Buffers(buffers, False)
        cdef int64_t difference = -1
        cdef int rc
        with nogil:
            rc = medium_write_compare(&self.state, &gate.gate, token, offset, length, held.iov, held.count,
                                      &difference)
        _check(rc)
        return difference

    def compare(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length, object buffers):
        cdef _Buffers held = _Buffers(buffers, False)
        cdef int64_t difference = -1
        cdef int rc
        with nogil:
            rc = medium_compare(&self.state, &gate.gate, token, offset, length, held.iov, held.count, &difference)
        _check(rc)
        return difference

    def compare_same(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length, object block):
        cdef _Buffers held = _Buffers(block, False)
        cdef int64_t difference = -1
        cdef int rc = -EINVAL
        if held.count == 1:
            with nogil:
                rc = medium_compare_same(&self.state, &gate.gate, token, offset, length, held.iov, &difference)
        _check(rc)
        return difference

    def compare_and_write(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length,
                          object buffers, bint durable=False):
        cdef _Buffers held = _Buffers(buffers, False)
        cdef int64_t difference = -1
        cdef int rc
        with nogil:
            rc = medium_compare_write(&self.state, &gate.gate, token, offset, length, held.iov, held.count, durable,
                                      &difference)
        _check(rc)
        return difference

    def verify(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length):
        cdef int rc
        with nogil:
            rc = medium_verify(&self.state, &gate.gate, token, offset, length)
        _check(rc)

    def write_same(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length, object block,
                   bint durable=False):
        cdef _Buffers held = _Buffers(block, False)
        cdef int rc = -EINVAL
        if held.count == 1:
            with nogil:
                rc = medium_fill(&self.state, &gate.gate, token, offset, length, held.iov, durable)
        _check(rc)

    def unmap(self, NexusGate gate not None, uint32_t token, uint64_t offset, uint64_t length):
        cdef int rc
        with nogil:
            rc = medium_unmap(&self.state, &gate.gate, token, offset, length)
        _check(rc)

    def allocation(self, uint64_t block, uint64_t limit):
        cdef bint mapped = False
        cdef uint64_t run
        if block >= self.size // self.block_size or limit == 0:
            _check(-ERANGE)
        with nogil:
            run = medium_same_state(&self.state, block, limit, &mapped)
        return run, bool(mapped)

    def grow(self, uint64_t size):
        cdef int rc
        if size % self.block_size or size >= <uint64_t> 1 << 63:
            raise ValueError(f"medium size {size} must be a multiple of the block size {self.block_size}")
        with nogil:
            rc = medium_grow(&self.state, size)
        _check(rc)
        self.size = size

    def flush(self):
        cdef int rc
        with nogil:
            rc = medium_flush(&self.state)
        _check(rc)

    def close(self):
        with nogil:
            medium_close(&self.state)
