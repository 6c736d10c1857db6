# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""CDB parsing by table: operation code -> row -> fields, without a branch on what the CDB says.

A switch mispredicts on a stream of mixed commands; here reads and writes of every size, and every other command whose
row follows from the operation code alone, take the same instructions. One branch leaves this straight path: for
operation codes that need a second look (a service action, BYTCHK, variable length) and for truncated CDBs.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINVAL
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath import optable

cdef extern from "<endian.h>" nogil:
    uint16_t be16toh(uint16_t value)
    uint32_t be32toh(uint32_t value)
    uint64_t be64toh(uint64_t value)

cdef extern from * nogil:
    bint unlikely "__builtin_expect" (bint condition, long expected)

CLASS_ALWAYS = CDB_CLASS_ALWAYS
CLASS_READ = CDB_CLASS_READ
CLASS_WRITE = CDB_CLASS_WRITE
CLASS_PR = CDB_CLASS_PR
CLASS_SPC2 = CDB_CLASS_SPC2
LANE_FAST = CDB_LANE_FAST
LANE_INSPECT = CDB_LANE_INSPECT
LANE_PR = CDB_LANE_PR
DIRECTION_NONE = CDB_DIRECTION_NONE
DIRECTION_IN = CDB_DIRECTION_IN
DIRECTION_OUT = CDB_DIRECTION_OUT
DIRECTION_BIDIRECTIONAL = CDB_DIRECTION_BIDIRECTIONAL
DIRECTION_UNKNOWN = CDB_DIRECTION_UNKNOWN

ITEM_FORMAT = "=QQIHHBBBBBBxx"
ITEM_SIZE = sizeof(parsed_cdb)
MAX_BLOCK_SIZE = 1 << 30  # 2 blocks x 2**32 - 1 still fit 64 bits

cdef enum:
    VARIABLE_LENGTH = 0x7F
    MIN_CDB = 6
    VARIABLE_HEADER = 10  # up to and with the service action
    WORD = 8  # every CDB is read in words of this size, so shorter ones are copied first
    ROWS = 2048
    BYTE_1_ACTIONS = 32
    VARIABLE_SLOTS = 64
    WORTH_RELEASING = 1024  # CDBs; fewer take less time than giving up the GIL and getting it back
    SECOND_LOOK = 0xFF
    MAX_ROOM = 0xFE  # more than any row demands but SECOND_LOOK

    UNIT_BYTES = 1
    UNIT_BLOCKS = 2
    UNIT_TWO_BLOCKS = 3
    UNIT_ONE_BLOCK = 4
    UNIT_512 = 6
    UNIT_EIGHT_BYTES = 7


cdef struct operation_row:
    uint64_t lba_mask
    uint32_t transfer_mask
    uint32_t blocks_mask
    uint8_t lba_offset
    uint8_t lba_shift
    uint8_t transfer_offset
    uint8_t bias
    uint8_t unit
    uint8_t demanded_length  # bytes that must be there, or SECOND_LOOK to leave the straight path
    uint16_t spare
    # The same 16 bytes as in parsed_cdb.
    uint32_t blocks
    uint16_t cdb_length
    uint16_t service_action
    uint8_t opcode
    uint8_t cls
    uint8_t lane
    uint8_t direction
    uint8_t valid
    uint8_t unknown
    uint16_t reserved


# Which row of a command that needs a second look: TABLE[base + (cdb[offset] & mask)]. Rows between two values of a mask
# with gaps are never looked at; they cost address space, a shift would cost time.
cdef struct row_selector:
    uint16_t base
    uint16_t service_action  # of a variable length command; its slot is found by the low bits only
    uint8_t offset
    uint8_t mask
    uint8_t used
    uint8_t reserved


cdef operation_row FIRST[256]  # by operation code
cdef row_selector SELECTORS[256]  # by operation code
cdef row_selector VARIABLE[VARIABLE_SLOTS]
cdef operation_row TABLE[ROWS]
cdef Py_ssize_t table_used = 0


