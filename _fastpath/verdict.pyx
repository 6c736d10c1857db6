# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A verdict per operation code and service action, filled once from Python and read by workers for every command."""

from _fastpath.cdb cimport ParsedCdb

VARIABLE_LENGTH = 0x7F


cdef class Verdicts:
    def straight(self, int opcode, service_action=None):
        cdef int action
        if not 0 <= opcode <= 255:
            raise ValueError(f"operation code {opcode} is not a byte")
        if service_action is None:
            self.table.opcodes[opcode] = VERDICT_STRAIGHT
            return
        action = service_action
        if not 0 <= action < (VARIABLE_ACTIONS if opcode == VARIABLE_LENGTH else 32):
            raise ValueError(f"operation code {opcode:02X}h has no service action {action:#x}")
        self.table.opcodes[opcode] = VERDICT_BY_ACTION
        if opcode == VARIABLE_LENGTH:
            self.table.variable[action >> 5] |= <uint32_t>1 << (action & 31)
        else:
            self.table.actions[opcode] |= <uint32_t>1 << (action & 31)

    def passes(self, ParsedCdb parsed not None):
        return goes_straight(&self.table, &parsed.value)
