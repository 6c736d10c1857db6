# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Logical blocks in memory or in a sparse file: the actions of ``_fastpath.medium``, without the GIL."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from _fastpath.gate cimport gate_aborted

cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EAGAIN, ECANCELED, EINTR, EINVAL, EIO, ENODEV, ENOMEM, ENOSYS, ENXIO, EOPNOTSUPP, ERANGE

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void *addr, size_t length)
    void *mremap(void *addr, size_t old_size, size_t new_size, int flags)
    int madvise(void *addr, size_t length, int advice)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED, MREMAP_MAYMOVE

cdef extern from "<unistd.h>" nogil:
    int64_t lseek(int fd, int64_t offset, int whence)
    int fdatasync(int fd)
    enum:
        SEEK_DATA, SEEK_HOLE

cdef extern from "<sys/uio.h>" nogil:
    int64_t preadv(int fd, const iovec *iov, int iovcnt, int64_t offset)
    int64_t pwritev2(int fd, const iovec *iov, int iovcnt, int64_t offset, int flags)
    enum:
        RWF_DSYNC

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)
    enum:
        FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_rwlockattr_t:
        pass
    int pthread_rwlock_init(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attributes)
    int pthread_rwlock_destroy(pthread_rwlock_t *lock)
    int pthread_rwlock_rdlock(pthread_rwlock_t *lock)
    int pthread_rwlock_wrlock(pthread_rwlock_t *lock)
    int pthread_rwlock_unlock(pthread_rwlock_t *lock)
    int pthread_rwlockattr_init(pthread_rwlockattr_t *attributes)
    int pthread_rwlockattr_destroy(pthread_rwlockattr_t *attributes)
    int pthread_rwlockattr_setkind_np(pthread_rwlockattr_t *attributes, int kind)
    enum:
        PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP

cdef extern from * nogil:
    """
    #include <stdint.h>
    static inline uint64_t word_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void word_or(uint64_t *p, uint64_t v) { __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
    static inline void word_and(uint64_t *p, uint64_t v) { __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }
    static inline int lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
    """
    uint64_t word_load(const uint64_t *p)
    void word_or(uint64_t *p, uint64_t v)
    void word_and(uint64_t *p, uint64_t v)
    int lowest_bit(uint64_t v)


cdef enum:
    STRIPE_SHIFT = 20            # neighbouring commands share a lock per MiB
    CHUNK = 1 << 20              # an abort is noticed this often
    SEGMENTS = 64
    SCRATCH = 1 << 16
    PAGE = 4096


# --- stripes --------------------------------------------------------------------------------------------------------

cdef uint64_t stripes_of(uint64_t offset, uint64_t length) noexcept nogil:
    cdef uint64_t first = offset >> STRIPE_SHIFT
    cdef uint64_t count
    cdef uint64_t mask
    cdef unsigned int start = first & (STRIPES - 1)
    if length == 0:
        return 0
    count = ((offset + length - 1) >> STRIPE_SHIFT) - first + 1
    if count >= STRIPES:
        return ~<uint64_t> 0
    mask = (<uint64_t> 1 << count) - 1
    if start == 0:
        return mask
    return (mask << start) | (mask >> (STRIPES - start))


cdef void lock_stripes(medium_state *medium, uint64_t mask, bint exclusive) noexcept nogil:
    # In ascending order by all, so that two commands never wait for each other.
    cdef int i
    while mask:
        i = lowest_bit(mask)
        mask &= mask - 1
        if exclusive:
            pthread_rwlock_wrlock(&medium.stripes[i])
        else:
            pthread_rwlock_rdlock(&medium.stripes[i])


cdef void unlock_stripes(medium_state *medium, uint64_t mask) noexcept nogil:
    cdef int i
    while mask:
        i = lowest_bit(mask)
        mask &= mask - 1
        pthread_rwlock_unlock(&medium.stripes[i])


