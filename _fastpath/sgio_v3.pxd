# cython: language_level=3
"""sg_io_hdr, the pass-through header of /dev/sgN and /dev/sdX: filled from a command, read back into it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from _fastpath.sgio cimport SG_IN, SG_OUT, SG_SENSE_SIZE, clear_result, sg_command


cdef extern from "<scsi/sg.h>" nogil:
    struct sg_io_hdr:
        int interface_id
        int dxfer_direction
        unsigned char cmd_len
        unsigned char mx_sb_len
        unsigned short iovec_count
        unsigned int dxfer_len
        void *dxferp
        unsigned char *cmdp
        void *sbp
        unsigned int timeout
        unsigned int flags
        int pack_id
        void *usr_ptr
        unsigned char status
        unsigned char sb_len_wr
        unsigned short host_status
        unsigned short driver_status
        int resid
        unsigned int duration

    int SG_IO
    int SG_DXFER_NONE
    int SG_DXFER_TO_DEV
    int SG_DXFER_FROM_DEV
    int SG_SET_RESERVED_SIZE


cdef enum:
    # Not in every <scsi/sg.h>. sg queues at the head by default, where later commands would overtake earlier ones.
    SG_FLAG_Q_AT_TAIL = 0x10


cdef inline void fill_header(sg_io_hdr *header, const sg_command *command, void *bounce) noexcept nogil:
    """Make ``header`` carry the command; its data are in ``bounce`` unless that is NULL."""
    memset(header, 0, sizeof(sg_io_hdr))
    header.interface_id = 83  # 'S'
    header.flags = SG_FLAG_Q_AT_TAIL
    header.cmd_len = command.cdb_length
    header.cmdp = <unsigned char *>command.cdb
    header.mx_sb_len = SG_SENSE_SIZE
    header.sbp = <void *>command.sense
    header.timeout = command.timeout_ms
    header.dxfer_direction = SG_DXFER_NONE
    if command.transfer_length == 0:
        return
    header.dxfer_len = command.transfer_length
    if command.direction == SG_IN:
        header.dxfer_direction = SG_DXFER_FROM_DEV
    elif command.direction == SG_OUT:
        header.dxfer_direction = SG_DXFER_TO_DEV
    if bounce is not NULL:
        header.dxferp = bounce
    elif command.iovec_count == 1:
        header.dxferp = command.iovecs[0].iov_base
    else:
        header.dxferp = <void *>command.iovecs
        header.iovec_count = <unsigned short>command.iovec_count


cdef inline void take_header(const sg_io_hdr *header, sg_command *command) noexcept nogil:
    """Read what the kernel answered into the command's result."""
    clear_result(command)
    command.status = header.status
    command.sense_length = min(header.sb_len_wr, <uint8_t>SG_SENSE_SIZE)
    command.host_status = header.host_status
    command.driver_status = header.driver_status
    command.residual = header.resid
    command.duration_ms = header.duration
