# cython: language_level=3
"""C view of where requests go: from a queue to the emulated unit, a port or Python, and back to the queue."""

from libc.stdint cimport uint8_t

from _fastpath.virtio_scsi cimport attached_unit, queue, request
from _fastpath.worker_state cimport sleeper, worker


cdef void wake(sleeper *other) noexcept nogil
# Give a request back to the worker of its queue.
cdef void worker_return(request *finished, uint8_t state) noexcept nogil
# Tell the guest, if it wants to be told, of what was published.
cdef bint queue_notify(queue *self, bint always) noexcept nogil
# Stop a ring whose structure was violated; the others go on.
cdef void break_queue(worker *self, queue *broken) noexcept nogil
# Take what is available, at most a whole ring; returns how many.
cdef int serve_queue(worker *self, queue *owner) noexcept nogil
# Start what waits for a port, take back what it has done; returns how many commands moved.
cdef int run_port(worker *self, attached_unit *unit) noexcept nogil
# Take what other threads left here; returns how many requests.
cdef int empty_inbox(worker *self) noexcept nogil
