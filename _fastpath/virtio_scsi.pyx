# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Requests of the virtio SCSI host device (virtio 1.2 section 5.6.6): from descriptor chain to CDB and back."""

from libc.errno cimport EAGAIN, EBUSY, EINVAL, ENODEV, ENOMEM, ENXIO
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.sgio cimport SG_FATE_DONE, SG_FATE_UNKNOWN, SG_IN, SG_NONE, SG_OUT, iovec
from _fastpath.virtqueue cimport (
    chain_mark, chain_read, chain_write, vring_close, vring_open, vring_publish, vring_push, vring_silence, vring_take,
    vring_waiting, vring_walk,
)

cdef enum:
    LUN_SINGLE_LEVEL = 1  # byte 0 of the LUN field
    ADDRESS_METHOD = 0xC0
    FLAT_SPACE = 0x40
    MORE_PIECES = 8  # than descriptors: cuts at header and response, and between regions

    DID_NO_CONNECT = 0x01
    DID_BUS_BUSY = 0x02
    DID_TIME_OUT = 0x03
    DID_BAD_TARGET = 0x04
    DID_ABORT = 0x05
    DID_RESET = 0x08
    DID_TRANSPORT_DISRUPTED = 0x0E
    DID_TRANSPORT_FAILFAST = 0x0F
    DID_TARGET_FAILURE = 0x10
    DID_NEXUS_FAILURE = 0x11
    DID_TRANSPORT_MARGINAL = 0x14


cdef struct response:
    uint32_t sense_length
    uint32_t residual
    uint16_t status_qualifier
    uint8_t status
    uint8_t response
    uint8_t sense[RESPONSE_SENSE]


cdef int queue_open(queue *self, int index, uint16_t size) noexcept nogil:
    """Make the private memory of a queue of ``size`` descriptors: 0 or -ENOMEM."""
    cdef size_t room = <size_t>size + MORE_PIECES
    cdef size_t i
    cdef request *each
    cdef iovec *pieces
    cdef uint64_t *addresses
    memset(self, 0, sizeof(queue))
    self.index = index
    self.kick = self.call = self.error = -1
    if vring_open(&self.ring, size) < 0:
        return -ENOMEM
    self.requests = <request *>calloc(size, sizeof(request))
    self.recovered = <uint16_t *>calloc(size, sizeof(uint16_t))
    # Taken from the system as it is touched: a guest that never sends long chains pays for short ones.
    pieces = <iovec *>calloc(size * room, sizeof(iovec))
    addresses = <uint64_t *>calloc(size * room, sizeof(uint64_t))
    self.pieces = pieces
    self.addresses = addresses
    if self.requests is NULL or self.recovered is NULL or pieces is NULL or addresses is NULL:
        queue_close(self)
        return -ENOMEM
    for i in range(size):
        each = &self.requests[i]
        each.head = <uint16_t>i
        each.owner = self
        each.buffers.pieces = &pieces[i * room]
        each.buffers.addresses = &addresses[i * room]
        each.buffers.room = <uint32_t>room
    return 0


cdef void queue_close(queue *self) noexcept nogil:
    vring_close(&self.ring)
    free(self.requests)
    free(self.recovered)
    free(self.pieces)
    free(self.addresses)
    self.requests = NULL
    self.recovered = NULL
    self.pieces = NULL
    self.addresses = NULL


cdef int lun_decode(const uint8_t *field, int *target, int *lun) noexcept nogil:
    """Read the 8-byte LUN field (virtio 1.2 5.6.6.1): 0, or -EINVAL for what names no logical unit here."""
    cdef int number = (field[2] & 0x3F) << 8 | field[3]
    if field[0] != LUN_SINGLE_LEVEL or field[4] or field[5] or field[6] or field[7]:
        return -EINVAL
    if field[2] & ADDRESS_METHOD == 0:
        if field[2]:
            return -EINVAL  # a bus number; peripheral device addressing has none here
    elif field[2] & ADDRESS_METHOD != FLAT_SPACE:
        return -EINVAL
    target[0] = field[1]
    lun[0] = number
    return 0


cdef attached_unit *unit_find(queue *self, int target, int lun) noexcept nogil:
    """The unit, or NULL."""
    cdef attached_unit *each = self.last_unit
    if each is not NULL and each.target == target and each.lun == lun:
        return each
    each = self.units[0]
    while each is not NULL:
        if each.target == target and each.lun == lun:
            self.last_unit = each
            return each
        each = each.following
    return NULL