cdef int medium_check(const medium_state *medium, uint64_t offset, uint64_t length) noexcept nogil:
    if offset > medium.size or length > medium.size - offset:
        return -ERANGE
    return 0


# --- allocation map -------------------------------------------------------------------------------------------------

cdef void mark(medium_state *medium, uint64_t offset, uint64_t length, bint mapped) noexcept nogil:
    cdef uint64_t block = offset >> medium.block_shift
    cdef uint64_t end = (offset + length) >> medium.block_shift
    cdef uint64_t mask, word
    cdef unsigned int first, count
    while block < end:
        first = block & 63
        count = 64 - first
        if count > end - block:
            count = <unsigned int> (end - block)
        mask = (~<uint64_t> 0 >> (64 - count)) << first
        word = word_load(&medium.allocated[block >> 6])
        if mapped:
            if (word & mask) != mask:
                word_or(&medium.allocated[block >> 6], mask)
        elif word & mask:
            word_and(&medium.allocated[block >> 6], ~mask)
        block += count


cdef uint64_t medium_same_state(const medium_state *medium, uint64_t block, uint64_t limit,
                                bint *mapped) noexcept nogil:
    cdef uint64_t end = medium.size >> medium.block_shift
    cdef uint64_t start = block
    cdef uint64_t differing
    cdef uint64_t wanted
    if limit < end - block:
        end = block + limit
    mapped[0] = (word_load(&medium.allocated[block >> 6]) >> (block & 63)) & 1
    wanted = ~<uint64_t> 0 if mapped[0] else 0
    while block < end:
        differing = (word_load(&medium.allocated[block >> 6]) ^ wanted) >> (block & 63)
        if differing:
            block += lowest_bit(differing)
            break
        block = (block | 63) + 1
    if block > end:
        block = end
    return block - start


cdef int map_file(medium_state *medium) noexcept nogil:
    cdef int64_t data = 0
    cdef int64_t hole
    cdef uint64_t block_mask = (<uint64_t> 1 << medium.block_shift) - 1
    cdef uint64_t start, end
    while <uint64_t> data < medium.size:
        data = lseek(medium.fd, data, SEEK_DATA)
        if data < 0:
            if errno == ENXIO:
                return 0
            if errno != EINVAL and errno != EOPNOTSUPP:
                return -errno
            mark(medium, 0, medium.size, True)
            return 0
        hole = lseek(medium.fd, data, SEEK_HOLE)
        if hole < 0:
            return -errno
        start = <uint64_t> data & ~block_mask
        end = (<uint64_t> hole + block_mask) & ~block_mask
        if end > medium.size:
            end = medium.size
        if start < end:
            mark(medium, start, end - start, True)
        data = hole
    return 0


# --- moving bytes ---------------------------------------------------------------------------------------------------

cdef struct cursor:
    const iovec *iov
    int left
    size_t used


cdef bint holds(const iovec *iov, int iovcnt, uint64_t length) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(iovcnt):
        total += iov[i].iov_len
        if total >= length:
            return True
    return length == 0


cdef size_t piece(cursor *at, size_t limit, uint8_t **data) noexcept nogil:
    # The next contiguous bytes, at most limit; 0 only at the end.
    cdef size_t n
    while at.left > 0 and at.used == at.iov.iov_len:
        at.iov += 1
        at.left -= 1
        at.used = 0
    if at.left == 0:
        return 0
    n = at.iov.iov_len - at.used
    if n > limit:
        n = limit
    data[0] = <uint8_t *> at.iov.iov_base + at.used
    at.used += n
    return n


cdef bint is_one_block(const medium_state *medium, uint64_t length, const iovec *block) noexcept nogil:
    cdef uint64_t size = <uint64_t> 1 << medium.block_shift
    return block.iov_len == size and length & (size - 1) == 0


cdef void skip(cursor *at, uint64_t length) noexcept nogil:
    cdef uint8_t *ignored = NULL
    cdef size_t n
    while length:
        n = piece(at, length, &ignored)
        if n == 0:
            return
        length -= n


