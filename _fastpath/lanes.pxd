# cython: language_level=3
"""C view of the lanes: what a worker calls with commands it has gathered, without the GIL."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from _fastpath.cdb cimport parsed_cdb, transfer_scale
from _fastpath.sgio cimport Engine, sg_command


cdef enum:
    LANE_EVENT_SUPPORTED_OPCODES = 1
    LANE_EVENT_UNIT_ATTENTION = 2
    LANE_EVENT_CONFLICT = 3
    LANE_EVENT_SPC2_RESERVED = 4
    LANE_EVENT_SPC2_RELEASED = 5
    LANE_EVENT_SPC2_UNKNOWN = 6
    LANE_EVENT_INFORMATION_LOST = 7
    LANE_EVENT_OVERFLOW = 8


cdef struct lane_event:
    int32_t index  # of the command in the batch
    uint8_t kind  # LANE_EVENT_*
    uint8_t asc
    uint8_t ascq
    uint8_t opcode


cdef struct lane_ring:
    lane_event *events
    uint32_t capacity
    uint32_t head  # the oldest event
    uint32_t used
    uint64_t lost  # events that found the ring full since it was last drained


# Post what a finished command says about reservations, under this number; at most one event.
cdef void scan_completion(
    lane_ring *ring, const sg_command *command, const parsed_cdb *parsed, int index
) noexcept nogil


cdef class LaneRunner:
    cdef readonly Engine engine
    cdef readonly uint64_t overflows
    cdef lane_ring ring
    cdef transfer_scale scale
    cdef parsed_cdb *parsed
    cdef int *pr
    cdef int *others
    cdef int room
    cdef int pr_count
    cdef bint running

    cdef int reserve(self, int count) except -1
    cdef list _drain(self)

    # Parse commands[0..n-1], n at most what reserve was called with; run all but the PR lane's to their end. Leaves the
    # numbers of the PR lane's in self.pr[0..pr_count-1] and events in the ring. Returns what the engine's submit did.
    cdef int run_lanes(self, sg_command *commands, int n) noexcept nogil
