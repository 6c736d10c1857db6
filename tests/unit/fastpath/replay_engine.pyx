# cython: language_level=3
"""An engine without a device: answers commands from prepared results. Compiled by the tests that need it."""

from libc.string cimport memcpy

from _fastpath.sgio cimport SG_FATE_DONE, Engine, clear_result, fail_all, sg_command


cdef class ReplayEngine(Engine):
    """The n-th command ever submitted gets the n-th prepared result; past the end every command is GOOD."""

    cdef sg_command results[64]
    cdef int prepared
    cdef int submitted
    cdef int rc
    cdef unsigned char seen[64]

    def __cinit__(self, results=(), int rc=0):
        self.label = "replay"
        self.rc = rc
        for status, sense, host_status, error, fate in results:
            self.results[self.prepared].status = status
            self.results[self.prepared].sense_length = len(sense)
            memcpy(self.results[self.prepared].sense, <const char *>sense, len(sense))
            self.results[self.prepared].host_status = host_status
            self.results[self.prepared].error = error
            self.results[self.prepared].fate = fate
            self.prepared += 1

    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil:
        cdef sg_command *command
        cdef sg_command *result
        cdef int i
        if self.rc < 0:
            fail_all(commands, indices, n, -self.rc)
            return self.rc
        for i in range(n):
            command = &commands[i if indices is NULL else indices[i]]
            clear_result(command)
            if self.submitted < 64:
                self.seen[self.submitted] = command.cdb[0]
            if self.submitted < self.prepared:
                result = &self.results[self.submitted]
                command.status = result.status
                command.sense_length = result.sense_length
                memcpy(command.sense, result.sense, sizeof(result.sense))
                command.host_status = result.host_status
                command.error = result.error
                command.fate = result.fate
            self.submitted += 1
        return 0

    @property
    def opcodes(self):
        """Operation codes in the order they were submitted."""
        return bytes(self.seen[:min(self.submitted, 64)])
