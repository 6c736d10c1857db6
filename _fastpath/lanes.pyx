# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The three lanes of the fast path: parse, sort, submit, and look at what came back, in one pass without the GIL."""

from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from _fastpath.cdb cimport CDB_CLASS_SPC2, CDB_LANE_FAST, CDB_LANE_INSPECT, CDB_LANE_PR, parse_scaled, parsed_cdb, \
    scale_for
from _fastpath.sgio cimport SG_FATE_DONE, SG_FATE_NOT_EXECUTED, SG_SENSE_SIZE, Batch, Engine, clear_result, \
    raise_engine_error, sg_command

EVENT_SUPPORTED_OPCODES = LANE_EVENT_SUPPORTED_OPCODES
EVENT_UNIT_ATTENTION = LANE_EVENT_UNIT_ATTENTION
EVENT_CONFLICT = LANE_EVENT_CONFLICT
EVENT_SPC2_RESERVED = LANE_EVENT_SPC2_RESERVED
EVENT_SPC2_RELEASED = LANE_EVENT_SPC2_RELEASED
EVENT_SPC2_UNKNOWN = LANE_EVENT_SPC2_UNKNOWN
EVENT_INFORMATION_LOST = LANE_EVENT_INFORMATION_LOST
EVENT_OVERFLOW = LANE_EVENT_OVERFLOW

cdef enum:
    GOOD = 0x00
    CHECK_CONDITION = 0x02
    RESERVATION_CONFLICT = 0x18
    # Older kernels report a reservation conflict with this host status instead of 0.
    DID_NEXUS_FAILURE = 0x11

    OPCODE_RESERVE_6 = 0x16
    OPCODE_RESERVE_10 = 0x56

    SENSE_UNIT_ATTENTION = 0x6
    SENSE_DATA_PROTECT = 0x7
    FIXED_SENSE = 18

# CHECK CONDITION, ILLEGAL REQUEST, INVALID FIELD IN CDB (SPC-4 4.5.3).
cdef uint8_t[FIXED_SENSE] INVALID_FIELD_IN_CDB = [0x70, 0, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0]


cdef void _post(lane_ring *ring, int index, uint8_t kind, uint8_t asc, uint8_t ascq, uint8_t opcode) noexcept nogil:
    cdef lane_event *event
    if ring.used == ring.capacity:
        ring.lost += 1
        return
    event = &ring.events[(ring.head + ring.used) % ring.capacity]
    event.index = index
    event.kind = kind
    event.asc = asc
    event.ascq = ascq
    event.opcode = opcode
    ring.used += 1


cdef void _refuse(sg_command *command) noexcept nogil:
    """Answer a CDB that is shorter than its operation code demands; no device is trusted to notice."""
    clear_result(command)
    command.status = CHECK_CONDITION
    command.sense_length = FIXED_SENSE
    memcpy(command.sense, INVALID_FIELD_IN_CDB, FIXED_SENSE)
    command.residual = <int>command.transfer_length


cdef void _scan_sense(lane_ring *ring, const sg_command *command, int index, uint8_t opcode) noexcept nogil:
    """Post the event of a CHECK CONDITION that concerns reservations (sense data: SPC-4 4.5)."""
    cdef const uint8_t *sense = &command.sense[0]
    cdef uint32_t length = min(<uint32_t>command.sense_length, <uint32_t>SG_SENSE_SIZE)
    cdef uint8_t key
    cdef uint8_t asc = 0
    cdef uint8_t ascq = 0
    cdef uint8_t response
    if length < 3:
        return
    response = sense[0] & 0x7F
    if (response == 0x72 or response == 0x73) and length >= 4:
        key = sense[1] & 0x0F
        asc = sense[2]
        ascq = sense[3]
    elif response == 0x70 or response == 0x71:
        key = sense[2] & 0x0F
        if length >= 14 and sense[7] >= 6:
            asc = sense[12]
            ascq = sense[13]
    else:
        return
    # Every unit attention: a target may drop the others that were queued when it reports one.
    if key == SENSE_UNIT_ATTENTION:
        _post(ring, index, LANE_EVENT_UNIT_ATTENTION, asc, ascq, opcode)
    elif key == SENSE_DATA_PROTECT and asc == 0x44 and ascq == 0x01:
        _post(ring, index, LANE_EVENT_INFORMATION_LOST, asc, ascq, opcode)