cdef void scale_for(uint32_t block_size, transfer_scale *scale) noexcept nogil:
    """Bytes per unit for a logical block size; commands that send one block whatever they cover are set right later."""
    memset(scale, 0, sizeof(transfer_scale))
    scale.unit_bytes[UNIT_BYTES] = 1
    scale.unit_bytes[UNIT_BLOCKS] = block_size
    scale.unit_bytes[UNIT_TWO_BLOCKS] = 2 * <uint64_t>block_size
    scale.unit_bytes[UNIT_512] = 512
    scale.unit_bytes[UNIT_EIGHT_BYTES] = 8


cdef inline uint32_t _load16(const uint8_t *at) noexcept nogil:
    cdef uint16_t word
    memcpy(&word, at, sizeof(word))
    return be16toh(word)


cdef inline uint32_t _load32(const uint8_t *at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, at, sizeof(word))
    return be32toh(word)


cdef inline uint64_t _load64(const uint8_t *at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, sizeof(word))
    return be64toh(word)


cdef inline const operation_row *_select(const row_selector *selector, const uint8_t *cdb) noexcept nogil:
    return &TABLE[selector.base + (cdb[selector.offset] & selector.mask)]


cdef inline void _decode(
    const uint8_t *cdb, const operation_row *row, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil:
    """Fill ``out`` from a CDB of at least max(WORD, row.cdb_length) readable bytes."""
    cdef uint64_t lba = (_load64(cdb + row.lba_offset) >> row.lba_shift) & row.lba_mask
    cdef uint32_t raw = _load32(cdb + row.transfer_offset)
    cdef uint32_t bias = row.bias
    # With bias 1 a field of 0 wraps to its largest value plus 1: 256 blocks for READ(6) and WRITE(6).
    cdef uint32_t transfer = ((raw - bias) & row.transfer_mask) + bias
    memcpy(&out.blocks, &row.blocks, 16)
    out.lba = lba
    out.bytes = transfer * scale.unit_bytes[row.unit]
    out.blocks = transfer & row.blocks_mask


cdef inline void _refuse(const operation_row *row, parsed_cdb *out) noexcept nogil:
    """What can be said of a CDB that is not all there."""
    out.lba = 0
    out.bytes = 0
    memcpy(&out.blocks, &row.blocks, 16)
    out.valid = 0


cdef inline void _decode_selected(
    const uint8_t *cdb, const operation_row *row, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil:
    _decode(cdb, row, scale, out)
    if row.unit == UNIT_ONE_BLOCK:
        out.bytes = scale.unit_bytes[UNIT_BLOCKS]


cdef size_t _decode_variable(
    const uint8_t *cdb, size_t length, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil:
    """A CDB of operation code 7Fh (SPC-4 4.2.3); returns 1 where it is not all there or its length is wrong."""
    cdef const row_selector *selector
    cdef const operation_row *row = &TABLE[SELECTORS[VARIABLE_LENGTH].base]
    cdef uint32_t service_action
    cdef size_t claimed
    if length < VARIABLE_HEADER:
        _refuse(row, out)
        return 1
    claimed = WORD + <size_t>cdb[7]
    service_action = _load16(cdb + 8)
    selector = &VARIABLE[service_action & (VARIABLE_SLOTS - 1)]
    if selector.used and selector.service_action == service_action:
        # A selector byte beyond the end leaves the row for "no bit set".
        row = _select(selector, cdb) if selector.offset < min(length, claimed) else &TABLE[selector.base]
    _refuse(row, out)
    out.service_action = <uint16_t>service_action
    out.cdb_length = <uint16_t>claimed
    if claimed < VARIABLE_HEADER or claimed % 4 != 0 or claimed > length:
        return 1
    if row.cdb_length != 0 and row.cdb_length != claimed:
        return 1
    _decode_selected(cdb, row, scale, out)
    out.service_action = <uint16_t>service_action
    out.cdb_length = <uint16_t>claimed
    return 0


cdef size_t _second_look(
    const uint8_t *cdb, size_t length, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil:
    """What left the straight path; at least WORD bytes are readable. Returns 1 where the CDB is not all there."""
    cdef const operation_row *row
    if cdb[0] == VARIABLE_LENGTH:
        return _decode_variable(cdb, length, scale, out)
    row = _select(&SELECTORS[cdb[0]], cdb)
    if row.demanded_length > length:
        _refuse(row, out)
        return 1
    _decode_selected(cdb, row, scale, out)
    return 0


cdef size_t _parse_short(
    const uint8_t *cdb, size_t length, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil:
    """A CDB in fewer than WORD bytes: copied, so that word reads stay inside."""
    cdef uint8_t padded[WORD]
    cdef size_t i
    memset(padded, 0, WORD)
    for i in range(length):
        padded[i] = cdb[i]
    return _second_look(padded, length, scale, out)


cdef size_t parse_many(
    const uint8_t *cdbs, size_t stride, size_t count, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil:
    cdef uint8_t room = <uint8_t>min(stride, <size_t>MAX_ROOM)
    cdef size_t invalid = 0
    cdef size_t i
    cdef const uint8_t *cdb
    cdef const operation_row *row
    if stride < WORD:
        for i in range(count):
            invalid += _parse_short(cdbs + i * stride, stride, scale, &out[i])
        return invalid
    for i in range(count):
        cdb = cdbs + i * stride
        row = &FIRST[cdb[0]]
        if unlikely(row.demanded_length > room, 0):
            invalid += _second_look(cdb, stride, scale, &out[i])
        else:
            _decode(cdb, row, scale, &out[i])
    return invalid


cdef int parse_scaled(const uint8_t *cdb, size_t length, const transfer_scale *scale, parsed_cdb *out) noexcept nogil:
    cdef size_t invalid
    if length < WORD:
        invalid = _parse_short(cdb, length, scale, out)
    else:
        invalid = parse_many(cdb, length, 1, scale, out)
    return -EINVAL if invalid else 0


cdef int parse_one(const uint8_t *cdb, size_t length, uint32_t block_size, parsed_cdb *out) noexcept nogil:
    cdef transfer_scale scale
    scale_for(block_size, &scale)
    return parse_scaled(cdb, length, &scale, out)


cdef _place(operation_row *row, object lba, object transfer, int unit, int zero_means):
    """Compile the two fields into word offsets, shifts and masks."""
    cdef int end
    if lba is not None:
        end = lba.last + 1
        row.lba_offset = max(end - 8, 0)
        row.lba_shift = 8 * (8 - end) if end < 8 else 0
        row.lba_mask = (1 << lba.bits) - 1
    if transfer is not None:
        if transfer.last < 3:
            raise ValueError(f"transfer field {transfer} of {row.opcode:02X}h ends before byte 3")
        row.transfer_offset = transfer.last - 3
        row.transfer_mask = (1 << transfer.bits) - 1
        if unit in (optable.UNIT_BLOCKS, optable.UNIT_TWO_BLOCKS, optable.UNIT_ONE_BLOCK, optable.UNIT_NO_DATA):
            row.blocks_mask = 0xFFFFFFFF
        if zero_means != 0:
            if zero_means != 1 << transfer.bits:
                raise ValueError(f"{row.opcode:02X}h: a field of 0 can only mean one more than its largest value")
            row.bias = 1
    if unit == UNIT_EIGHT_BYTES:
        row.bias = 1  # mask 0: always one unit
    row.unit = unit


cdef _fill(operation_row *row, object operation):
    """Compile one optable row."""
    row.opcode = operation.opcode
    row.cls = operation.cls
    row.lane = operation.lane
    row.direction = operation.direction
    row.valid = 1
    if operation.service_action is not None and operation.service_action >= 0:
        row.service_action = operation.service_action
    row.cdb_length = operation.cdb_length
    row.demanded_length = operation.cdb_length
    _place(row, operation.lba, operation.transfer, operation.unit, operation.zero_means)


cdef _fill_unknown(operation_row *row, int opcode, int service_action, int cdb_length, int direction):
    """An operation nobody defined: as a write, since it may do anything."""
    row.opcode = opcode
    row.service_action = service_action
    row.cls = CDB_CLASS_WRITE
    row.lane = CDB_LANE_FAST
    row.direction = direction
    row.valid = 1
    row.unknown = 1
    row.cdb_length = cdb_length
    row.demanded_length = cdb_length if cdb_length else MIN_CDB


cdef int _allocate(int rows) except -1:
    global table_used
    cdef Py_ssize_t base = table_used
    if base + rows > ROWS:
        raise ValueError(f"the operation table needs more than {ROWS} rows")
    table_used += rows
    return base


cdef _compile_command(row_selector *selector, list candidates):
    """Rows of one command that differ in bits of one CDB byte: one table row per value of those bits."""
    cdef int mask = 0
    cdef int offset = 0
    cdef int value
    for operation in candidates:
        if operation.when is not None:
            if mask and operation.when.byte != offset:
                raise ValueError(f"rows of {operation.name} depend on more than one byte")
            mask |= operation.when.mask
            offset = operation.when.byte
    selector.base = _allocate(mask + 1)
    selector.offset = offset
    selector.mask = mask
    selector.used = 1
    for value in range(mask + 1):
        if value & ~mask:
            continue
        for operation in candidates:
            if operation.when is None or value & operation.when.mask == operation.when.value:
                _fill(&TABLE[selector.base + value], operation)
                break


cdef _compile_byte_1_actions(row_selector *selector, int opcode, dict by_action):
    """An operation code with a service action in byte 1 bits 4-0: one row each."""
    cdef int action
    cdef int direction = optable.SERVICE_ACTION_OPCODES[opcode][1]
    cdef operation_row *row
    selector.base = _allocate(BYTE_1_ACTIONS)
    selector.offset = 1
    selector.mask = BYTE_1_ACTIONS - 1
    selector.used = 1
    for action in range(BYTE_1_ACTIONS):
        row = &TABLE[selector.base + action]
        candidates = by_action.get(action) or by_action.get(optable.ANY_SERVICE_ACTION)
        if candidates is None:
            _fill_unknown(row, opcode, action, optable.unknown_cdb_length(opcode), direction)
            continue
        if len(candidates) != 1:
            raise ValueError(f"{candidates[0].name}: a service action in byte 1 leaves no other selector")
        _fill(row, candidates[0])
        row.service_action = action


cdef _compile_variable(dict by_action):
    """Operation code 7Fh: service actions by their low bits, all of them different."""
    cdef row_selector *selector
    for action, candidates in by_action.items():
        selector = &VARIABLE[action & (VARIABLE_SLOTS - 1)]
        if selector.used:
            raise ValueError(f"variable length service actions {action:04X}h and "
                             f"{selector.service_action:04X}h share their low bits")
        _compile_command(selector, candidates)
        selector.service_action = action


cdef _compile():
    """Fill the C tables from optable, once, at import."""
    cdef int opcode
    cdef row_selector *selector
    commands = {}
    for operation in optable.OPERATIONS:
        commands.setdefault(operation.opcode, {}).setdefault(operation.service_action, []).append(operation)
    for opcode in range(256):
        by_action = commands.get(opcode, {})
        selector = &SELECTORS[opcode]
        if opcode == VARIABLE_LENGTH:
            _compile_variable(by_action)
            by_action = {}
        if opcode in optable.SERVICE_ACTION_OPCODES:
            _compile_byte_1_actions(selector, opcode, by_action)
        elif by_action:
            _compile_command(selector, by_action[None])
        else:
            selector.base = _allocate(1)
            _fill_unknown(
                &TABLE[selector.base], opcode, 0, optable.unknown_cdb_length(opcode), CDB_DIRECTION_UNKNOWN
            )
        FIRST[opcode] = TABLE[selector.base]
        if selector.mask or FIRST[opcode].unit == UNIT_ONE_BLOCK or opcode == VARIABLE_LENGTH:
            FIRST[opcode].demanded_length = SECOND_LOOK


_compile()


cdef uint32_t _checked_block_size(object block_size) except 0:
    if not 0 < block_size <= MAX_BLOCK_SIZE:
        raise ValueError(f"block size {block_size} is not in 1..{MAX_BLOCK_SIZE} bytes")
    return block_size


cdef class ParsedCdb:
    """What one CDB says; see cdb.pyi."""

    def __init__(self):
        raise TypeError("ParsedCdb objects come from parse() and ParsedBatch")

    @property
    def opcode(self):
        return self.value.opcode

    @property
    def service_action(self):
        return self.value.service_action

    @property
    def lba(self):
        return self.value.lba

    @property
    def blocks(self):
        return self.value.blocks

    @property
    def bytes(self):
        return self.value.bytes

    @property
    def cls(self):
        return self.value.cls

    @property
    def lane(self):
        return self.value.lane

    @property
    def direction(self):
        return self.value.direction

    @property
    def cdb_length(self):
        return self.value.cdb_length

    @property
    def valid(self):
        return self.value.valid != 0

    @property
    def unknown(self):
        return self.value.unknown != 0

    @property
    def name(self):
        return optable.operation_name(self.value.opcode, self.value.service_action)

    def as_tuple(self):
        return (
            self.opcode, self.service_action, self.lba, self.blocks, self.bytes, self.cls, self.lane,
            self.direction, self.cdb_length, self.valid, self.unknown,
        )

    def __eq__(self, other):
        return isinstance(other, ParsedCdb) and self.as_tuple() == (<ParsedCdb>other).as_tuple()

    def __hash__(self):
        return hash(self.as_tuple())

    def __repr__(self):
        return (
            f"ParsedCdb({self.name}, opcode={self.opcode:#04x}, service_action={self.service_action:#x}, "
            f"lba={self.lba}, blocks={self.blocks}, bytes={self.bytes}, cls={self.cls}, lane={self.lane}, "
            f"direction={self.direction}, cdb_length={self.cdb_length}, valid={self.valid}, unknown={self.unknown})"
        )


cdef class ParsedBatch:

    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 1:
            raise ValueError(f"a batch has room for at least 1 CDB, not {capacity}")
        self.rows = <parsed_cdb *>calloc(capacity, sizeof(parsed_cdb))
        if self.rows is NULL:
            raise MemoryError(f"no memory for {capacity} parsed CDBs")
        self.capacity = capacity

    def __dealloc__(self):
        free(self.rows)

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t index):
        if index < 0:
            index += self.count
        if not 0 <= index < self.count:
            raise IndexError(f"no parsed CDB {index} in a batch of {self.count}")
        cdef ParsedCdb parsed = ParsedCdb.__new__(ParsedCdb)
        parsed.value = self.rows[index]
        return parsed

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.rows, self.count * <Py_ssize_t>sizeof(parsed_cdb), 1, flags)


def parse(cdb, block_size=512):
    cdef Py_buffer view
    cdef ParsedCdb parsed = ParsedCdb.__new__(ParsedCdb)
    cdef uint32_t size = _checked_block_size(block_size)
    PyObject_GetBuffer(cdb, &view, PyBUF_SIMPLE)
    try:
        parse_one(<const uint8_t *>view.buf, view.len, size, &parsed.value)
    finally:
        PyBuffer_Release(&view)
    return parsed


def parse_batch(cdbs, Py_ssize_t stride, ParsedBatch out=None, block_size=512):
    cdef Py_buffer view
    cdef Py_ssize_t count
    cdef size_t invalid
    cdef transfer_scale scale
    scale_for(_checked_block_size(block_size), &scale)
    if stride < 1:
        raise ValueError(f"stride {stride} is less than 1 byte")
    PyObject_GetBuffer(cdbs, &view, PyBUF_SIMPLE)
    try:
        if view.len % stride:
            raise ValueError(f"{view.len} bytes are no whole number of {stride} byte slots")
        count = view.len // stride
        if out is None:
            out = ParsedBatch(max(count, 1))
        elif out.capacity < count:
            raise ValueError(f"{count} CDBs do not fit a batch of capacity {out.capacity}")
        if count < WORTH_RELEASING:
            invalid = parse_many(<const uint8_t *>view.buf, stride, count, &scale, out.rows)
        else:
            with nogil:
                invalid = parse_many(<const uint8_t *>view.buf, stride, count, &scale, out.rows)
        out.count = count
        out.invalid = invalid
    finally:
        PyBuffer_Release(&view)
    return out
