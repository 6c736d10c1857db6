# cython: language_level=3
"""What may be done with a guest's command, by operation code and service action, for threads without the GIL."""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.cdb cimport parsed_cdb


cdef enum:
    VERDICT_PYTHON = 0  # Python decides, answers or refuses
    VERDICT_STRAIGHT = 1  # straight to the device
    VERDICT_BY_ACTION = 2  # one of the above, by service action

    VARIABLE_ACTIONS = 65536
    VARIABLE_WORDS = 2048


cdef struct verdict_table:
    uint8_t opcodes[256]
    uint32_t actions[256]  # a bit per service action in byte 1: set is straight
    uint32_t variable[VARIABLE_WORDS]  # the same for operation code 7Fh


cdef inline bint goes_straight(const verdict_table *table, const parsed_cdb *parsed) noexcept nogil:
    cdef uint8_t verdict = table.opcodes[parsed.opcode]
    if not parsed.valid:
        return False
    if verdict != VERDICT_BY_ACTION:
        return verdict
    if parsed.opcode == 0x7F:
        return table.variable[parsed.service_action >> 5] >> (parsed.service_action & 31) & 1
    return table.actions[parsed.opcode] >> (parsed.service_action & 31) & 1


cdef class Verdicts:
    cdef verdict_table table
