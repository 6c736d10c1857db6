# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What one I_T nexus of the emulated unit may do at this moment, and the count of its commands."""

from posix.unistd cimport usleep

# Sequentially consistent: a command counts itself in before it reads the flags, and an abort changes the flags
# before it reads the count, so one of the two always sees the other.
cdef extern from * nogil:
    """
    #include <stdint.h>
    static inline uint32_t seq_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void seq_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline int32_t seq_count(const int32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void seq_add(int32_t *p, int32_t v) { __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
    """
    uint32_t seq_load(const uint32_t *p)
    void seq_store(uint32_t *p, uint32_t v)
    int32_t seq_count(const int32_t *p)
    void seq_add(int32_t *p, int32_t v)


cdef uint32_t gate_enter(nexus_gate *gate) noexcept nogil:
    cdef uint32_t token
    while True:
        token = seq_load(&gate.generation)
        seq_add(&gate.in_flight[token & 1], 1)
        if seq_load(&gate.generation) == token:
            return token
        seq_add(&gate.in_flight[token & 1], -1)


cdef void gate_leave(nexus_gate *gate, uint32_t token) noexcept nogil:
    seq_add(&gate.in_flight[token & 1], -1)


cdef bint gate_aborted(const nexus_gate *gate, uint32_t token) noexcept nogil:
    return seq_load(&gate.generation) != token


cdef int gate_admit(const nexus_gate *gate, int access) noexcept nogil:
    cdef uint32_t flags = seq_load(&gate.flags)
    if flags & GATE_ATTENTION:
        return ADMIT_ATTENTION
    if flags & GATE_SPC2_CONFLICT:
        return ADMIT_CONFLICT
    if flags & GATE_RESERVED and not flags & GATE_PRIVILEGED:
        if access == ACCESS_WRITE or (access == ACCESS_READ and flags & GATE_EXCLUSIVE_ACCESS):
            return ADMIT_CONFLICT
    if flags & GATE_NOT_READY:
        return ADMIT_NOT_READY
    return ADMIT_GO


cdef int gate_drain(nexus_gate *gate) noexcept nogil:
    cdef uint32_t old = seq_load(&gate.generation)
    cdef int32_t *inside = &gate.in_flight[old & 1]
    cdef unsigned int pause = 10
    cdef int met
    seq_store(&gate.generation, old + 1)
    met = seq_count(inside)
    while seq_count(inside) > 0:
        usleep(pause)
        if pause < 1000:
            pause *= 2
    return met


cdef class NexusGate:

    @property
    def flags(self):
        return seq_load(&self.gate.flags)

    @flags.setter
    def flags(self, uint32_t value):
        seq_store(&self.gate.flags, value)

    @property
    def generation(self):
        return seq_load(&self.gate.generation)

    @property
    def in_flight(self):
        return seq_count(&self.gate.in_flight[0]) + seq_count(&self.gate.in_flight[1])

    def enter(self):
        return gate_enter(&self.gate)

    def leave(self, uint32_t token):
        gate_leave(&self.gate, token)

    def aborted(self, uint32_t token):
        return gate_aborted(&self.gate, token)

    def admit(self, int access):
        return gate_admit(&self.gate, access)

    def abort(self):
        cdef int met
        with nogil:
            met = gate_drain(&self.gate)
        return met


globals().update(
    GATE_RESERVED=GATE_RESERVED,
    GATE_PRIVILEGED=GATE_PRIVILEGED,
    GATE_EXCLUSIVE_ACCESS=GATE_EXCLUSIVE_ACCESS,
    GATE_ATTENTION=GATE_ATTENTION,
    GATE_SPC2_CONFLICT=GATE_SPC2_CONFLICT,
    GATE_NOT_READY=GATE_NOT_READY,
    GATE_WRITE_PROTECTED=GATE_WRITE_PROTECTED,
    GATE_WRITE_THROUGH=GATE_WRITE_THROUGH,
    GATE_TASK_ABORTED=GATE_TASK_ABORTED,
    ACCESS_ALWAYS=ACCESS_ALWAYS,
    ACCESS_READ=ACCESS_READ,
    ACCESS_WRITE=ACCESS_WRITE,
    ADMIT_GO=ADMIT_GO,
    ADMIT_ATTENTION=ADMIT_ATTENTION,
    ADMIT_CONFLICT=ADMIT_CONFLICT,
    ADMIT_NOT_READY=ADMIT_NOT_READY,
)