cdef int request_parse(request *self, bint t10_pi) noexcept nogil:
    cdef chain *buffers = &self.buffers
    cdef sg_command *command = &self.command
    cdef const uint8_t *cdb = self.header + 19
    cdef uint32_t protection
    chain_read(buffers.pieces, buffers.header_count, self.header, self.owner.header_bytes)
    self.unit = NULL
    self.target = NO_TARGET
    self.written = 0
    self.residual = 0
    self.response = VIRTIO_SCSI_OK
    command.status = 0
    command.sense_length = 0
    if t10_pi:
        cdb += 8
        memcpy(&protection, self.header + 19, 4)
        if protection:
            return VIRTIO_SCSI_FAILURE
        memcpy(&protection, self.header + 23, 4)
        if protection:
            return VIRTIO_SCSI_FAILURE
    if buffers.out_bytes and buffers.in_bytes:
        return VIRTIO_SCSI_FAILURE
    if buffers.out_bytes > MAX_DATA_BYTES or buffers.in_bytes > MAX_DATA_BYTES:
        return VIRTIO_SCSI_FAILURE
    if lun_decode(self.header, &self.target, &self.lun) < 0:
        return VIRTIO_SCSI_BAD_TARGET
    memcpy(command.cdb, cdb, VIRTIO_CDB_BYTES)
    memcpy(&command.tag, self.header + 8, 8)
    command.cdb_length = VIRTIO_CDB_BYTES
    command.direction = SG_NONE
    command.transfer_length = 0
    command.iovecs = NULL
    command.iovec_count = 0
    if buffers.out_bytes:
        command.direction = SG_OUT
        command.transfer_length = <uint32_t>buffers.out_bytes
        command.iovecs = buffers.pieces + buffers.header_count
        command.iovec_count = buffers.out_count
    elif buffers.in_bytes:
        command.direction = SG_IN
        command.transfer_length = <uint32_t>buffers.in_bytes
        command.iovecs = buffers.pieces + buffers.header_count + buffers.out_count + buffers.response_count
        command.iovec_count = buffers.in_count
    self.unit = unit_find(self.owner, self.target, self.lun)
    return VIRTIO_SCSI_OK


cdef void request_settle(request *self) noexcept nogil:
    cdef sg_command *command = &self.command
    cdef uint8_t answer = VIRTIO_SCSI_OK
    cdef uint16_t host = command.host_status
    self.residual = 0
    if command.residual > 0:
        self.residual = min(<uint32_t>command.residual, command.transfer_length)
    if command.fate == SG_FATE_UNKNOWN:
        answer = VIRTIO_SCSI_RESET
    elif command.fate != SG_FATE_DONE:
        self.residual = command.transfer_length
        if command.error == EBUSY or command.error == ENOMEM or command.error == EAGAIN:
            answer = VIRTIO_SCSI_BUSY
        elif command.error == ENODEV or command.error == ENXIO:
            answer = VIRTIO_SCSI_BAD_TARGET
        else:
            answer = VIRTIO_SCSI_FAILURE
    elif host == DID_NO_CONNECT or host == DID_BAD_TARGET:
        answer = VIRTIO_SCSI_BAD_TARGET
    elif host == DID_BUS_BUSY:
        answer = VIRTIO_SCSI_BUSY
    elif host == DID_TIME_OUT or host == DID_ABORT:
        answer = VIRTIO_SCSI_ABORTED
    elif host == DID_RESET:
        answer = VIRTIO_SCSI_RESET
    elif host == DID_TRANSPORT_DISRUPTED or host == DID_TRANSPORT_FAILFAST or host == DID_TRANSPORT_MARGINAL:
        answer = VIRTIO_SCSI_TRANSPORT_FAILURE
    elif host == DID_TARGET_FAILURE:
        answer = VIRTIO_SCSI_TARGET_FAILURE
    elif host == DID_NEXUS_FAILURE:
        answer = VIRTIO_SCSI_NEXUS_FAILURE
    elif host != 0:
        answer = VIRTIO_SCSI_FAILURE
    self.response = answer
    if answer != VIRTIO_SCSI_OK:
        command.status = 0
        command.sense_length = 0
    if command.direction == SG_IN:
        # The device may have written all of it, whatever it says: the log is told of the whole.
        self.written = command.transfer_length


cdef void request_answer(request *self) noexcept nogil:
    cdef response out
    cdef chain *buffers = &self.buffers
    cdef queue *owner = self.owner
    cdef dirty_log *log = owner.ring.log
    cdef uint32_t first_in = buffers.header_count + buffers.out_count + buffers.response_count
    cdef uint32_t at = buffers.header_count + buffers.out_count
    cdef uint32_t sense = min(<uint32_t>self.command.sense_length, <uint32_t>RESPONSE_SENSE)
    memset(&out, 0, sizeof(out))
    out.sense_length = sense
    out.residual = <uint32_t>self.residual
    out.status = self.command.status
    out.response = self.response
    if sense:
        memcpy(out.sense, self.command.sense, sense)
    chain_mark(log, &buffers.pieces[first_in], &buffers.addresses[first_in], buffers.in_count, self.written)
    chain_write(log, &buffers.pieces[at], &buffers.addresses[at], buffers.response_count, &out, sizeof(out))
    vring_push(&owner.ring, self.head, RESPONSE_BYTES + <uint32_t>min(self.written, buffers.in_bytes - min(
        self.residual, buffers.in_bytes)))


cdef bint queue_deliver(queue *self, const void *source, uint32_t length) noexcept nogil:
    cdef chain *buffers
    cdef uint64_t written = 0
    cdef int head
    if vring_waiting(&self.ring) <= 0:
        return False
    vring_silence(&self.ring)
    head = vring_take(&self.ring)
    if head < 0:
        return False
    buffers = &self.requests[head].buffers
    if vring_walk(&self.ring, self.memory, <uint16_t>head, 0, 0, buffers) == 0 and buffers.in_bytes >= length:
        written = chain_write(self.ring.log, &buffers.pieces[buffers.out_count], &buffers.addresses[buffers.out_count],
                              buffers.in_count, source, length)
    vring_push(&self.ring, <uint16_t>head, <uint32_t>written)
    vring_publish(&self.ring)
    return written != 0
