# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The commands of the emulated unit that run in the worker thread itself, because they only copy memory.

Only what ends with GOOD ends here. Whatever is refused, in conflict, out of range or faulty changes nothing and is
left to Python, which executes the same command again and answers it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.blocks cimport iovec, medium_flush, medium_rw
from _fastpath.cdb cimport parsed_cdb, scale_for
from _fastpath.gate cimport (
    ACCESS_ALWAYS, ACCESS_READ, ACCESS_WRITE, ADMIT_GO, GATE_TASK_ABORTED, GATE_WRITE_PROTECTED, GATE_WRITE_THROUGH,
    NexusGate, gate_admit, gate_enter, gate_leave,
)
from _fastpath.medium cimport Medium

cdef extern from "<errno.h>" nogil:
    enum:
        ECANCELED

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)

cdef enum:
    PROTECT = 0xE0
    FUA = 0x08
    NACA = 0x04
    MAX_TRANSFER_BYTES = 64 << 20

    KIND_NONE = 0
    KIND_READY = 1
    KIND_READ = 2
    KIND_WRITE = 3
    KIND_SYNCHRONIZE = 4

# By operation code: what runs here.
cdef uint8_t[256] _KINDS
_KINDS[:] = [KIND_NONE] * 256
_KINDS[0x00] = KIND_READY
_KINDS[0x08] = _KINDS[0x28] = _KINDS[0xA8] = _KINDS[0x88] = KIND_READ
_KINDS[0x0A] = _KINDS[0x2A] = _KINDS[0xAA] = _KINDS[0x8A] = KIND_WRITE
_KINDS[0x35] = _KINDS[0x91] = KIND_SYNCHRONIZE


cdef int _run(
    block_unit *unit, int kind, uint32_t token, const parsed_cdb *parsed, const uint8_t *cdb, const iovec *pieces,
    int count, uint64_t length
) noexcept nogil:
    """Inside the gate: 0 or a negative errno."""
    cdef bint durable
    cdef uint64_t offset = parsed.lba << unit.medium.block_shift
    if kind == KIND_READY:
        return 0
    if kind == KIND_SYNCHRONIZE:
        return medium_flush(unit.medium)
    durable = kind == KIND_WRITE and (
        sgio_load(&unit.gate.flags) & GATE_WRITE_THROUGH or (parsed.cdb_length > 6 and cdb[1] & FUA))
    return medium_rw(unit.medium, unit.gate, token, kind == KIND_WRITE, offset, length, pieces, count, durable)


cdef int block_execute(
    block_unit *unit, const parsed_cdb *parsed, const unsigned char *cdb, const iovec *out_pieces, int out_count,
    uint64_t out_bytes, const iovec *in_pieces, int in_count, uint64_t in_bytes, uint64_t *moved
) noexcept nogil:
    cdef int kind = _KINDS[parsed.opcode]
    cdef int access = ACCESS_ALWAYS
    cdef uint64_t capacity = unit.medium.size >> unit.medium.block_shift
    cdef uint64_t length = parsed.bytes
    cdef uint32_t token
    cdef uint32_t flags
    cdef int rc
    moved[0] = 0
    if kind == KIND_NONE or not parsed.valid or cdb[parsed.cdb_length - 1] & NACA:
        return BLOCK_PYTHON
    if kind == KIND_READY:
        length = 0
    else:
        if parsed.lba > capacity or parsed.blocks > capacity - parsed.lba or length > MAX_TRANSFER_BYTES:
            return BLOCK_PYTHON
        access = ACCESS_READ if kind == KIND_READ else ACCESS_WRITE
        if kind == KIND_SYNCHRONIZE:
            length = 0
        elif parsed.cdb_length > 6 and cdb[1] & PROTECT:
            return BLOCK_PYTHON
        elif kind == KIND_READ:
            length = min(length, in_bytes)  # who accepts less gets the beginning
        elif out_bytes < length:
            return BLOCK_PYTHON
    token = gate_enter(unit.gate)
    flags = sgio_load(&unit.gate.flags)
    if gate_admit(unit.gate, access) != ADMIT_GO or (kind == KIND_WRITE and flags & GATE_WRITE_PROTECTED):
        gate_leave(unit.gate, token)
        return BLOCK_PYTHON
    if kind == KIND_READ:
        rc = _run(unit, kind, token, parsed, cdb, in_pieces, in_count, length)
    else:
        rc = _run(unit, kind, token, parsed, cdb, out_pieces, out_count, length)
    gate_leave(unit.gate, token)
    if rc == -ECANCELED:
        # Whoever aborted it said in the flags, before, how it is to end.
        return BLOCK_TASK_ABORTED if sgio_load(&unit.gate.flags) & GATE_TASK_ABORTED else BLOCK_ABORTED
    if rc < 0:
        return BLOCK_PYTHON
    moved[0] = length
    return BLOCK_GOOD


cdef class BlockPort:
    def __cinit__(self, Medium medium not None, NexusGate gate not None):
        self.medium = medium
        self.gate = gate
        self.unit.medium = &medium.state
        self.unit.gate = &gate.gate
        scale_for(medium.block_size, &self.unit.scale)