cdef int64_t file_io(int fd, bint write, uint64_t offset, const iovec *iov, int n, bint durable) noexcept nogil:
    cdef int64_t done
    while True:
        if write:
            done = pwritev2(fd, iov, n, <int64_t> offset, RWF_DSYNC if durable else 0)
        else:
            done = preadv(fd, iov, n, <int64_t> offset)
        if done >= 0:
            return done
        if errno != EINTR and errno != EAGAIN:
            return -errno


cdef int file_chunk(medium_state *medium, bint write, uint64_t offset, size_t length, cursor *at,
                    bint durable) noexcept nogil:
    cdef iovec segments[SEGMENTS]
    cdef uint8_t *data = NULL
    cdef size_t gathered, n
    cdef int64_t done
    cdef int count, first
    while length:
        gathered = 0
        count = 0
        while count < SEGMENTS and gathered < length:
            n = piece(at, length - gathered, &data)
            if n == 0:
                return -EINVAL
            segments[count].iov_base = data
            segments[count].iov_len = n
            gathered += n
            count += 1
        length -= gathered
        first = 0
        while gathered:
            done = file_io(medium.fd, write, offset, &segments[first], count - first, durable)
            if done < 0:
                return <int> done
            if done == 0:
                return -EIO          # the file ends before the medium does: someone truncated it
            offset += done
            gathered -= done
            while done and <size_t> done >= segments[first].iov_len:
                done -= segments[first].iov_len
                first += 1
            if done:
                segments[first].iov_base = <uint8_t *> segments[first].iov_base + done
                segments[first].iov_len -= done
    return 0


cdef int ram_chunk(medium_state *medium, bint write, uint64_t offset, size_t length, cursor *at) noexcept nogil:
    cdef uint8_t *data = NULL
    cdef size_t n
    while length:
        n = piece(at, length, &data)
        if n == 0:
            return -EINVAL
        if write:
            memcpy(medium.base + offset, data, n)
        else:
            memcpy(data, medium.base + offset, n)
        offset += n
        length -= n
    return 0


cdef int move_locked(medium_state *medium, const nexus_gate *gate, uint32_t token, bint write, uint64_t offset,
                     uint64_t length, cursor *at, bint durable) noexcept nogil:
    cdef size_t n
    cdef int rc = 0
    if medium.closed:
        return -ENODEV
    while length and rc == 0:
        if gate_aborted(gate, token):
            return -ECANCELED
        n = CHUNK if length > CHUNK else <size_t> length
        if write:
            mark(medium, offset, n, True)
        if medium.base != NULL:
            rc = ram_chunk(medium, write, offset, n, at)
        else:
            rc = file_chunk(medium, write, offset, n, at, durable)
        offset += n
        length -= n
    return rc


cdef int medium_rw(medium_state *medium, const nexus_gate *gate, uint32_t token, bint write, uint64_t offset,
                   uint64_t length, const iovec *iov, int iovcnt, bint durable) noexcept nogil:
    cdef cursor at = cursor(iov, iovcnt, 0)
    cdef uint64_t mask
    cdef int rc = medium_check(medium, offset, length)
    if rc:
        return rc
    if not holds(iov, iovcnt, length):
        return -EINVAL
    mask = stripes_of(offset, length)
    lock_stripes(medium, mask, write)
    rc = move_locked(medium, gate, token, write, offset, length, &at, durable)
    unlock_stripes(medium, mask)
    return rc


# --- comparing ------------------------------------------------------------------------------------------------------

cdef int64_t first_difference(const uint8_t *a, const uint8_t *b, size_t n) noexcept nogil:
    cdef size_t i
    if memcmp(a, b, n) == 0:
        return -1
    for i in range(n):
        if a[i] != b[i]:
            return <int64_t> i
    return -1


