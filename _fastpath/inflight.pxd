# cython: language_level=3
"""C view of the inflight region: which descriptor chains were taken and not given back, for whoever comes after us."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from _fastpath.guest_memory cimport Mapping
from _fastpath.virtqueue cimport vring


cdef class InflightRegion:
    cdef Mapping mapping
    cdef readonly object descriptor
    cdef readonly int queues
    cdef readonly int queue_size
    cdef readonly uint64_t size
    cdef readonly uint64_t offset

    # Attach ring number ``index``: its record is read, its heads in flight are left in ``heads``, oldest first, and
    # marked as taken. Returns how many; or -EPROTO, with ring.broken set, where the record contradicts itself.
    cdef int attach(self, vring *ring, int index, uint16_t *heads) noexcept


cdef uint64_t inflight_bytes(uint32_t queue_size) noexcept nogil
