# The gate every command of an I_T nexus passes, for callers without the GIL.

from libc.stdint cimport int32_t, uint32_t


# Plain integers kept by Python under the unit's lock and read by data threads without it.
cdef enum gate_flag:
    GATE_RESERVED = 1            # a persistent reservation exists
    GATE_PRIVILEGED = 2          # this nexus holds it, or is registered under a registrants-only type
    GATE_EXCLUSIVE_ACCESS = 4    # the reservation's type refuses reads to the unprivileged
    GATE_ATTENTION = 8           # a unit attention is pending
    GATE_SPC2_CONFLICT = 16      # another nexus holds an SPC-2 reservation
    GATE_NOT_READY = 32          # the unit was stopped
    GATE_WRITE_PROTECTED = 64    # software write protect
    GATE_WRITE_THROUGH = 128     # a write ends only when its data are on stable storage
    GATE_TASK_ABORTED = 256      # commands aborted last end with TASK ABORTED


cdef enum access_class:
    ACCESS_ALWAYS = 0
    ACCESS_READ = 1
    ACCESS_WRITE = 2


cdef enum admission:
    ADMIT_GO = 0
    ADMIT_ATTENTION = 1
    ADMIT_CONFLICT = 2
    ADMIT_NOT_READY = 3


cdef struct nexus_gate:
    uint32_t flags
    uint32_t generation          # rises each time the nexus' commands are aborted
    int32_t in_flight[2]         # commands that entered under an even and under an odd generation


cdef uint32_t gate_enter(nexus_gate *gate) noexcept nogil
cdef void gate_leave(nexus_gate *gate, uint32_t token) noexcept nogil
cdef bint gate_aborted(const nexus_gate *gate, uint32_t token) noexcept nogil
cdef int gate_admit(const nexus_gate *gate, int access) noexcept nogil


cdef class NexusGate:
    cdef nexus_gate gate