cdef int view(medium_state *medium, uint64_t offset, size_t length, uint8_t *scratch,
              const uint8_t **data) noexcept nogil:
    # The medium's bytes: in place for RAM, read into scratch for a file.
    cdef iovec whole
    cdef cursor at
    if medium.base != NULL:
        data[0] = medium.base + offset
        return 0
    whole.iov_base = scratch
    whole.iov_len = length
    at = cursor(&whole, 1, 0)
    data[0] = scratch
    return file_chunk(medium, False, offset, length, &at, False)


cdef int compare_locked(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                        cursor *at, const iovec *same, int64_t *difference) noexcept nogil:
    # With same, every block is compared with that one; with neither, the range is only read.
    cdef uint8_t *scratch = NULL
    cdef const uint8_t *data = NULL
    cdef uint8_t *other = NULL
    cdef uint64_t done = 0
    cdef size_t n, m, inside
    cdef int64_t found
    cdef int rc = 0
    difference[0] = -1
    if medium.closed:
        return -ENODEV
    if medium.base == NULL:
        scratch = <uint8_t *> malloc(SCRATCH)
        if scratch == NULL:
            return -ENOMEM
    while done < length and rc == 0 and difference[0] < 0:
        if gate_aborted(gate, token):
            rc = -ECANCELED
            break
        n = SCRATCH if length - done > SCRATCH else <size_t> (length - done)
        rc = view(medium, offset + done, n, scratch, &data)
        inside = 0
        while rc == 0 and inside < n and (at != NULL or same != NULL):
            if same != NULL:
                m = same.iov_len
                other = <uint8_t *> same.iov_base
            else:
                m = piece(at, n - inside, &other)
                if m == 0:
                    rc = -EINVAL
                    break
            found = first_difference(data + inside, other, m)
            if found >= 0:
                difference[0] = <int64_t> (done + inside) + found
                break
            inside += m
        done += n
    free(scratch)
    return rc


cdef int compare_range(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                       cursor *at, const iovec *same, int64_t *difference) noexcept nogil:
    cdef uint64_t mask
    cdef int rc = medium_check(medium, offset, length)
    if rc:
        return rc
    mask = stripes_of(offset, length)
    lock_stripes(medium, mask, False)
    rc = compare_locked(medium, gate, token, offset, length, at, same, difference)
    unlock_stripes(medium, mask)
    return rc


cdef int medium_compare(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                        const iovec *iov, int iovcnt, int64_t *difference) noexcept nogil:
    cdef cursor at = cursor(iov, iovcnt, 0)
    if not holds(iov, iovcnt, length):
        return -EINVAL
    return compare_range(medium, gate, token, offset, length, &at, NULL, difference)


cdef int medium_compare_same(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                             uint64_t length, const iovec *block, int64_t *difference) noexcept nogil:
    if not is_one_block(medium, length, block):
        return -EINVAL
    return compare_range(medium, gate, token, offset, length, NULL, block, difference)


cdef int medium_verify(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                       uint64_t length) noexcept nogil:
    cdef int64_t difference = -1
    return compare_range(medium, gate, token, offset, length, NULL, NULL, &difference)


cdef int medium_write_compare(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                              uint64_t length, const iovec *iov, int iovcnt, int64_t *difference) noexcept nogil:
    cdef cursor source = cursor(iov, iovcnt, 0)
    cdef cursor again = source
    cdef uint64_t mask
    cdef int rc = medium_check(medium, offset, length)
    if rc:
        return rc
    if not holds(iov, iovcnt, length):
        return -EINVAL
    mask = stripes_of(offset, length)
    lock_stripes(medium, mask, True)
    rc = move_locked(medium, gate, token, True, offset, length, &source, True)
    if rc == 0:
        rc = compare_locked(medium, gate, token, offset, length, &again, NULL, difference)
    unlock_stripes(medium, mask)
    return rc


