# cython: language_level=3
"""C view of the persistent reservation helper's connections; see pr_socket.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.sgio cimport iovec, sg_command


cdef enum:
    STRAIGHT_UNITS = 16  # devices that one connection remembers
    CDB_BYTES = 16
    DATA_BYTES = 8192  # the protocol's limit of data
    SENSE_BYTES = 96
    HEADER_BYTES = 104  # status, size and sense

    # What ended serve_straight, where it was no error.
    STRAIGHT_RECEIVED = 1
    STRAIGHT_EXECUTED = 2


cdef struct straight_unit:
    uint64_t number  # st_rdev
    bint is_block
    bint mask
    int watch
    const uint8_t *waiting


cdef struct received_request:
    uint8_t cdb[CDB_BYTES]
    int length  # bytes received
    int descriptors[2]
    int descriptor_count


cdef class Switch:
    cdef uint32_t epoch
    cdef uint32_t stopping


cdef class StraightPath:
    cdef readonly int units
    cdef readonly uint64_t answered
    cdef int socket
    cdef uint32_t timeout_ms
    cdef uint32_t epoch
    cdef Switch switch
    cdef straight_unit known[STRAIGHT_UNITS]
    cdef list kept
    cdef uint8_t *buffer
    cdef iovec data
    cdef sg_command command
    cdef received_request request
    cdef int current  # the unit of the command that was executed

    cdef int serve_straight(self) noexcept nogil
    cdef int find_unit(self) noexcept nogil
    cdef int answer(self, const straight_unit *unit, uint32_t allocation) noexcept nogil
