# cython: language_level=3
"""C view of CDB parsing: one 32 byte struct per CDB, no GIL, no allocation."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    CDB_CLASS_ALWAYS = 0
    CDB_CLASS_READ = 1
    CDB_CLASS_WRITE = 2
    CDB_CLASS_PR = 3
    CDB_CLASS_SPC2 = 4

    CDB_LANE_FAST = 0
    CDB_LANE_INSPECT = 1
    CDB_LANE_PR = 2

    CDB_DIRECTION_NONE = 0
    CDB_DIRECTION_IN = 1
    CDB_DIRECTION_OUT = 2
    CDB_DIRECTION_BIDIRECTIONAL = 3
    CDB_DIRECTION_UNKNOWN = 4

    CDB_UNITS = 8


cdef struct parsed_cdb:
    uint64_t lba
    uint64_t bytes  # data the CDB asks to transfer, 0 where it does not say; without protection information
    # From here on 16 bytes that operation_row repeats: they are copied in one piece, then blocks is set.
    uint32_t blocks  # logical blocks of the medium it names, 0 for commands without such a field
    uint16_t cdb_length  # 0 where the operation code does not tell (vendor specific, reserved group)
    uint16_t service_action
    uint8_t opcode
    uint8_t cls
    uint8_t lane
    uint8_t direction
    uint8_t valid  # 0: the CDB is shorter than its operation code demands; lba, blocks and bytes are then 0
    uint8_t unknown  # 1: no standard this table was made from defines the operation code or service action
    uint16_t reserved


# Bytes that one unit of a transfer length field stands for, by optable.UNIT_*.
cdef struct transfer_scale:
    uint64_t unit_bytes[CDB_UNITS]


cdef void scale_for(uint32_t block_size, transfer_scale *scale) noexcept nogil

# Parse the CDB in the first bytes of cdb[0..length-1]; bytes beyond it are ignored. Returns 0, or -EINVAL where it is
# too short, with out->valid 0 and the fields that could be read filled in. Never reads beyond length.
cdef int parse_scaled(const uint8_t *cdb, size_t length, const transfer_scale *scale, parsed_cdb *out) noexcept nogil
cdef int parse_one(const uint8_t *cdb, size_t length, uint32_t block_size, parsed_cdb *out) noexcept nogil

# count CDBs, each in a slot of stride bytes; returns how many were too short.
cdef size_t parse_many(
    const uint8_t *cdbs, size_t stride, size_t count, const transfer_scale *scale, parsed_cdb *out
) noexcept nogil


cdef class ParsedCdb:
    cdef parsed_cdb value


cdef class ParsedBatch:
    """Room for ``capacity`` parsed CDBs, of which ``count`` are filled; see cdb.pyi."""

    cdef parsed_cdb *rows
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t invalid
