# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""One split virtqueue as the device sees it. The driver is hostile: nothing it wrote is read twice or trusted.

Indices are free-running 16-bit numbers. A violation of the ring's structure (an index that jumps, a head out of range
or already in flight) breaks the ring; a violation inside a chain concerns that chain alone.
"""

from libc.errno cimport E2BIG, EFAULT, EINVAL, ELOOP, ENOMEM, EPROTO
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.guest_memory cimport (
    dirty_log, guest_mark, guest_publish16, guest_read_bytes, guest_store16, guest_store64, guest_translate,
    guest_write, memory_table,
)
from _fastpath.sgio cimport iovec

cdef extern from "plane_atomic.h" nogil:
    uint16_t plane_load16(const void *word)
    uint16_t plane_load16_acquire(const void *word)
    uint64_t plane_load64(const void *word)
    void plane_store8(void *byte, uint8_t value)
    void plane_fence()
    void plane_release()

cdef enum:
    DESCRIPTOR_BYTES = 16
    RING_INDEX = 2  # offset of idx in both rings
    AVAILABLE_RING = 4
    USED_RING = 4


cdef int vring_open(vring *ring, uint16_t size) noexcept nogil:
    """Make an empty ring's private memory; 0 or -ENOMEM. The caller sets the addresses."""
    memset(ring, 0, sizeof(vring))
    ring.size = size
    ring.mask = size - 1
    ring.taken = <uint64_t *>calloc((<size_t>size + 63) // 64, sizeof(uint64_t))
    ring.batch = <uint16_t *>calloc(size, sizeof(uint16_t))
    if ring.taken is NULL or ring.batch is NULL:
        vring_close(ring)
        return -ENOMEM
    return 0


cdef void vring_close(vring *ring) noexcept nogil:
    free(ring.taken)
    free(ring.batch)
    ring.taken = NULL
    ring.batch = NULL


# --- taking chains ----------------------------------------------------------------------------------------------------

cdef int vring_waiting(vring *ring) noexcept nogil:
    cdef uint16_t waiting
    # Acquire: entries and descriptors are read after the index that announced them.
    ring.seen_available = plane_load16_acquire(ring.available + RING_INDEX)
    waiting = ring.seen_available - ring.last_available
    if waiting > ring.size:
        ring.broken = RING_INDEX_JUMP
        return -EPROTO
    return waiting


cdef int vring_take(vring *ring) noexcept nogil:
    cdef uint16_t head = plane_load16(ring.available + AVAILABLE_RING + 2 * (ring.last_available & ring.mask))
    cdef uint64_t bit
    if head >= ring.size:
        ring.broken = RING_BAD_HEAD
        return -EPROTO
    bit = <uint64_t>1 << (head & 63)
    if ring.taken[head >> 6] & bit:
        ring.broken = RING_HEAD_IN_FLIGHT
        return -EPROTO
    ring.taken[head >> 6] |= bit
    ring.last_available += 1
    if ring.inflight is not NULL:
        ring.entries[head].counter = ring.counter
        ring.counter += 1
        plane_release()
        plane_store8(&ring.entries[head].inflight, 1)
        plane_release()
    return head


cdef inline int _add(
    const memory_table *memory, chain *out, uint64_t address, uint64_t length, uint32_t first_size,
    uint32_t *first_bytes, uint32_t *first_count, uint32_t *rest_count, uint64_t *rest_bytes
) noexcept nogil:
    """Append a buffer: its bytes belong to the header (or response) until that has ``first_size``, then to the data."""
    cdef uint8_t *host = NULL
    cdef uint64_t n
    cdef uint32_t at
    while length:
        n = guest_translate(memory, address, length, &host)
        if n == 0:
            return -EFAULT
        at = out.used
        if first_bytes[0] < first_size:
            n = min(n, <uint64_t>(first_size - first_bytes[0]))
            first_bytes[0] += <uint32_t>n
            first_count[0] += 1
        else:
            rest_bytes[0] += n
            if (
                rest_count[0] and <uint8_t *>out.pieces[at - 1].iov_base + out.pieces[at - 1].iov_len == host
                and out.addresses[at - 1] + out.pieces[at - 1].iov_len == address
            ):
                out.pieces[at - 1].iov_len += n
                address += n
                length -= n
                continue
            rest_count[0] += 1
        if at == out.room:
            return -E2BIG
        out.pieces[at].iov_base = host
        out.pieces[at].iov_len = n
        out.addresses[at] = address
        out.used = at + 1
        address += n
        length -= n
    return 0


cdef inline int _fetch(
    const memory_table *memory, const uint8_t *host, uint64_t address, uint32_t index, vring_descriptor *out
) noexcept nogil:
    """Copy descriptor ``index`` of a table, once: what is checked is what is used."""
    cdef const uint8_t *at
    cdef uint64_t words[2]
    if host is NULL:
        return guest_read_bytes(memory, address + <uint64_t>index * DESCRIPTOR_BYTES, out, DESCRIPTOR_BYTES)
    at = host + <size_t>index * DESCRIPTOR_BYTES
    words[0] = plane_load64(at)
    words[1] = plane_load64(at + 8)
    memcpy(out, words, DESCRIPTOR_BYTES)
    return 0


cdef int vring_walk(
    const vring *ring, const memory_table *memory, uint16_t head, uint32_t header_size, uint32_t response_size,
    chain *out
) noexcept nogil:
    """Follow a chain and translate it: 0, or why it cannot be used (virtio 1.2 2.7.5).

    -ELOOP: more descriptors than the table has. -EINVAL: next or INDIRECT used wrongly, readable after writable.
    -EFAULT: an address in no region. -E2BIG: more pieces than there is room for. What was translated until then is
    in ``out``.
    """
    cdef vring_descriptor one
    cdef const uint8_t *table = ring.descriptors
    cdef uint8_t *host = NULL
    cdef uint64_t table_address = 0
    cdef uint32_t entries = ring.size
    cdef uint32_t steps = 0
    cdef uint32_t index = head
    cdef bint nested = False
    cdef bint writable = False
    cdef int rc
    out.used = 0
    out.header_count = 0
    out.out_count = 0
    out.response_count = 0
    out.in_count = 0
    out.header_bytes = 0
    out.response_bytes = 0
    out.out_bytes = 0
    out.in_bytes = 0
    while True:
        if steps == entries:
            return -ELOOP
        steps += 1
        rc = _fetch(memory, table, table_address, index, &one)
        if rc:
            return rc
        if one.flags & DESCRIPTOR_INDIRECT:
            if nested or not ring.indirect or one.flags & DESCRIPTOR_NEXT:
                return -EINVAL
            if one.length == 0 or one.length % DESCRIPTOR_BYTES or one.length // DESCRIPTOR_BYTES > MAX_QUEUE_SIZE:
                return -EINVAL
            nested = True
            table_address = one.address
            entries = one.length // DESCRIPTOR_BYTES
            steps = 0
            index = 0
            table = NULL
            if one.address & 7 == 0 and guest_translate(memory, one.address, one.length, &host) == one.length:
                table = host
            continue
        if one.flags & DESCRIPTOR_WRITE:
            writable = True
            rc = _add(memory, out, one.address, one.length, response_size, &out.response_bytes, &out.response_count,
                      &out.in_count, &out.in_bytes)
        elif writable:
            return -EINVAL
        else:
            rc = _add(memory, out, one.address, one.length, header_size, &out.header_bytes, &out.header_count,
                      &out.out_count, &out.out_bytes)
        if rc:
            return rc
        if not one.flags & DESCRIPTOR_NEXT:
            return 0
        index = one.next
        if index >= entries:
            return -EINVAL


# --- giving them back -------------------------------------------------------------------------------------------------

cdef void vring_push(vring *ring, uint16_t head, uint32_t written) noexcept nogil:
    """Put a used element where the guest will find it after the next vring_publish."""
    cdef uint32_t at = USED_RING + 8 * <uint32_t>(ring.used_index & ring.mask)
    cdef uint16_t pending = ring.used_index - ring.published
    ring.taken[head >> 6] &= ~(<uint64_t>1 << (head & 63))
    ring.batch[pending] = head
    if ring.inflight is not NULL:
        ring.entries[head].next = ring.inflight.last_batch_head
        plane_release()
        ring.inflight.last_batch_head = head
    guest_store64(ring.used_log, ring.used + at, ring.used_address + at, head | <uint64_t>written << 32)
    ring.used_index += 1


cdef void vring_publish(vring *ring) noexcept nogil:
    """Show the guest what was pushed."""
    cdef uint16_t count = ring.used_index - ring.published
    cdef uint16_t i
    if count == 0:
        return
    plane_release()
    guest_publish16(ring.used_log, ring.used + RING_INDEX, ring.used_address + RING_INDEX, ring.used_index)
    if ring.inflight is not NULL:
        plane_release()
        for i in range(count):
            plane_store8(&ring.entries[ring.batch[i]].inflight, 0)
        plane_release()
        ring.inflight.used_index = ring.used_index
    ring.published = ring.used_index


cdef bint vring_must_notify(vring *ring) noexcept nogil:
    """Whether the guest wants to be told of what was published since the last call (virtio 1.2 2.7.7.2, 2.7.10)."""
    cdef uint16_t event
    cdef uint16_t before = ring.signalled
    cdef bint valid = ring.signalled_valid
    if valid and before == ring.published:
        return False
    # The index must be visible before the guest's wish is read, or both sides wait for each other.
    plane_fence()
    ring.signalled = ring.published
    ring.signalled_valid = True
    if not ring.event_index:
        return not plane_load16(ring.available) & NO_NOTIFICATION
    if not valid:
        return True
    event = plane_load16(ring.available + AVAILABLE_RING + 2 * <size_t>ring.size)
    return <uint16_t>(ring.published - event - 1) < <uint16_t>(ring.published - before)


cdef void vring_silence(vring *ring) noexcept nogil:
    """Tell the guest that it need not kick. With event indices the one it has is simply left behind."""
    if ring.quiet:
        return
    ring.quiet = True
    if not ring.event_index:
        guest_store16(ring.used_log, ring.used, ring.used_address, NO_NOTIFICATION)


cdef bint vring_listen(vring *ring) noexcept nogil:
    cdef uint32_t at = USED_RING + 8 * <uint32_t>ring.size
    ring.quiet = False
    if ring.event_index:
        guest_store16(ring.used_log, ring.used + at, ring.used_address + at, ring.last_available)
    else:
        guest_store16(ring.used_log, ring.used, ring.used_address, 0)
    plane_fence()
    return plane_load16_acquire(ring.available + RING_INDEX) != ring.last_available


# --- bytes of chains --------------------------------------------------------------------------------------------------

cdef uint64_t chain_write(
    dirty_log *log, const iovec *pieces, const uint64_t *addresses, uint32_t count, const void *source, uint64_t length
) noexcept nogil:
    cdef uint64_t done = 0
    cdef uint64_t n
    cdef uint32_t i
    for i in range(count):
        n = min(<uint64_t>pieces[i].iov_len, length - done)
        guest_write(log, <uint8_t *>pieces[i].iov_base, addresses[i], <const uint8_t *>source + done, n)
        done += n
    return done


cdef uint64_t chain_read(const iovec *pieces, uint32_t count, void *target, uint64_t length) noexcept nogil:
    cdef uint64_t done = 0
    cdef uint64_t n
    cdef uint32_t i
    for i in range(count):
        n = min(<uint64_t>pieces[i].iov_len, length - done)
        memcpy(<uint8_t *>target + done, pieces[i].iov_base, n)
        done += n
    return done


cdef void chain_mark(
    dirty_log *log, const iovec *pieces, const uint64_t *addresses, uint32_t count, uint64_t length
) noexcept nogil:
    cdef uint64_t n
    cdef uint32_t i
    if log is NULL:
        return
    for i in range(count):
        n = min(<uint64_t>pieces[i].iov_len, length)
        guest_mark(log, addresses[i], n)
        length -= n
