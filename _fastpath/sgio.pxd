# cython: language_level=3
"""C view of SCSI pass-through: the command struct, the batch and what every engine offers to nogil callers."""

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef enum:
    SG_CDB_SIZE = 32
    SG_SENSE_SIZE = 96  # what the kernel keeps of a command's sense (SCSI_SENSE_BUFFERSIZE)
    SG_MAX_IOVECS = 1024  # UIO_MAXIOV, the kernel's limit for one command
    SG_MAX_TRANSFER = 0x0FFFFFFF  # /dev/sgN refuses 256 MiB and more

    SG_NONE = 0
    SG_IN = 1  # device to buffers
    SG_OUT = 2  # buffers to device

    SG_FATE_DONE = 0  # a result came back: error is 0 and the status fields are valid
    SG_FATE_NOT_EXECUTED = 1  # refused before it was queued: error says why
    SG_FATE_UNKNOWN = 2  # it was or may have been queued and no result can be had: error says why


cdef struct sg_command:
    # Request: whoever submits fills these; an engine never changes them.
    iovec *iovecs  # the data buffers in order; the caller keeps them alive until submit returns
    uint32_t iovec_count
    uint32_t transfer_length  # sum of the iovecs in bytes, at most SG_MAX_TRANSFER
    uint32_t timeout_ms  # not 0
    uint8_t direction  # SG_NONE, SG_IN or SG_OUT
    uint8_t cdb_length  # 6..SG_CDB_SIZE
    uint8_t cdb[SG_CDB_SIZE]
    uint64_t tag  # the submitter's own, engines leave it alone
    # Result: an engine fills all of these for every command it was given.
    int32_t error  # positive errno, 0 where the kernel answered
    uint8_t fate  # SG_FATE_*
    uint8_t status  # SAM status; the device's only with error 0 and host_status 0
    uint8_t sense_length  # bytes of sense the device returned, at most SG_SENSE_SIZE
    uint16_t host_status
    uint16_t driver_status
    int32_t residual  # bytes of transfer_length that were not transferred
    uint32_t duration_ms
    uint8_t sense[SG_SENSE_SIZE]


# One contiguous, page-aligned copy of a command's buffers, for nodes that take no iovecs; grown on demand.
cdef struct sg_bounce:
    void *data
    size_t size


cdef struct held_buffers:
    Py_buffer *views
    iovec *iovecs
    uint32_t capacity
    uint32_t count


cdef class Batch:
    """Up to ``capacity`` commands with the Python buffers they use; see sgio.pyi."""

    cdef sg_command *commands
    cdef held_buffers *held
    cdef readonly int capacity
    cdef readonly int count
    cdef bint running

    # Between begin and end the batch may be used without the GIL and refuses to be changed. Both need the GIL.
    cdef int begin(self) except -1
    cdef void end(self) noexcept
    cdef sg_command *_at(self, int index) except NULL


cdef class Engine:
    """Executes commands without the GIL. Any number of threads may call submit at once."""

    cdef readonly str label

    # Run commands[indices[0..n-1]] (commands[0..n-1] where indices is NULL) to their end and fill every result.
    # Returns 0, or a negative errno (closed: -EBADF; in a forked child: -ESRCH) after marking every command
    # SG_FATE_NOT_EXECUTED with that errno. A command's own failure is in its result, never in the return value.
    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil


# Leaf functions for engines.
cdef int check_command(const sg_command *command) noexcept nogil
cdef void clear_result(sg_command *command) noexcept nogil
cdef void fail_command(sg_command *command, int error, uint8_t fate) noexcept nogil
cdef void fail_all(sg_command *commands, const int *indices, int n, int error) noexcept nogil
cdef size_t gather(const sg_command *command, void *target) noexcept nogil
cdef void scatter(const sg_command *command, const void *source, size_t length) noexcept nogil
cdef void *bounce_take(sg_bounce *bounce, size_t length) noexcept nogil
cdef void bounce_settle(sg_bounce *bounce) noexcept nogil
cdef void bounce_free(sg_bounce *bounce) noexcept nogil
cdef unsigned int fork_generation() noexcept nogil

# The one function that turns a negative errno into an exception.
cdef int raise_engine_error(int rc, str label) except -1
