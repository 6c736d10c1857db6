# cython: language_level=3
"""What is counted of one logical unit's commands; one worker writes one struct, anybody may read it at any time."""

from libc.stdint cimport uint8_t, uint64_t

cdef extern from "plane_atomic.h" nogil:
    int plane_bits(uint64_t value)


cdef enum:
    TRAFFIC_CLASSES = 5  # CDB_CLASS_*
    TRAFFIC_STATUSES = 6
    # Upper bounds of 10 us times a power of two, to 10.5 s, and what took longer.
    TRAFFIC_BUCKETS = 22
    TRAFFIC_FIRST_NS = 10_000

    STATUS_GOOD = 0
    STATUS_CHECK_CONDITION = 1
    STATUS_BUSY = 2  # BUSY, TASK SET FULL
    STATUS_CONFLICT = 3
    STATUS_OTHER = 4
    STATUS_NONE = 5  # no status: the response says why


cdef struct unit_traffic:
    uint64_t commands[TRAFFIC_CLASSES]
    uint64_t statuses[TRAFFIC_STATUSES]
    uint64_t bytes_in  # to the guest
    uint64_t bytes_out
    uint64_t python  # handed to Python
    uint64_t sense_keys[16]  # of the CHECK CONDITIONs
    # Of commands that a device had, by reads, writes and others.
    uint64_t latency[3 * TRAFFIC_BUCKETS]
    uint64_t latency_ns[3]


cdef inline int _status_of(uint8_t response, uint8_t status) noexcept nogil:
    if response:
        return STATUS_NONE
    if status == 0:
        return STATUS_GOOD
    if status == 0x02:
        return STATUS_CHECK_CONDITION
    if status == 0x18:
        return STATUS_CONFLICT
    return STATUS_BUSY if status in (0x08, 0x28) else STATUS_OTHER


cdef inline void traffic_count(
    unit_traffic *self, uint8_t cls, uint8_t response, uint8_t status, bint to_guest, uint64_t moved
) noexcept nogil:
    self.commands[cls] += 1
    self.statuses[_status_of(response, status)] += 1
    if to_guest:
        self.bytes_in += moved
    else:
        self.bytes_out += moved


cdef inline void traffic_sense(unit_traffic *self, const uint8_t *sense, int size) noexcept nogil:
    # Fixed format has the key in byte 2, descriptor format in byte 1 (SPC-4 4.5); without sense data it is NO SENSE.
    cdef int key = 0
    if size > 2 and sense[0] & 0x7E == 0x70:
        key = sense[2] & 0x0F
    elif size > 1 and sense[0] & 0x7E == 0x72:
        key = sense[1] & 0x0F
    self.sense_keys[key] += 1


cdef inline void traffic_took(unit_traffic *self, uint8_t cls, uint64_t nanoseconds) noexcept nogil:
    cdef int kind = cls - 1 if cls == 1 or cls == 2 else 2
    cdef int bucket = 0
    if nanoseconds:
        bucket = min(plane_bits((nanoseconds - 1) // TRAFFIC_FIRST_NS), TRAFFIC_BUCKETS - 1)
    self.latency[kind * TRAFFIC_BUCKETS + bucket] += 1
    self.latency_ns[kind] += nanoseconds
