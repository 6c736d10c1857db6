# cython: language_level=3
"""Synchronous pass-through: ioctl(SG_IO) with sg_io_v4 on /dev/bsg/H:C:T:L, from a pool of threads."""

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from _fastpath.sgio cimport SG_IN, SG_OUT, SG_SENSE_SIZE, clear_result, sg_command
from _fastpath.sgio_pool cimport PoolEngine
from _fastpath.sgio_v3 cimport SG_IO

cdef extern from "<linux/bsg.h>" nogil:
    int BSG_PROTOCOL_SCSI
    int BSG_SUB_PROTOCOL_SCSI_CMD
    int BSG_FLAG_Q_AT_TAIL

    struct sg_io_v4:
        int32_t guard
        uint32_t protocol
        uint32_t subprotocol
        uint32_t request_len
        uint64_t request
        uint32_t max_response_len
        uint64_t response
        uint32_t dout_xfer_len
        uint32_t din_xfer_len
        uint64_t dout_xferp
        uint64_t din_xferp
        uint32_t timeout
        uint32_t flags
        uint32_t driver_status
        uint32_t transport_status
        uint32_t device_status
        uint32_t duration
        uint32_t response_len
        int32_t din_resid
        int32_t dout_resid

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)


cdef int issue_v4(int fd, sg_command *command, void *bounce) noexcept nogil:
    cdef sg_io_v4 header
    cdef uint64_t data = 0
    memset(&header, 0, sizeof(header))
    header.guard = 81  # 'Q'
    header.protocol = BSG_PROTOCOL_SCSI
    header.subprotocol = BSG_SUB_PROTOCOL_SCSI_CMD
    header.flags = BSG_FLAG_Q_AT_TAIL
    header.request_len = command.cdb_length
    header.request = <uintptr_t>command.cdb
    header.max_response_len = SG_SENSE_SIZE
    header.response = <uintptr_t>command.sense
    header.timeout = command.timeout_ms
    if command.transfer_length > 0:
        data = <uintptr_t>(command.iovecs[0].iov_base if bounce is NULL else bounce)
        if command.direction == SG_IN:
            header.din_xfer_len = command.transfer_length
            header.din_xferp = data
        elif command.direction == SG_OUT:
            header.dout_xfer_len = command.transfer_length
            header.dout_xferp = data
    if ioctl(fd, SG_IO, &header) < 0:
        return -errno
    clear_result(command)
    command.status = <uint8_t>header.device_status
    command.sense_length = <uint8_t>min(header.response_len, <uint32_t>SG_SENSE_SIZE)
    command.host_status = <unsigned short>header.transport_status
    command.driver_status = <unsigned short>header.driver_status
    command.residual = header.din_resid if command.direction == SG_IN else header.dout_resid
    command.duration_ms = header.duration
    return 0


cdef class BsgEngine(PoolEngine):
    def __init__(self, int fd, int threads=4, *, label=None):
        self.label = f"descriptor {fd}" if label is None else label
        # The node ignores iovecs without a word, so more than one buffer is copied once.
        self.start(fd, threads, issue_v4, 1, False, False)
