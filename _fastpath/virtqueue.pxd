# cython: language_level=3
"""C view of one split virtqueue (virtio 1.2 section 2.7): pop descriptor chains, push used elements, notify."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.guest_memory cimport dirty_log, memory_table
from _fastpath.sgio cimport iovec


cdef enum:
    MAX_QUEUE_SIZE = 32768
    DESCRIPTOR_NEXT = 1
    DESCRIPTOR_WRITE = 2
    DESCRIPTOR_INDIRECT = 4
    NO_NOTIFICATION = 1  # in the flags of either ring

    # Why a ring was stopped for good; the texts are in controller.pyx.
    RING_INDEX_JUMP = 1
    RING_BAD_HEAD = 2
    RING_HEAD_IN_FLIGHT = 3
    RING_MEMORY_GONE = 4
    RING_BAD_INFLIGHT = 5
    RING_REASONS = 6


cdef struct vring_descriptor:
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next


# The region of descriptors in flight that outlives the process (vhost-user, "inflight I/O tracking").
cdef struct inflight_entry:
    uint8_t inflight
    uint8_t padding[5]
    uint16_t next
    uint64_t counter


cdef struct inflight_header:
    uint64_t features
    uint16_t version
    uint16_t descriptors
    uint16_t last_batch_head
    uint16_t used_index


cdef struct vring:
    uint16_t size
    uint16_t mask
    uint16_t broken  # RING_*, 0 while all is well
    bint event_index  # VIRTIO_F_EVENT_IDX
    bint indirect  # VIRTIO_F_INDIRECT_DESC
    bint quiet  # the guest was told that kicks are not needed
    uint8_t *descriptors
    uint8_t *available
    uint8_t *used
    uint16_t last_available  # next slot of the available ring to look at
    uint16_t seen_available  # the guest's index when it was last read
    uint16_t used_index  # private: the guest may write the ring's
    uint16_t published  # what the guest was shown of it
    uint16_t signalled  # used_index when notification was last decided
    bint signalled_valid
    uint64_t *taken  # one bit per head in flight
    uint16_t *batch  # heads pushed since the last publish
    dirty_log *log  # NULL while nothing is logged
    dirty_log *used_log  # NULL while the used ring is not
    uint64_t used_address  # the used ring in the log's address space
    inflight_header *inflight  # NULL where nothing outlives us
    inflight_entry *entries
    uint64_t counter


# One descriptor chain, translated. The pieces lie in this order: header, out, response, in. A descriptor that holds
# the end of a header and the start of data becomes two pieces: descriptor boundaries carry no meaning (2.7.4.1).
cdef struct chain:
    iovec *pieces
    uint64_t *addresses  # of the pieces as the guest sees them
    uint32_t room
    uint32_t used
    uint32_t header_count
    uint32_t out_count
    uint32_t response_count
    uint32_t in_count
    uint32_t header_bytes
    uint32_t response_bytes
    uint64_t out_bytes
    uint64_t in_bytes


cdef int vring_open(vring *ring, uint16_t size) noexcept nogil
cdef void vring_close(vring *ring) noexcept nogil

# How many chains wait; or -EPROTO, with ring.broken set, where the guest's index makes no sense.
cdef int vring_waiting(vring *ring) noexcept nogil
# Take the next one's head; only after vring_waiting said there is one. -EPROTO as above.
cdef int vring_take(vring *ring) noexcept nogil
cdef int vring_walk(
    const vring *ring, const memory_table *memory, uint16_t head, uint32_t header_size, uint32_t response_size,
    chain *out
) noexcept nogil
cdef void vring_push(vring *ring, uint16_t head, uint32_t written) noexcept nogil
cdef void vring_publish(vring *ring) noexcept nogil
cdef bint vring_must_notify(vring *ring) noexcept nogil
cdef void vring_silence(vring *ring) noexcept nogil
# Ask for kicks; returns whether something arrived meanwhile, so that nobody will kick for it.
cdef bint vring_listen(vring *ring) noexcept nogil

# Write response or data into pieces of a chain and tell the log; returns the bytes written.
cdef uint64_t chain_write(
    dirty_log *log, const iovec *pieces, const uint64_t *addresses, uint32_t count, const void *source, uint64_t length
) noexcept nogil
cdef uint64_t chain_read(const iovec *pieces, uint32_t count, void *target, uint64_t length) noexcept nogil
# The log is told of the first ``length`` bytes of these pieces, which others wrote (a device, memcpy of the medium).
cdef void chain_mark(
    dirty_log *log, const iovec *pieces, const uint64_t *addresses, uint32_t count, uint64_t length
) noexcept nogil
