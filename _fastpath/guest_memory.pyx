# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A guest's memory: regions of files mapped here, checked translation, the dirty log, and files cut short.

The file behind a region belongs to another process, which may truncate it at any time; touching a page that is gone
then raises SIGBUS. The handler of sigbus_guard.h puts a page of zeros there and marks the mapping broken.
"""

from libc.errno cimport EFAULT, ENOSPC, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import os

cdef extern from "sigbus_guard.h" nogil:
    uint32_t guards_struck
    int guards_add(void *base, size_t length, size_t page, uint32_t *broken)
    void guards_remove(int slot)

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    void *MAP_FAILED
    int PROT_NONE, PROT_READ, PROT_WRITE
    int MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED
    int MADV_DONTDUMP, MADV_HUGEPAGE

MAX_MEMORY_REGIONS = 512

cdef size_t _HUGE = 2 << 20
cdef object _LIMIT = 1 << 64


cdef int guest_read_bytes(const memory_table *table, uint64_t address, void *target, uint64_t length) noexcept nogil:
    cdef uint8_t *host = NULL
    cdef uint8_t *to = <uint8_t *>target
    cdef uint64_t n
    while length:
        n = guest_translate(table, address, length, &host)
        if n == 0:
            return -EFAULT
        memcpy(to, host, n)
        to += n
        address += n
        length -= n
    return 0


cdef uint32_t guest_struck() noexcept nogil:
    return sgio_load(&guards_struck)


cdef bint memory_broken(const memory_table *table) noexcept nogil:
    """Whether the owner cut a file short: some of the memory is zeros of ours by now."""
    cdef uint32_t i
    for i in range(table.count):
        if sgio_load(table.regions[i].broken):
            return True
    return False


cdef class Mapping:
    def __cinit__(self, int fd, uint64_t offset, uint64_t size):
        cdef size_t page
        cdef size_t alignment
        cdef uint64_t start
        cdef uint8_t *reserved
        cdef uint8_t *address
        cdef void *mapped
        self.slot = -1
        # On hugetlbfs this is the size of a huge page, and everything must be aligned to it.
        page = max(os.fstatvfs(fd).f_bsize, os.sysconf("SC_PAGE_SIZE"))
        if page & (page - 1) or page > 1 << 30:
            page = os.sysconf("SC_PAGE_SIZE")
        available = os.fstat(fd).st_size
        if offset + <object>size > available:
            raise ValueError(f"the file has {available} bytes, too few for {size} at offset {offset}")
        start = offset & ~<uint64_t>(page - 1)
        self.offset = offset - start
        self.length = (self.offset + size + page - 1) & ~(page - 1)
        # Where file offset and address agree modulo 2 MiB, the kernel can use huge pages for shared memory.
        alignment = max(page, _HUGE) if self.length >= _HUGE else page
        reserved = <uint8_t *>mmap(
            NULL, self.length + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if <void *>reserved == MAP_FAILED:
            raise OSError(errno, f"no address space for {size} bytes of guest memory: {os.strerror(errno)}")
        address = reserved + ((start - <uint64_t>reserved) & (alignment - 1))
        mapped = mmap(address, self.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, <int64_t>start)
        if mapped == MAP_FAILED:
            code = errno
            munmap(reserved, self.length + alignment)
            raise OSError(code, f"cannot map {size} bytes at offset {offset}: {os.strerror(code)}")
        if address > reserved:
            munmap(reserved, address - reserved)
        if address < reserved + alignment:
            munmap(address + self.length, reserved + alignment - address)
        self.base = address
        madvise(self.base, self.length, MADV_DONTDUMP)
        madvise(self.base, self.length, MADV_HUGEPAGE)
        self.slot = guards_add(self.base, self.length, page, &self.broken)
        if self.slot < 0:
            if self.slot == -ENOSPC:
                raise OSError(ENOSPC, "too many memory regions of all guests together; close some guests")
            raise OSError(-self.slot, f"cannot handle SIGBUS: {os.strerror(-self.slot)}")

    def __dealloc__(self):
        if self.slot >= 0:
            guards_remove(self.slot)
        if self.base is not NULL:
            munmap(self.base, self.length)

    cdef uint8_t *at(self) noexcept:
        return self.base + self.offset


def _checked(regions):
    """The regions sorted by guest address; raises ValueError where the table makes no sense."""
    if len(regions) > MAX_MEMORY_REGIONS:
        raise ValueError(f"{len(regions)} memory regions are more than {MAX_MEMORY_REGIONS}")
    ordered = sorted(regions, key=lambda region: region[0])
    end = 0
    for guest, size, user, _, offset in ordered:
        if min(guest, size, user, offset) < 0 or size == 0:
            raise ValueError(f"memory region {guest:#x}: a size of {size} bytes at offset {offset} is not possible")
        if guest + size > _LIMIT or user + size > _LIMIT or offset + size >= _LIMIT >> 1:
            raise ValueError(f"memory region {guest:#x} of {size:#x} bytes wraps around the end of the address space")
        if guest < end:
            raise ValueError(f"memory region {guest:#x} overlaps the one before it, which ends at {end:#x}")
        end = guest + size
    by_user = sorted(ordered, key=lambda region: region[2])
    for (_, size, first, _, _), (_, _, second, _, _) in zip(by_user, by_user[1:]):
        if first + size > second:
            raise ValueError(f"memory regions at front end addresses {first:#x} and {second:#x} overlap")
    return ordered


cdef class GuestMemory:
    def __cinit__(self, regions=(), *, _shared=None):
        cdef guest_region *region
        cdef Mapping mapping
        known = {} if _shared is None else _shared
        ordered = _checked(regions)
        self.table.regions = <guest_region *>calloc(len(ordered) + 1, sizeof(guest_region))
        if self.table.regions is NULL:
            raise MemoryError
        mappings = []
        for guest, size, user, descriptor, offset in ordered:
            mapping = known.get((guest, size, user))
            if mapping is None:
                mapping = Mapping(descriptor, offset, size)
            mappings.append(mapping)
            region = &self.table.regions[self.table.count]
            region.guest = guest
            region.size = size
            region.user = user
            region.host = mapping.at()
            region.broken = &mapping.broken
            self.table.count += 1
        self.layout = tuple([tuple(each) for each in ordered])
        self.mappings = tuple(mappings)

    def __dealloc__(self):
        free(self.table.regions)

    def _known(self):
        return {layout[:3]: mapping for layout, mapping in zip(self.layout, self.mappings)}

    def with_region(self, region):
        return GuestMemory((*self.layout, tuple(region)), _shared=self._known())

    def without_region(self, guest, size, user):
        rest = [layout for layout in self.layout if layout[:3] != (guest, size, user)]
        if len(rest) == len(self.layout):
            raise ValueError(f"there is no memory region {guest:#x} of {size:#x} bytes at front end address {user:#x}")
        return GuestMemory(rest, _shared=self._known())

    def __len__(self):
        return self.table.count

    @property
    def regions(self):
        return tuple([layout[:3] for layout in self.layout])

    @property
    def broken(self):
        return memory_broken(&self.table)

    def read(self, uint64_t address, Py_ssize_t length):
        data = bytearray(length)
        cdef uint8_t[::1] view = data
        if length and guest_read_bytes(&self.table, address, &view[0], length) < 0:
            raise ValueError(f"{length} bytes at guest address {address:#x} are not all in memory regions")
        return bytes(data)

    def write(self, uint64_t address, const uint8_t[::1] data not None, DirtyLog log=None):
        cdef dirty_log *told = NULL if log is None else &log.log
        cdef uint64_t length = data.shape[0]
        cdef uint64_t done = 0
        cdef uint64_t n
        cdef uint8_t *host = NULL
        while done < length:
            n = guest_translate(&self.table, address + done, length - done, &host)
            if n == 0:
                raise ValueError(f"{length} bytes at guest address {address:#x} are not all in memory regions")
            guest_write(told, host, address + done, &data[done], n)
            done += n

    cdef uint8_t *user_pointer(self, uint64_t address, uint64_t length) noexcept:
        cdef uint32_t i
        cdef uint64_t offset
        for i in range(self.table.count):
            offset = address - self.table.regions[i].user
            if offset < self.table.regions[i].size and length <= self.table.regions[i].size - offset:
                return self.table.regions[i].host + offset
        return NULL


cdef class DirtyLog:
    def __cinit__(self, int descriptor, uint64_t offset, uint64_t size):
        if size == 0:
            raise ValueError("a dirty log of 0 bytes tells nothing")
        self.mapping = Mapping(descriptor, offset, size)
        self.log.bits = self.mapping.at()
        self.log.pages = size * 8

    @property
    def missed(self):
        return self.log.missed

    def mark(self, uint64_t address, uint64_t length):
        guest_mark(&self.log, address, length)
