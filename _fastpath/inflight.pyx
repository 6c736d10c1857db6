# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The inflight region of split virtqueues (vhost-user protocol, "Inflight I/O tracking"): made, read, repaired.

It is a file shared with the front end, so after a crash its contents are as little to be trusted as the guest's.
"""

from libc.errno cimport EPROTO
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort

from _fastpath.virtqueue cimport RING_BAD_INFLIGHT, inflight_entry, inflight_header, vring

import fcntl
import os

cdef extern from "plane_atomic.h" nogil:
    uint16_t plane_load16(const void *word)
    uint8_t plane_load8(const void *byte)
    void plane_store8(void *byte, uint8_t value)
    void plane_release()

cdef enum:
    HEADER_BYTES = 16
    ENTRY_BYTES = 16
    ALIGNMENT = 64
    VERSION = 1
    USED_INDEX = 2


cdef struct recovered:
    uint64_t counter
    uint16_t head


cdef recovered _ORDER[32768]  # used with the GIL


cdef uint64_t inflight_bytes(uint32_t queue_size) noexcept nogil:
    return (HEADER_BYTES + ENTRY_BYTES * <uint64_t>queue_size + ALIGNMENT - 1) & ~<uint64_t>(ALIGNMENT - 1)


cdef int _by_counter(const void *a, const void *b) noexcept nogil:
    cdef uint64_t left = (<const recovered *>a).counter
    cdef uint64_t right = (<const recovered *>b).counter
    return -1 if left < right else left > right


cdef int _finish_batch(inflight_header *header, inflight_entry *entries, uint16_t size, uint16_t used) noexcept nogil:
    """Clear what was published but not yet cleared: the last batch, by its links."""
    cdef uint16_t left = used - header.used_index
    cdef uint16_t head = header.last_batch_head
    if left > size:
        return -EPROTO
    while left:
        if head >= size:
            return -EPROTO
        plane_store8(&entries[head].inflight, 0)
        head = entries[head].next
        left -= 1
    plane_release()
    header.used_index = used
    return 0


cdef class InflightRegion:
    def __cinit__(self, descriptor, uint64_t offset, uint64_t size, int queues, int queue_size):
        if not 0 < queues <= 1026 or not 0 < queue_size <= 32768:
            raise ValueError(f"an inflight region for {queues} queues of {queue_size} descriptors is not possible")
        needed = queues * inflight_bytes(queue_size)
        if size < needed:
            raise ValueError(f"an inflight region of {size} bytes is too small, {queues} queues of {queue_size} "
                             f"descriptors need {needed}")
        if offset % 8:
            raise ValueError(f"an inflight region at offset {offset} is not aligned to 8 bytes")
        self.descriptor = descriptor
        self.queues = queues
        self.queue_size = queue_size
        self.size = size
        self.offset = offset
        self.mapping = Mapping(descriptor, offset, size)

    @staticmethod
    def create(int queues, int queue_size):
        size = queues * inflight_bytes(queue_size)
        descriptor = os.memfd_create("pyproxy-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return InflightRegion(descriptor, 0, size, queues, queue_size)
        except BaseException:
            os.close(descriptor)
            raise

    cdef int attach(self, vring *ring, int index, uint16_t *heads) noexcept:
        cdef uint8_t *start = self.mapping.at() + index * inflight_bytes(self.queue_size)
        cdef inflight_header *header = <inflight_header *>start
        cdef inflight_entry *entries = <inflight_entry *>(start + HEADER_BYTES)
        cdef uint16_t used = plane_load16(ring.used + USED_INDEX)
        cdef int count = 0
        cdef int i
        cdef uint16_t head
        if header.version == 0:
            header.features = 0
            header.descriptors = <uint16_t>self.queue_size
            header.last_batch_head = 0
            header.used_index = used
            header.version = VERSION
            for i in range(self.queue_size):
                plane_store8(&entries[i].inflight, 0)
        elif header.version != VERSION or header.descriptors != self.queue_size:
            ring.broken = RING_BAD_INFLIGHT
            return -EPROTO
        if _finish_batch(header, entries, <uint16_t>self.queue_size, used) < 0:
            ring.broken = RING_BAD_INFLIGHT
            return -EPROTO
        ring.counter = 0
        for i in range(self.queue_size):
            if not plane_load8(&entries[i].inflight):
                continue
            if i >= ring.size:
                ring.broken = RING_BAD_INFLIGHT
                return -EPROTO
            _ORDER[count].counter = entries[i].counter
            _ORDER[count].head = <uint16_t>i
            ring.counter = max(ring.counter, _ORDER[count].counter + 1)
            count += 1
        qsort(_ORDER, count, sizeof(recovered), _by_counter)
        for i in range(count):
            head = _ORDER[i].head
            heads[i] = head
            ring.taken[head >> 6] |= <uint64_t>1 << (head & 63)
        ring.inflight = header
        ring.entries = entries
        ring.used_index = ring.published = ring.signalled = used
        ring.last_available = <uint16_t>(used + count)
        return count
