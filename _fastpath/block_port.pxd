# cython: language_level=3
"""C view of the emulated unit's inline commands: READ, WRITE, TEST UNIT READY and SYNCHRONIZE CACHE."""

from libc.stdint cimport uint64_t

from _fastpath.blocks cimport iovec, medium_state
from _fastpath.cdb cimport parsed_cdb, transfer_scale
from _fastpath.gate cimport NexusGate, nexus_gate
from _fastpath.medium cimport Medium


cdef enum:
    # What block_execute leaves to be done.
    BLOCK_GOOD = 0  # status GOOD, ``moved`` bytes were transferred
    BLOCK_ABORTED = 1  # aborted, without a status
    BLOCK_TASK_ABORTED = 2  # aborted by another nexus, status TASK ABORTED
    BLOCK_PYTHON = 3  # Python executes it, from the beginning


cdef struct block_unit:
    medium_state *medium
    nexus_gate *gate
    transfer_scale scale


cdef int block_execute(
    block_unit *unit, const parsed_cdb *parsed, const unsigned char *cdb, const iovec *out_pieces, int out_count,
    uint64_t out_bytes, const iovec *in_pieces, int in_count, uint64_t in_bytes, uint64_t *moved
) noexcept nogil


cdef class BlockPort:
    cdef block_unit unit
    cdef Medium medium
    cdef NexusGate gate
