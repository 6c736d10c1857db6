# cython: language_level=3
"""C view of the driver side of a virtqueue, for tests and measurements."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.worker_state cimport worker


cdef class DriverMemory:
    cdef uint8_t *base
    cdef readonly uint64_t size
    cdef readonly uint64_t guest  # address of the first byte as the guest sees it
    cdef readonly uint64_t user
    cdef readonly int descriptor
    cdef uint64_t taken

    cdef uint64_t take(self, uint64_t length, uint64_t alignment) except? 0


cdef struct slot_state:
    uint32_t data_out
    uint32_t data_in
    uint64_t lba
    bint busy


cdef class DriverQueue:
    cdef readonly DriverMemory memory
    cdef readonly int size
    cdef readonly int slots
    cdef readonly uint64_t descriptors  # guest addresses
    cdef readonly uint64_t available
    cdef readonly uint64_t used
    cdef readonly uint64_t areas
    cdef readonly uint64_t data
    cdef readonly uint32_t data_size
    cdef readonly int kick
    cdef readonly int call
    cdef readonly bint event_index
    cdef readonly bint indirect
    cdef readonly uint64_t kicks
    cdef uint16_t next_available
    cdef uint16_t published
    cdef uint16_t seen_used
    cdef slot_state *states
    cdef int *free_stack
    cdef uint64_t random
    cdef int stride  # descriptors per slot

    cdef uint8_t *at(self, uint64_t address) noexcept nogil
    cdef uint8_t *area(self, int slot) noexcept nogil
    cdef void describe(self, int slot, uint32_t data_out, uint32_t data_in) noexcept nogil
    cdef void offer(self, int slot) noexcept nogil
    cdef bint publish(self) noexcept nogil
    cdef int next_used(self, uint32_t *length) noexcept nogil
    cdef long measure(
        self, uint64_t commands, int depth, int opcode, uint32_t blocks, uint32_t block_size, uint64_t span,
        bint sequential, bint verify, worker *stepped
    ) noexcept nogil
    cdef void prepare(self, int slot, int opcode, uint32_t blocks, uint32_t length, bint writes) noexcept nogil
    cdef void aim(
        self, int slot, int opcode, uint32_t blocks, uint64_t span, bint sequential, bint mark
    ) noexcept nogil
    cdef int check(self, int slot, uint32_t got, uint32_t length, bint writes, bint verify) noexcept nogil