cdef int medium_compare_write(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                              uint64_t length, const iovec *iov, int iovcnt, bint durable,
                              int64_t *difference) noexcept nogil:
    cdef cursor expected = cursor(iov, iovcnt, 0)
    cdef cursor replacement = expected
    cdef uint64_t mask
    cdef int rc = medium_check(medium, offset, length)
    if rc:
        return rc
    if not holds(iov, iovcnt, 2 * length):
        return -EINVAL
    skip(&replacement, length)
    mask = stripes_of(offset, length)
    lock_stripes(medium, mask, True)
    rc = compare_locked(medium, gate, token, offset, length, &expected, NULL, difference)
    if rc == 0 and difference[0] < 0:
        rc = move_locked(medium, gate, token, True, offset, length, &replacement, durable)
    unlock_stripes(medium, mask)
    return rc


# --- filling and unmapping ------------------------------------------------------------------------------------------

cdef int fill_locked(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                     const uint8_t *block, bint durable) noexcept nogil:
    cdef size_t block_size = <size_t> 1 << medium.block_shift
    cdef iovec whole
    cdef cursor at
    cdef uint8_t *tile = NULL
    cdef size_t tile_size = SCRATCH
    cdef size_t n
    cdef uint64_t i
    cdef int rc = 0
    if medium.closed:
        return -ENODEV
    if length < tile_size:
        tile_size = <size_t> length
    if tile_size == 0:
        return 0
    tile = <uint8_t *> malloc(tile_size)
    if tile == NULL:
        return -ENOMEM
    i = 0
    while i < tile_size:
        memcpy(tile + i, block, block_size)
        i += block_size
    whole.iov_base = tile
    while length and rc == 0:
        if gate_aborted(gate, token):
            rc = -ECANCELED
            break
        n = tile_size if length > tile_size else <size_t> length
        whole.iov_len = n
        at = cursor(&whole, 1, 0)
        mark(medium, offset, n, True)
        if medium.base != NULL:
            memcpy(medium.base + offset, tile, n)
        else:
            rc = file_chunk(medium, True, offset, n, &at, False)
        offset += n
        length -= n
    free(tile)
    if rc == 0 and durable and medium.base == NULL and fdatasync(medium.fd) < 0:
        rc = -errno
    return rc


cdef int zero_ram(medium_state *medium, uint64_t offset, uint64_t length) noexcept nogil:
    # Whole pages go back to the system, which hands out zeroed ones on the next touch.
    cdef uint64_t first = (offset + PAGE - 1) & ~<uint64_t> (PAGE - 1)
    cdef uint64_t last = (offset + length) & ~<uint64_t> (PAGE - 1)
    if first >= last:
        memset(medium.base + offset, 0, length)
        return 0
    memset(medium.base + offset, 0, first - offset)
    memset(medium.base + last, 0, offset + length - last)
    if madvise(medium.base + first, last - first, MADV_DONTNEED) < 0:
        return -errno
    return 0


cdef int unmap_locked(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                      uint64_t length, const uint8_t *zeros) noexcept nogil:
    cdef int rc
    if medium.closed:
        return -ENODEV
    if length == 0:
        return 0
    if gate_aborted(gate, token):
        return -ECANCELED
    if medium.base != NULL:
        rc = zero_ram(medium, offset, length)
    else:
        rc = 0
        if fallocate(medium.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <int64_t> offset, <int64_t> length) < 0:
            rc = -errno
        if rc == -EOPNOTSUPP or rc == -ENOSYS:
            # The file system cannot make holes; the promise that unmapped blocks read as zeros is kept by writing.
            rc = fill_locked(medium, gate, token, offset, length, zeros, False)
    if rc == 0:
        mark(medium, offset, length, False)
    return rc


cdef int medium_fill(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset, uint64_t length,
                     const iovec *block, bint durable) noexcept nogil:
    cdef uint64_t mask
    cdef int rc = medium_check(medium, offset, length)
    if rc:
        return rc
    if not is_one_block(medium, length, block):
        return -EINVAL
    mask = stripes_of(offset, length)
    lock_stripes(medium, mask, True)
    rc = fill_locked(medium, gate, token, offset, length, <const uint8_t *> block.iov_base, durable)
    unlock_stripes(medium, mask)
    return rc


