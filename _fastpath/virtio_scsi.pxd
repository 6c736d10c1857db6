# cython: language_level=3
"""C view of virtio-scsi (virtio 1.2 section 5.6): requests, responses, and what a worker knows of units and queues."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.block_port cimport block_unit
from _fastpath.cdb cimport parsed_cdb
from _fastpath.guest_memory cimport dirty_log, memory_table
from _fastpath.sgio cimport sg_command
from _fastpath.traffic cimport unit_traffic
from _fastpath.verdict cimport verdict_table
from _fastpath.virtqueue cimport chain, vring


cdef enum:
    CONTROL_QUEUE = 0
    EVENT_QUEUE = 1
    FIRST_REQUEST_QUEUE = 2

    REQUEST_BYTES = 51
    REQUEST_BYTES_T10_PI = 59  # with VIRTIO_SCSI_F_T10_PI: the lengths of protection information precede the CDB
    RESPONSE_BYTES = 108
    RESPONSE_SENSE = 96
    VIRTIO_CDB_BYTES = 32
    CONTROL_REQUEST_BYTES = 24
    CONTROL_RESPONSE_BYTES = 5
    EVENT_BYTES = 16

    VIRTIO_SCSI_OK = 0
    VIRTIO_SCSI_OVERRUN = 1
    VIRTIO_SCSI_ABORTED = 2
    VIRTIO_SCSI_BAD_TARGET = 3
    VIRTIO_SCSI_RESET = 4
    VIRTIO_SCSI_BUSY = 5
    VIRTIO_SCSI_TRANSPORT_FAILURE = 6
    VIRTIO_SCSI_TARGET_FAILURE = 7
    VIRTIO_SCSI_NEXUS_FAILURE = 8
    VIRTIO_SCSI_FAILURE = 9
    VIRTIO_SCSI_FUNCTION_REJECTED = 11

    UNIT_PYTHON = 0  # every command is for Python
    UNIT_BLOCKS = 1  # the emulated unit
    UNIT_PORT = 2  # a Port

    REQUEST_NEW = 0
    REQUEST_FOR_PORT = 1  # to be started
    REQUEST_FROM_PORT = 2  # reaped
    REQUEST_FROM_PYTHON = 3  # answered

    MAX_DATA_BYTES = 64 << 20
    DEFAULT_TIMEOUT_MS = 60_000
    NO_TARGET = -1


# A logical unit as a controller reaches it.
cdef struct attached_unit:
    attached_unit *following  # of the controller's list
    int target
    int lun
    int kind
    bint detaching
    uint32_t timeout_ms
    block_unit blocks
    void *port  # a borrowed Port
    const verdict_table *verdicts  # NULL: straight, but for the PR lane
    const uint8_t *waiting  # one byte, set while a unit attention waits; NULL: none ever
    int32_t in_flight  # commands a port has, or is about to get
    uint64_t moved_ns  # when the port answered last, or got work while it had none
    void *owner  # the worker that starts and reaps the port's commands
    void *first_pending  # requests that were not accepted yet
    void *last_pending
    attached_unit *next_port  # of the worker's list
    unit_traffic *traffic  # one for each worker of the controller


cdef struct queue


# One slot per descriptor of a queue, by the head of the chain.
cdef struct request:
    request *link  # must be first: of the lists between threads
    sg_command command
    parsed_cdb parsed
    queue *owner
    attached_unit *unit
    chain buffers
    int target
    int lun
    uint16_t head
    uint8_t state
    uint8_t response  # VIRTIO_SCSI_*
    bint recovered  # it was in flight when an earlier process ended
    uint64_t began  # when a port's command was taken, in nanoseconds
    uint64_t written  # bytes of data that were written to the guest
    uint64_t residual
    uint8_t header[REQUEST_BYTES_T10_PI + 5]


cdef struct queue:
    vring ring
    int index
    bint running  # started, enabled, not broken and not stopping
    bint started
    bint enabled
    uint32_t stopping
    int kick
    int call
    int error
    uint32_t in_flight  # taken and not pushed; only its worker changes it
    uint32_t told  # Python was told that it broke
    request *requests
    void *pieces
    void *addresses
    uint16_t *recovered  # heads to execute before anything new
    int recovered_count
    int recovered_at
    uint32_t header_bytes
    memory_table *memory
    attached_unit **units
    attached_unit *last_unit
    void *worker
    uint64_t used_address  # where the used ring is logged
    bint used_logged


# Copy and judge the header of a request: 0, or the virtio response it must get. With 0 the unit may still be NULL.
cdef int request_parse(request *self, bint t10_pi) noexcept nogil
# Write the response and push the used element; the chain has room for a response.
cdef void request_answer(request *self) noexcept nogil
# Turn what a port reported into response, status and residual.
cdef void request_settle(request *self) noexcept nogil
cdef int lun_decode(const uint8_t *field, int *target, int *lun) noexcept nogil
cdef attached_unit *unit_find(queue *self, int target, int lun) noexcept nogil
cdef int queue_open(queue *self, int index, uint16_t size) noexcept nogil
cdef void queue_close(queue *self) noexcept nogil
# Write ``length`` bytes into the next buffer the guest gave, and publish it; False where it has none that is enough.
cdef bint queue_deliver(queue *self, const void *source, uint32_t length) noexcept nogil