cdef void scan_completion(
    lane_ring *ring, const sg_command *command, const parsed_cdb *parsed, int index
) noexcept nogil:
    if command.fate == SG_FATE_NOT_EXECUTED:
        return
    if command.status == RESERVATION_CONFLICT and command.host_status in (0, DID_NEXUS_FAILURE):
        _post(ring, index, LANE_EVENT_CONFLICT, 0, 0, parsed.opcode)
    elif command.fate != SG_FATE_DONE or command.host_status != 0:
        if parsed.cls == CDB_CLASS_SPC2:
            _post(ring, index, LANE_EVENT_SPC2_UNKNOWN, 0, 0, parsed.opcode)
    elif command.status == CHECK_CONDITION:
        _scan_sense(ring, command, index, parsed.opcode)
    elif command.status == GOOD and parsed.lane == CDB_LANE_INSPECT:
        if parsed.cls != CDB_CLASS_SPC2:
            _post(ring, index, LANE_EVENT_SUPPORTED_OPCODES, 0, 0, parsed.opcode)
        elif parsed.opcode == OPCODE_RESERVE_6 or parsed.opcode == OPCODE_RESERVE_10:
            _post(ring, index, LANE_EVENT_SPC2_RESERVED, 0, 0, parsed.opcode)
        else:
            _post(ring, index, LANE_EVENT_SPC2_RELEASED, 0, 0, parsed.opcode)


cdef class LaneRunner:
    def __cinit__(self, Engine engine not None, int event_capacity=256):
        if event_capacity < 1:
            raise ValueError(f"an event ring has room for at least 1 event, not {event_capacity}")
        self.engine = engine
        # What a command transfers is not asked here, so any block size does.
        scale_for(512, &self.scale)
        self.ring.events = <lane_event *>calloc(event_capacity, sizeof(lane_event))
        if self.ring.events is NULL:
            raise MemoryError(f"no memory for {event_capacity} events")
        self.ring.capacity = event_capacity

    def __dealloc__(self):
        free(self.ring.events)
        free(self.parsed)
        free(self.pr)
        free(self.others)

    cdef int reserve(self, int count) except -1:
        """Make room for batches of ``count`` commands, so that run_lanes never allocates."""
        cdef parsed_cdb *parsed
        cdef int *pr
        cdef int *others
        if count <= self.room:
            return 0
        if count > INT_MAX // <int>sizeof(parsed_cdb):
            raise ValueError(f"a batch of {count} commands is too large")
        parsed = <parsed_cdb *>calloc(count, sizeof(parsed_cdb))
        pr = <int *>calloc(count, sizeof(int))
        others = <int *>calloc(count, sizeof(int))
        if parsed is NULL or pr is NULL or others is NULL:
            free(parsed)
            free(pr)
            free(others)
            raise MemoryError(f"no memory to sort {count} commands into lanes")
        free(self.parsed)
        free(self.pr)
        free(self.others)
        self.parsed = parsed
        self.pr = pr
        self.others = others
        self.room = count
        return 0

    cdef int run_lanes(self, sg_command *commands, int n) noexcept nogil:
        cdef int others = 0
        cdef int pr = 0
        cdef int rc = 0
        cdef int i
        cdef int k
        for i in range(n):
            parse_scaled(commands[i].cdb, commands[i].cdb_length, &self.scale, &self.parsed[i])
            if self.parsed[i].lane == CDB_LANE_PR:
                self.pr[pr] = i
                pr += 1
            elif self.parsed[i].valid:
                self.others[others] = i
                others += 1
            else:
                _refuse(&commands[i])
        self.pr_count = pr
        if others == 0:
            return 0
        rc = self.engine.submit(commands, self.others, others)
        for k in range(others):
            i = self.others[k]
            # Nearly every command ends here: GOOD, and nobody asked about it.
            if commands[i].status == GOOD and self.parsed[i].lane == CDB_LANE_FAST:
                continue
            scan_completion(&self.ring, &commands[i], &self.parsed[i], i)
        return rc

    def run(self, Batch batch not None):
        cdef int rc = 0
        cdef int k
        if self.running:
            raise RuntimeError("the lane runner is running in another thread; give every thread its own runner")
        self.running = True
        try:
            batch.begin()
            try:
                self.reserve(batch.count)
                with nogil:
                    rc = self.run_lanes(batch.commands, batch.count)
            finally:
                batch.end()
            if rc < 0:
                raise_engine_error(rc, self.engine.label)
            pr = []
            for k in range(self.pr_count):
                pr.append(self.pr[k])
            return pr, self._drain()
        finally:
            self.running = False

    cdef list _drain(self):
        """The ring's events, oldest first; a lost one is announced in front of them."""
        cdef lane_event *event
        cdef uint32_t i
        events = []
        if self.ring.lost:
            events.append((-1, LANE_EVENT_OVERFLOW, 0, 0))
        for i in range(self.ring.used):
            event = &self.ring.events[(self.ring.head + i) % self.ring.capacity]
            events.append((event.index, event.kind, event.asc, event.ascq))
        self.overflows += self.ring.lost
        self.ring.lost = 0
        self.ring.head = 0
        self.ring.used = 0
        return events