cdef int medium_unmap(medium_state *medium, const nexus_gate *gate, uint32_t token, uint64_t offset,
                      uint64_t length) noexcept nogil:
    cdef uint8_t zeros[PAGE]
    cdef uint64_t mask
    cdef int rc = medium_check(medium, offset, length)
    if rc:
        return rc
    memset(zeros, 0, PAGE)
    mask = stripes_of(offset, length)
    lock_stripes(medium, mask, True)
    rc = unmap_locked(medium, gate, token, offset, length, zeros)
    unlock_stripes(medium, mask)
    return rc


# --- life -----------------------------------------------------------------------------------------------------------

cdef void *reserve_memory(uint64_t length) noexcept nogil:
    cdef void *mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if mapped == MAP_FAILED else mapped


cdef int medium_open(medium_state *medium, uint64_t size, uint32_t block_shift, int fd) noexcept nogil:
    cdef pthread_rwlockattr_t attributes
    cdef int i
    pthread_rwlockattr_init(&attributes)
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP)
    for i in range(STRIPES):
        pthread_rwlock_init(&medium.stripes[i], &attributes)
    pthread_rwlockattr_destroy(&attributes)
    medium.base = NULL
    medium.fd = fd
    medium.size = size
    medium.block_shift = block_shift
    medium.closed = 0
    medium.words = ((size >> block_shift) + 63) >> 6
    medium.allocated = <uint64_t *> reserve_memory(medium.words * 8)
    if medium.allocated == NULL:
        return -ENOMEM
    if fd >= 0:
        return map_file(medium)
    medium.base = <uint8_t *> reserve_memory(size)
    return 0 if medium.base != NULL else -ENOMEM


cdef int medium_grow(medium_state *medium, uint64_t size) noexcept nogil:
    # The memory may move: whoever uses it holds a stripe, but for medium_same_state, whose callers keep this away.
    cdef uint64_t words = ((size >> medium.block_shift) + 63) >> 6
    cdef void *moved
    cdef int rc = 0
    lock_stripes(medium, ~<uint64_t> 0, True)
    if medium.closed:
        rc = -ENODEV
    elif size < medium.size:
        rc = -EINVAL
    else:
        moved = mremap(medium.allocated, medium.words * 8, words * 8, MREMAP_MAYMOVE)
        if moved == MAP_FAILED:
            rc = -ENOMEM
        else:
            medium.allocated = <uint64_t *> moved
            medium.words = words
            if medium.base != NULL:
                moved = mremap(medium.base, medium.size, size, MREMAP_MAYMOVE)
                if moved == MAP_FAILED:
                    rc = -ENOMEM
                else:
                    medium.base = <uint8_t *> moved
            if rc == 0:
                medium.size = size
    unlock_stripes(medium, ~<uint64_t> 0)
    return rc


cdef void medium_close(medium_state *medium) noexcept nogil:
    lock_stripes(medium, ~<uint64_t> 0, True)
    medium.closed = 1
    if medium.base != NULL:
        # Only the memory goes; the addresses stay reserved until medium_free.
        madvise(medium.base, medium.size, MADV_DONTNEED)
    unlock_stripes(medium, ~<uint64_t> 0)


cdef void medium_free(medium_state *medium) noexcept nogil:
    cdef int i
    if medium.base != NULL:
        munmap(medium.base, medium.size)
    if medium.allocated != NULL:
        munmap(medium.allocated, medium.words * 8)
    for i in range(STRIPES):
        pthread_rwlock_destroy(&medium.stripes[i])


cdef int medium_flush(medium_state *medium) noexcept nogil:
    if medium.closed:
        return -ENODEV
    if medium.fd >= 0 and fdatasync(medium.fd) < 0:
        return -errno
    return 0
