# cython: language_level=3
"""The pthread pool behind the engines whose system call waits for the command; see sgio_pool.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from _fastpath.sgio cimport Engine, sg_bounce, sg_command


cdef struct participant:
    # One thread at a time: a worker, or a caller for the time of one submit.
    int fd
    sg_bounce bounce

# Execute the command on the descriptor, with its data in ``bounce`` unless NULL: 0 and the result filled, or -errno.
ctypedef int (*issue_call)(int fd, sg_command *command, void *bounce) noexcept nogil


# Run one command to its end and fill its result; through a bounce buffer of ``who`` where its pieces do not suit the
# node. ``maps_pages``: the kernel hands the buffers' own pages to the host adapter.
cdef void execute_with(
    issue_call issue, uint32_t max_iovecs, bint maps_pages, participant *who, sg_command *command
) noexcept nogil


cdef struct pool_job:
    # A batch in execution. cursor is (generation << 32) | next index: one compare-and-swap claims a command, and fails
    # if the job was reused meanwhile, so workers may look at jobs that end under their eyes.
    uint64_t cursor
    sg_command *commands
    const int *indices
    uint32_t count
    uint32_t done
    uint32_t waiting
    uint32_t busy
    participant caller
    char padding[64]


cdef struct pool


cdef class PoolEngine(Engine):
    cdef pool *state

    # open: descriptor -> pool; own_descriptors reopens the node per thread, mask_signals blocks signals in callers.
    cdef int start(self, int fd, int threads, issue_call issue, uint32_t max_iovecs, bint own_descriptors,
                   bint mask_signals) except -1
