# Logical blocks in memory or in a sparse file: the actions themselves, which need no GIL and raise nothing.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _fastpath.gate cimport nexus_gate


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_rwlock_t:
        pass


cdef enum:
    STRIPES = 64


cdef struct medium_state:
    uint8_t *base                # the RAM medium, NULL for a file
    int fd                       # the file, -1 for RAM
    uint64_t size                # bytes
    uint32_t block_shift
    uint64_t *allocated          # one bit per logical block
    uint64_t words
    int closed
    pthread_rwlock_t stripes[STRIPES]


# Offsets and lengths are in bytes. All return 0 or a negative errno: -ERANGE outside the medium, -EINVAL when the
# buffers hold too little, -ECANCELED when the gate was aborted since token, -ENODEV after medium_close.
cdef int medium_open(medium_state *medium, uint64_t size, uint32_t block_shift, int fd) noexcept nogil
cdef int medium_grow(medium_state *medium, uint64_t size) noexcept nogil
cdef void medium_close(medium_state *medium) noexcept nogil
cdef void medium_free(medium_state *medium) noexcept nogil
cdef int medium_check(const medium_state *medium, uint64_t offset, uint64_t length) noexcept nogil
cdef int medium_rw(medium_state *medium, const nexus_gate *gate, uint32_t token, bint write, uint64_t offset,
                   uint64_t length, const iovec *iov, int iovcnt, bint durable) noexcept nogil
cdef int medium_write_compare(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                              uint64_t length, const iovec *iov, int iovcnt, int64_t *difference) noexcept nogil
cdef int medium_compare(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                        const iovec *iov, int iovcnt, int64_t *difference) noexcept nogil
cdef int medium_compare_same(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                             uint64_t length, const iovec *block, int64_t *difference) noexcept nogil
cdef int medium_compare_write(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                              uint64_t length, const iovec *iov, int iovcnt, bint durable,
                              int64_t *difference) noexcept nogil
cdef int medium_verify(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                       uint64_t length) noexcept nogil
cdef int medium_fill(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                     const iovec *block, bint durable) noexcept nogil
cdef int medium_unmap(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                      uint64_t length) noexcept nogil
cdef uint64_t medium_same_state(const medium_state *medium, uint64_t block, uint64_t limit,
                                bint *mapped) noexcept nogil
cdef int medium_flush(medium_state *medium) noexcept nogil
