# cython: language_level=3
"""C view of a worker: a thread without the GIL that serves queues and the ports of units."""

from _fastpath.worker_state cimport worker


cdef int worker_open(worker *self, int queue_room) noexcept nogil
cdef void worker_close(worker *self) noexcept nogil
cdef void worker_run(worker *self) noexcept nogil
# One look at everything; returns how much there was to do.
cdef int worker_pass(worker *self) noexcept nogil
