# cython: language_level=3
"""C view of a guest's memory: translation of guest addresses, and the writes that the dirty log is told of."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "plane_atomic.h" nogil:
    void plane_store16(void *word, uint16_t value)
    void plane_store16_release(void *word, uint16_t value)
    void plane_store64(void *word, uint64_t value)
    void plane_or8(uint8_t *byte, uint8_t bits)


cdef enum:
    LOG_PAGE_SHIFT = 12  # a bit of the dirty log stands for 4096 bytes whatever the host's page size


cdef struct guest_region:
    uint64_t guest  # address of its first byte as the guest sees it
    uint64_t size
    uint64_t user  # the same byte's address in the front end, used for ring addresses only
    uint8_t *host
    const uint32_t *broken


# Sorted by guest address; never changes once workers see it.
cdef struct memory_table:
    uint32_t count
    guest_region *regions


cdef struct dirty_log:
    uint8_t *bits
    uint64_t pages
    uint64_t missed  # pages beyond the log's end


cdef inline uint64_t guest_translate(
    const memory_table *table, uint64_t address, uint64_t length, uint8_t **host
) noexcept nogil:
    """How many bytes from ``address`` on, at most ``length``, lie in one region; 0 where the address is in none."""
    cdef uint32_t low = 0
    cdef uint32_t high = table.count
    cdef uint32_t middle
    cdef const guest_region *region
    cdef uint64_t offset
    while high - low > 1:
        middle = (low + high) >> 1
        if table.regions[middle].guest <= address:
            low = middle
        else:
            high = middle
    if high == 0:
        return 0
    region = &table.regions[low]
    offset = address - region.guest  # wraps to something large below the region
    if offset >= region.size:
        return 0
    host[0] = region.host + offset
    return min(length, region.size - offset)


cdef inline void guest_mark(dirty_log *log, uint64_t address, uint64_t length) noexcept nogil:
    """Tell the log, NULL for none, that these bytes were written: after the write, before the guest hears of it."""
    cdef uint64_t page
    cdef uint64_t last
    if log is NULL or length == 0:
        return
    page = address >> LOG_PAGE_SHIFT
    last = (address + length - 1) >> LOG_PAGE_SHIFT
    while page <= last:
        if page < log.pages:
            plane_or8(log.bits + (page >> 3), <uint8_t>(1 << (page & 7)))
        else:
            log.missed += 1
        page += 1


cdef inline void guest_write(
    dirty_log *log, uint8_t *host, uint64_t address, const void *source, size_t length
) noexcept nogil:
    """Write to translated memory."""
    memcpy(host, source, length)
    guest_mark(log, address, length)


cdef inline void guest_store16(dirty_log *log, uint8_t *host, uint64_t address, uint16_t value) noexcept nogil:
    plane_store16(host, value)
    guest_mark(log, address, 2)


cdef inline void guest_publish16(dirty_log *log, uint8_t *host, uint64_t address, uint16_t value) noexcept nogil:
    """Store an index that announces everything written before it."""
    plane_store16_release(host, value)
    guest_mark(log, address, 2)


cdef inline void guest_store64(dirty_log *log, uint8_t *host, uint64_t address, uint64_t value) noexcept nogil:
    plane_store64(host, value)
    guest_mark(log, address, 8)


# Copy in and out of guest memory, over as many regions as it takes: 0, or -EFAULT where a byte is in none.
cdef int guest_read_bytes(const memory_table *table, uint64_t address, void *target, uint64_t length) noexcept nogil

# Raised with every page that the SIGBUS handler of this process replaced.
cdef uint32_t guest_struck() noexcept nogil
cdef bint memory_broken(const memory_table *table) noexcept nogil


cdef class Mapping:
    """A shared file mapping that survives its file being truncated."""

    cdef uint8_t *base
    cdef size_t length
    cdef size_t offset  # of the wanted bytes
    cdef uint32_t broken
    cdef int slot

    cdef uint8_t *at(self) noexcept


cdef class GuestMemory:
    cdef memory_table table
    cdef tuple layout
    cdef tuple mappings

    # Translate a front end's address to where ``length`` bytes lie in one piece; NULL where they do not.
    cdef uint8_t *user_pointer(self, uint64_t address, uint64_t length) noexcept


cdef class DirtyLog:
    cdef dirty_log log
    cdef Mapping mapping
