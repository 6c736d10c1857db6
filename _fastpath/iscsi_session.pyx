# cython: language_level=3
"""The commands in flight on one iSCSI session: queued on libiscsi, timed, aborted, answered, or lost with it.

libiscsi knows one thread and no clock but whole seconds of the wall. So every call of it is made under the session's
lock, its own timeouts stay off, and so does its reconnecting, which would send commands again under another ISID.
Nobody waits under the lock: threads that execute commands take turns in polling the socket, a port's worker polls it
beside them, and whoever finds it readable serves all. The library writes data without MSG_NOSIGNAL: SIGPIPE must be
ignored, as Python does from its start.

Every function here wants the lock held but for session_create and session_free.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EIO, ENOMEM, ENOTCONN, ETIMEDOUT, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen
from posix.unistd cimport close, read, write

from _fastpath.libiscsi cimport (
    ISCSI_TMR_FUNC_COMPLETE, ISCSI_TMR_TASK_DOES_NOT_EXIST, SCSI_RESIDUAL_OVERFLOW, SCSI_RESIDUAL_UNDERFLOW,
    SCSI_STATUS_CANCELLED, SCSI_STATUS_CHECK_CONDITION, SCSI_STATUS_ERROR, SCSI_STATUS_GOOD, SCSI_STATUS_TIMEOUT,
    SCSI_XFER_NONE, SCSI_XFER_READ, SCSI_XFER_WRITE, iscsi_context, iscsi_destroy_context, iscsi_get_error,
    iscsi_get_fd, iscsi_is_logged_in, iscsi_nop_out_async, iscsi_out_queue_length, iscsi_scsi_cancel_task,
    iscsi_scsi_command_async, iscsi_service, iscsi_task_mgmt_abort_task_async, iscsi_which_events, scsi_iovec,
    scsi_task, scsi_task_set_iov_in, scsi_task_set_iov_out,
)
from _fastpath.sgio cimport (
    SG_FATE_UNKNOWN, SG_IN, SG_MAX_IOVECS, SG_OUT, SG_SENSE_SIZE, bounce_free, bounce_settle, bounce_take,
    check_command, clear_result, fail_command, gather, scatter, sg_command,
)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC
    int EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    uint32_t EPOLLIN

    ctypedef union epoll_data_t:
        int fd

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_PEEK
    int MSG_DONTWAIT
    ssize_t recv(int fd, void *data, size_t length, int flags)

cdef extern from "sgio_atomic.h" nogil:
    uint64_t sgio_now_ms()

cdef enum:
    DRAIN_RECHECK_MS = 10  # how often an aborted command looks whether all that was queued is sent
    FIXED_SENSE = 18

cdef uint64_t _NEVER = <uint64_t>-1

# CHECK CONDITION, ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE (SPC-4 4.5.3).
cdef uint8_t[FIXED_SENSE] INVALID_OPCODE = [0x70, 0, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]


cdef session *session_create(int lun, int depth) noexcept nogil:
    """A session that is not connected, or NULL with errno set."""
    cdef session *self = <session *>calloc(1, sizeof(session))
    cdef epoll_event event
    cdef int i
    if self is NULL:
        return NULL
    pthread_mutex_init(&self.lock, NULL)
    pyproxy_condition_init(&self.changed)
    pyproxy_condition_init(&self.upset)
    self.lun = lun
    self.depth = depth
    self.soonest = _NEVER
    self.armed_descriptor = -1
    self.port_wake = -1
    self.epoll = -1
    self.now = sgio_now_ms()
    self.down_since = self.now
    for i in range(depth):
        self.slots[i].owner = self
        self.slots[i].index = i
        self.free_slots[i] = depth - 1 - i
    self.free_count = depth
    self.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if self.wake >= 0:
        self.port_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if self.port_wake >= 0:
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
    if self.epoll >= 0:
        event.events = EPOLLIN
        event.data.fd = self.port_wake
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.port_wake, &event) == 0:
            return self
    i = errno
    session_free(self)
    errno_set(i)
    return NULL


cdef extern from * nogil:
    """
    static inline void errno_set(int value) { errno = value; }
    """
    void errno_set(int value)


cdef void session_free(session *self) noexcept nogil:
    """Release a session that nobody uses and that has no context."""
    cdef int i
    for i in range(self.depth):
        bounce_free(&self.slots[i].bounce)
    if self.wake >= 0:
        close(self.wake)
    if self.port_wake >= 0:
        close(self.port_wake)
    if self.epoll >= 0:
        close(self.epoll)
    pthread_cond_destroy(&self.changed)
    pthread_cond_destroy(&self.upset)
    pthread_mutex_destroy(&self.lock)
    free(self)


cdef void session_enter(session *self) noexcept nogil:
    """Note when the call began that just took the lock."""
    self.now = sgio_now_ms()


cdef void session_install(session *self, iscsi_context *context) noexcept nogil:
    """Go on with a context that has logged in."""
    self.context = context
    self.lost = False
    self.loss = LOSS_NONE
    self.heard = self.now
    self.pinged = 0
    self.connections += 1
    self.armed_descriptor = -1
    self.tell = True
    self.port_ready = True


cdef void session_drop(session *self, uint8_t loss) noexcept nogil:
    """Close the connection at once; whatever is in flight ends with an unknown fate."""
    cdef iscsi_context *context = self.context
    cdef int i
    if context is NULL:
        return
    self.context = NULL
    self.loss = loss
    self.losses += 1
    self.unreported = True
    self.alarm = True
    self.down_since = self.now
    self.armed_descriptor = -1
    self.pinged = 0
    if loss == LOSS_FAILED:
        _keep_words(self, iscsi_get_error(context))
    iscsi_destroy_context(context)
    # After a logout the library forgets to end what is queued.
    for i in range(self.depth):
        if self.slots[i].state != SLOT_FREE:
            if self.slots[i].command is not NULL:
                _fail(&self.slots[i], ECONNRESET)
            if self.slots[i].state != SLOT_FREE:
                _release(&self.slots[i])
    self.soonest = _NEVER
    self.lost = False
    self.tell = True
    self.port_ready = True


cdef void _keep_words(session *self, const char *words) noexcept nogil:
    cdef size_t length = min(strlen(words), sizeof(self.words) - 1)
    memcpy(self.words, words, length)
    self.words[length] = 0


cdef void _release(slot *which) noexcept nogil:
    which.state = SLOT_FREE
    which.owner.free_slots[which.owner.free_count] = which.index
    which.owner.free_count += 1
    which.owner.tell = True
    if which.owner.port_starved:
        which.owner.port_starved = False
        which.owner.port_ready = True


cdef void _finish(slot *which) noexcept nogil:
    """Hand the command, whose result is filled in, back to who submitted it."""
    cdef session *self = which.owner
    cdef sg_command *command = which.command
    free(which.task.datain.data)
    which.task.datain.data = NULL
    if which.bounced is not NULL:
        bounce_settle(&which.bounce)
    which.command = NULL
    self.in_flight -= 1
    if which.waits is not NULL:
        which.waits.left -= 1
        if which.waits.left == 0:
            self.tell = True
    else:
        self.done[(self.done_head + self.done_count) % <int>ISCSI_MAX_DEPTH] = command
        self.done_count += 1
        self.port_ready = True
    if which.state == SLOT_ABORTING:
        which.state = SLOT_ANSWERED
    else:
        _release(which)


cdef void _fail(slot *which, int error) noexcept nogil:
    fail_command(which.command, error, SG_FATE_UNKNOWN)
    which.command.duration_ms = <uint32_t>(which.owner.now - which.started)
    _finish(which)


cdef void _take_answer(slot *which) noexcept nogil:
    """Read the task's status, sense and residual into the command's result."""
    cdef scsi_task *task = &which.task
    cdef sg_command *command = which.command
    cdef size_t received = command.transfer_length
    cdef uint32_t length
    clear_result(command)
    command.status = <uint8_t>task.status
    command.duration_ms = <uint32_t>(which.owner.now - which.started)
    if task.residual_status == SCSI_RESIDUAL_UNDERFLOW:
        command.residual = <int>min(task.residual, <size_t>command.transfer_length)
        received -= command.residual
    elif task.residual_status == SCSI_RESIDUAL_OVERFLOW:
        command.residual = -<int>min(task.residual, <size_t>INT_MAX)
    if task.status == SCSI_STATUS_CHECK_CONDITION and task.datain.data is not NULL and task.datain.size > 2:
        # SenseLength and sense data (RFC 7143 11.4.7.2).
        length = (<uint32_t>task.datain.data[0] << 8) | task.datain.data[1]
        length = min(length, <uint32_t>task.datain.size - 2)
        command.sense_length = <uint8_t>min(length, <uint32_t>SG_SENSE_SIZE)
        memcpy(command.sense, task.datain.data + 2, command.sense_length)
    if which.bounced is not NULL and command.direction == SG_IN:
        scatter(command, which.bounced, received)


cdef void _on_answer(iscsi_context *context, int status, void *data, void *owner) noexcept nogil:
    """The library ended a command, inside one of its calls."""
    cdef slot *which = <slot *>owner
    cdef session *self = which.owner
    if which.command is NULL:
        return
    if status == SCSI_STATUS_CANCELLED:
        if which.state == SLOT_SENT:
            self.lost = True
        _fail(which, ECONNRESET if which.state == SLOT_SENT else ETIMEDOUT)
    elif status == SCSI_STATUS_ERROR or status == SCSI_STATUS_TIMEOUT:
        _fail(which, EIO)
    else:
        self.heard = self.now
        _take_answer(which)
        _finish(which)


cdef void _on_abort(iscsi_context *context, int status, void *data, void *owner) noexcept nogil:
    """ABORT TASK was answered, or the session is going."""
    cdef slot *which = <slot *>owner
    cdef session *self = which.owner
    cdef uint32_t response
    if which.state == SLOT_ANSWERED:
        _release(which)
    if which.state != SLOT_ABORTING or status != SCSI_STATUS_GOOD or data is NULL:
        return
    self.heard = self.now
    response = (<uint32_t *>data)[0]
    if response == <uint32_t>ISCSI_TMR_FUNC_COMPLETE or response == <uint32_t>ISCSI_TMR_TASK_DOES_NOT_EXIST:
        # Answers come in order: had the target ended the command before, we would know.
        which.state = SLOT_ABORTED
        self.soonest = 0
    else:
        self.loss = LOSS_UNABORTED
        self.lost = True


cdef void _on_nop(iscsi_context *context, int status, void *data, void *owner) noexcept nogil:
    cdef session *self = <session *>owner
    if status == SCSI_STATUS_GOOD:
        self.heard = self.now
        self.pinged = 0


cdef void _answer_unsupported(sg_command *command) noexcept nogil:
    """Answer a CDB that this transport cannot carry as a target does that does not know it."""
    clear_result(command)
    command.status = <uint8_t>SCSI_STATUS_CHECK_CONDITION
    command.sense_length = FIXED_SENSE
    memcpy(command.sense, INVALID_OPCODE, FIXED_SENSE)
    command.residual = <int>command.transfer_length


cdef int session_queue(session *self, sg_command *command, waiter *waits) noexcept nogil:
    """Queue a command on a connected session with a free slot.

    Returns 1 when it is in flight, 0 when it was answered here, -errno when it was not and never will be.
    """
    cdef slot *which
    cdef scsi_iovec *iovecs = <scsi_iovec *>command.iovecs
    cdef int count = <int>command.iovec_count
    cdef int rc = check_command(command)
    if rc < 0:
        return rc
    if command.cdb_length > ISCSI_CDB_SIZE:
        _answer_unsupported(command)
        return 0
    which = &self.slots[self.free_slots[self.free_count - 1]]
    which.bounced = NULL
    if command.iovec_count > SG_MAX_IOVECS:
        # writev takes no more, and the library hands it all that is left.
        which.bounced = bounce_take(&which.bounce, command.transfer_length)
        if which.bounced is NULL:
            return -ENOMEM
        if command.direction == SG_OUT:
            gather(command, which.bounced)
        which.single.iov_base = which.bounced
        which.single.iov_len = command.transfer_length
        iovecs = <scsi_iovec *>&which.single
        count = 1
    memset(&which.task, 0, sizeof(scsi_task))
    memcpy(which.task.cdb, command.cdb, command.cdb_length)
    which.task.cdb_size = command.cdb_length
    which.task.expxferlen = <int>command.transfer_length
    which.task.xfer_dir = SCSI_XFER_NONE
    if command.transfer_length > 0:
        if command.direction == SG_IN:
            which.task.xfer_dir = SCSI_XFER_READ
            scsi_task_set_iov_in(&which.task, iovecs, count)
        else:
            which.task.xfer_dir = SCSI_XFER_WRITE
            scsi_task_set_iov_out(&which.task, iovecs, count)
    which.command = command
    which.waits = waits
    which.started = self.now
    which.deadline = self.now + command.timeout_ms
    which.state = SLOT_SENT
    self.free_count -= 1
    self.in_flight += 1
    if waits is not NULL:
        waits.left += 1
    if iscsi_scsi_command_async(self.context, self.lun, &which.task, _on_answer, NULL, which) != 0:
        self.in_flight -= 1
        if waits is not NULL:
            waits.left -= 1
        which.command = NULL
        _release(which)
        return -ENOTCONN if not iscsi_is_logged_in(self.context) else -ENOMEM
    if which.deadline < self.soonest:
        self.soonest = which.deadline
    return 1


cdef void session_serve(session *self, int revents) noexcept nogil:
    """Let the library read and write; the session may be down afterwards."""
    cdef char byte
    cdef ssize_t found
    cdef int rc
    if self.context is NULL:
        return
    rc = iscsi_service(self.context, revents)
    if rc >= 0 and not self.lost and iscsi_is_logged_in(self.context):
        return
    if self.loss == LOSS_NONE:
        # The library's last words may be about an earlier command; the socket tells.
        found = recv(iscsi_get_fd(self.context), &byte, 1, MSG_PEEK | MSG_DONTWAIT)
        if found == 0 or (found < 0 and errno != EAGAIN and errno != EINTR):
            self.loss = LOSS_CLOSED
        else:
            self.loss = LOSS_FAILED
    session_drop(self, self.loss)


cdef void session_look(session *self) noexcept nogil:
    """Serve the session without having polled it; never blocks."""
    cdef char byte
    cdef int events
    if self.context is NULL:
        return
    if self.pinged != 0 and recv(iscsi_get_fd(self.context), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0:
        self.heard = self.now
    events = iscsi_which_events(self.context)
    session_serve(self, POLLIN | (events & POLLOUT))


cdef bint _all_sent(session *self) noexcept nogil:
    """Whether no byte waits to be sent. Only then may a task be cancelled: the library frees what it sends from."""
    return iscsi_out_queue_length(self.context) == 0 and iscsi_which_events(self.context) & POLLOUT == 0


cdef void _expire(session *self) noexcept nogil:
    """Abort what has run out of time; take the session down where that is not answered in time either."""
    cdef slot *which
    cdef int i
    cdef bint drained = _all_sent(self)
    self.soonest = _NEVER
    for i in range(self.depth):
        which = &self.slots[i]
        if which.state == SLOT_FREE:
            continue
        if which.state == SLOT_ABORTED and drained:
            iscsi_scsi_cancel_task(self.context, &which.task)
            continue
        if which.deadline <= self.now:
            if which.state != SLOT_SENT:
                self.loss = LOSS_UNABORTED
                session_drop(self, LOSS_UNABORTED)
                return
            which.deadline = self.now + self.abort_ms
            which.state = SLOT_ABORTING
            self.aborts += 1
            if iscsi_task_mgmt_abort_task_async(self.context, &which.task, _on_abort, which) != 0:
                session_drop(self, LOSS_UNABORTED)
                return
        self.soonest = min(self.soonest, which.deadline)
        if which.state == SLOT_ABORTED:
            self.soonest = min(self.soonest, self.now + <uint64_t>DRAIN_RECHECK_MS)


cdef void session_tick(session *self) noexcept nogil:
    """Do what is due by the clock: timeouts of commands, NOP-Out, and the end of patience with a silent target."""
    cdef uint64_t before = self.aborts
    cdef bint to_send
    if self.context is NULL:
        return
    if self.now >= self.soonest:
        _expire(self)
        if self.context is NULL:
            return
    to_send = self.aborts != before
    if self.nop_interval_ms != 0:
        if self.pinged != 0 and self.heard > self.pinged:
            self.pinged = 0
        if self.pinged != 0:
            # A NOP-Out that could not be sent, because the target has as many commands as it takes, proves nothing.
            if self.now - self.pinged >= self.nop_timeout_ms and _all_sent(self):
                session_drop(self, LOSS_SILENT)
                return
        elif self.now - self.heard >= self.nop_interval_ms:
            self.pinged = self.now
            if iscsi_nop_out_async(self.context, _on_nop, NULL, 0, self) != 0:
                session_drop(self, LOSS_FAILED)
                return
            to_send = True
    if to_send:
        session_serve(self, POLLOUT)


cdef int session_timeout(session *self) noexcept nogil:
    """Milliseconds until something is due by the clock, at most ISCSI_RECHECK_MS."""
    if self.soonest <= self.now:
        return 1
    return <int>min(self.soonest - self.now, <uint64_t>ISCSI_RECHECK_MS)


cdef bint session_gives_up(session *self) noexcept nogil:
    """Whether commands are no longer kept waiting for a connection."""
    return self.closing or self.now - self.down_since >= self.patience_ms


cdef void session_wait(session *self) noexcept nogil:
    """Wait, with the lock released, until there may be something for the calling submitter; serves the session.

    One submitter at a time polls the socket for all of them.
    """
    cdef pollfd polled[2]
    cdef uint64_t connection = self.connections
    cdef uint64_t count
    cdef int timeout = session_timeout(self)
    cdef int ready
    if self.context is NULL or self.driving:
        self.sleepers += 1
        pyproxy_condition_wait(&self.changed, &self.lock, <uint32_t>timeout)
        self.sleepers -= 1
        session_enter(self)
        return
    polled[0].fd = iscsi_get_fd(self.context)
    polled[0].events = <short>iscsi_which_events(self.context)
    polled[0].revents = 0
    polled[1].fd = self.wake
    polled[1].events = POLLIN
    polled[1].revents = 0
    self.driving = True
    self.asleep = True
    self.asleep_for = polled[0].events
    self.asleep_until = self.now + <uint64_t>timeout
    pthread_mutex_unlock(&self.lock)
    ready = poll(polled, 2, timeout)
    pthread_mutex_lock(&self.lock)
    session_enter(self)
    self.driving = False
    self.asleep = False
    if ready > 0 and polled[1].revents != 0:
        read(self.wake, &count, sizeof(count))
    if ready > 0 and polled[0].revents != 0 and self.context is not NULL and self.connections == connection:
        if polled[0].revents & POLLIN:
            self.heard = self.now
        session_serve(self, polled[0].revents)
    session_tick(self)


cdef void session_publish(session *self, bint by_port) noexcept nogil:
    """Wake whoever has to know what happened under the lock; the last thing before it is released."""
    cdef uint64_t one = 1
    cdef short events = 0
    if self.context is not NULL:
        events = <short>iscsi_which_events(self.context)
    if self.asleep and (self.tell or self.context is NULL or events & ~self.asleep_for
                        or self.soonest < self.asleep_until):
        self.asleep = False
        write(self.wake, &one, sizeof(one))
    if self.tell and self.sleepers > 0:
        pthread_cond_broadcast(&self.changed)
    self.tell = False
    if self.alarm:
        self.alarm = False
        pthread_cond_broadcast(&self.upset)
    if not self.has_port:
        return
    if self.context is not NULL:
        _arm(self, events)
    if self.port_ready and not by_port and not self.port_raised:
        self.port_raised = True
        write(self.port_wake, &one, sizeof(one))
    self.port_ready = False


cdef void _arm(session *self, short events) noexcept nogil:
    """Have the port's epoll set watch the socket for ``events``; POLLIN and POLLOUT are EPOLLIN and EPOLLOUT."""
    cdef epoll_event event
    cdef int descriptor = iscsi_get_fd(self.context)
    cdef int operation = EPOLL_CTL_MOD if descriptor == self.armed_descriptor else EPOLL_CTL_ADD
    if operation == EPOLL_CTL_MOD and events == self.armed_events:
        return
    event.events = <uint32_t>events
    event.data.fd = descriptor
    if epoll_ctl(self.epoll, operation, descriptor, &event) == 0:
        self.armed_descriptor = descriptor
        self.armed_events = events
