# cython: language_level=3
"""One iSCSI session and the commands in flight on it; see iscsi_session.pyx. All functions want its lock held."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from _fastpath.libiscsi cimport iscsi_context, scsi_task
from _fastpath.sgio cimport iovec, sg_bounce, sg_command


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

    short POLLIN
    short POLLOUT
    int poll(pollfd *descriptors, unsigned long count, int timeout)

cdef extern from "iscsi_compat.h" nogil:
    int pyproxy_condition_init(pthread_cond_t *condition)
    void pyproxy_condition_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint32_t ms)


cdef enum:
    ISCSI_MAX_DEPTH = 128
    ISCSI_CDB_SIZE = 16  # the library has no additional header segments, which carry the rest of a longer one
    ISCSI_RECHECK_MS = 1000  # how late whoever waits may notice what it was not woken for

    SLOT_FREE = 0
    SLOT_SENT = 1
    SLOT_ABORTING = 2  # its time is over, ABORT TASK is on the way, neither is answered
    SLOT_ABORTED = 3  # ABORT TASK is answered, the command is not and will not be
    SLOT_ANSWERED = 4  # the command was answered while ABORT TASK was on the way

    LOSS_NONE = 0
    LOSS_CLOSED = 1  # the target, or what is between, closed or reset the connection
    LOSS_SILENT = 2  # no answer to NOP-Out
    LOSS_UNABORTED = 3  # a command did not end in time and could not be aborted
    LOSS_FAILED = 4  # protocol error, asked to log out, no memory: the library's words are in ``words``


# A thread that waits in submit for ``left`` commands of its own.
cdef struct waiter:
    int left


cdef struct slot:
    scsi_task task
    session *owner
    sg_command *command  # NULL once it was answered
    waiter *waits  # NULL: the port's
    iovec single  # the command's buffers in one piece, where it has too many
    void *bounced
    sg_bounce bounce
    uint64_t started
    uint64_t deadline
    int index
    uint8_t state


cdef struct session:
    pthread_mutex_t lock
    pthread_cond_t changed  # a waiter is done, a slot is free, the connection is made or lost, or it closes
    pthread_cond_t upset  # the session was lost, or it closes: what the keeper waits for
    iscsi_context *context  # NULL while there is no session
    int lun
    int depth
    slot slots[ISCSI_MAX_DEPTH]
    int free_slots[ISCSI_MAX_DEPTH]
    int free_count
    int in_flight  # commands sent and not answered
    uint64_t soonest  # no deadline is before this
    # Liveness, in milliseconds of the monotonic clock; 0 for never.
    uint64_t now  # when the call that holds the lock began
    uint64_t heard
    uint64_t pinged
    uint32_t nop_interval_ms
    uint32_t nop_timeout_ms
    uint32_t abort_ms
    # The loss of the session. ``lost`` is raised by callbacks, which must not take the session down themselves.
    bint lost
    bint unreported
    uint8_t loss
    uint64_t losses
    uint64_t connections
    uint64_t aborts
    uint64_t down_since
    uint32_t patience_ms
    char words[256]
    # Who waits: at most one submitter polls the socket, the others sleep on ``changed``.
    int users
    bint alarm
    int sleepers
    bint closing
    bint tell
    bint driving
    bint asleep
    short asleep_for
    uint64_t asleep_until
    int wake  # eventfd that ends the driver's poll
    # The port. Its descriptor is an epoll set of the socket and ``port_wake``, so that it outlives connections.
    bint has_port
    int epoll
    int port_wake
    bint port_raised
    bint port_ready
    bint port_starved  # it was refused a slot, others had them all
    int armed_descriptor
    short armed_events
    int port_flight
    sg_command *done[ISCSI_MAX_DEPTH]
    int done_head
    int done_count


cdef session *session_create(int lun, int depth) noexcept nogil
cdef void session_free(session *self) noexcept nogil
cdef void session_install(session *self, iscsi_context *context) noexcept nogil
cdef void session_drop(session *self, uint8_t loss) noexcept nogil
cdef int session_queue(session *self, sg_command *command, waiter *waits) noexcept nogil
cdef void session_serve(session *self, int revents) noexcept nogil
cdef void session_look(session *self) noexcept nogil
cdef void session_tick(session *self) noexcept nogil
cdef void session_wait(session *self) noexcept nogil
cdef int session_timeout(session *self) noexcept nogil
cdef bint session_gives_up(session *self) noexcept nogil
cdef void session_publish(session *self, bint by_port) noexcept nogil
cdef void session_enter(session *self) noexcept nogil
