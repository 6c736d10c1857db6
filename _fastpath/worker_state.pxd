# cython: language_level=3
"""What a worker, and the Python side of its controller, keep: plain structs, for all that work on them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.virtio_scsi cimport attached_unit, queue


cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents


cdef enum:
    EVENT_ROOM = 256  # a power of two
    PORT_BATCH = 64


# A thread's sleep: others wake it after they have left something for it.
cdef struct sleeper:
    uint32_t sleeping
    int wake  # eventfd


# What a completion says about reservations, for Handler.inspect.
cdef struct plane_event:
    int target
    int lun
    uint8_t kind
    uint8_t asc
    uint8_t ascq
    uint8_t cdb[32]


cdef struct event_ring:
    plane_event events[EVENT_ROOM]
    uint32_t head  # moved by the reader
    uint32_t tail  # moved by the worker
    uint64_t lost


# The thread that runs Python: requests go to it in the order they were taken.
cdef struct python_side:
    void *inbox
    sleeper sleep
    uint32_t broken  # rises when a queue breaks


cdef struct worker_counts:
    uint64_t requests
    uint64_t inline_commands
    uint64_t port_commands
    uint64_t python_commands
    uint64_t bytes_in  # to the guest
    uint64_t bytes_out
    uint64_t malformed  # chains answered FAILURE or with nothing
    uint64_t kicks
    uint64_t notifications
    uint64_t sleeps
    uint64_t passes
    uint64_t batches  # passes that took requests


cdef struct worker:
    void *inbox
    sleeper sleep
    uint32_t pause
    uint32_t parked
    uint32_t stop
    uint32_t ended
    uint32_t sweeps  # passes over all queues
    queue **queues
    int queue_count
    int queue_room
    attached_unit *ports
    attached_unit **units  # the controller's
    python_side *python
    bint t10_pi
    uint64_t poll_ns
    uint64_t window_ns
    uint32_t struck
    pollfd *polled
    int polled_room
    event_ring events
    worker_counts counts
    int number  # among the controller's
