# cython: language_level=3
"""A logical unit behind one iSCSI session: an engine for threads that wait, a port for a worker that polls."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EBADF, EHOSTUNREACH, ESRCH, ETIMEDOUT, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport read

from _fastpath.iscsi_login cimport LOGIN_DONE, log_in, log_out, login_outcome, login_settings, unit_identity
from _fastpath.iscsi_session cimport (
    ISCSI_MAX_DEPTH, ISCSI_RECHECK_MS, LOSS_CLOSED, LOSS_FAILED, LOSS_SILENT, LOSS_UNABORTED, POLLIN, POLLOUT, poll,
    pollfd, pthread_mutex_lock, pthread_mutex_unlock, pyproxy_condition_wait, session, session_create, session_drop,
    session_enter, session_free, session_gives_up, session_install, session_look, session_publish, session_queue,
    session_serve, session_tick, session_timeout, session_wait, waiter,
)
from _fastpath.libiscsi cimport iscsi_context, pyproxy_iscsi_has_data_digest
from _fastpath.port cimport Port
from _fastpath.sgio cimport (
    SG_FATE_NOT_EXECUTED, Batch, Engine, fail_all, fail_command, fork_generation, raise_engine_error, sg_command,
)

import os

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)

MAX_DEPTH = ISCSI_MAX_DEPTH
LOST_CLOSED = LOSS_CLOSED
LOST_SILENT = LOSS_SILENT
LOST_UNABORTED = LOSS_UNABORTED
LOST_FAILED = LOSS_FAILED

cdef uint32_t _LOGOUT_MS = 2000


def has_data_digest():
    return bool(pyproxy_iscsi_has_data_digest())


cdef class IscsiEngine(Engine):
    cdef session *state
    cdef unsigned int forks
    cdef uint32_t stopping  # read by a login in progress
    cdef bint connecting
    cdef uint8_t isid[6]
    cdef bint header_digest
    cdef bint data_digest
    cdef uint32_t user_timeout_ms
    cdef unit_identity identity  # written by the one thread that connects
    cdef bytes target
    cdef bytes initiator

    def __init__(self, target, initiator, isid, int lun, *, label, int depth=32, bint header_digest=False,
                 bint data_digest=False, nop_interval_ms=5000, nop_timeout_ms=10000, abort_ms=5000,
                 patience_ms=30000):
        if self.state is not NULL:
            raise RuntimeError(f"{self.label}: the engine is already open")
        if len(isid) != 6:
            raise ValueError(f"an ISID has 6 bytes, this one has {len(isid)}")
        if not 0 <= lun <= 0x3FFF:
            raise ValueError(f"LUN {lun} is not between 0 and 16383")
        if not 1 <= depth <= ISCSI_MAX_DEPTH:
            raise ValueError(f"{depth} commands in flight is not between 1 and {ISCSI_MAX_DEPTH}")
        self.label = label
        self.target = os.fsencode(target)
        self.initiator = os.fsencode(initiator)
        memcpy(self.isid, <const uint8_t *><const char *><bytes>isid, 6)
        self.identity.length = -1
        self.header_digest = header_digest
        self.data_digest = data_digest
        self.user_timeout_ms = nop_interval_ms + nop_timeout_ms if nop_interval_ms else 0
        # Peripheral addressing below 256, flat space addressing above (SAM-5 4.7.7).
        self.state = session_create(lun if lun < 256 else 0x4000 | lun, depth)
        if self.state is NULL:
            raise OSError(errno, f"{label}: cannot make a session: {os.strerror(errno)}")
        self.state.nop_interval_ms = nop_interval_ms
        self.state.nop_timeout_ms = nop_timeout_ms
        self.state.abort_ms = abort_ms
        self.state.patience_ms = patience_ms
        self.forks = fork_generation()

    cdef int _enter(self) noexcept nogil:
        """Take the lock: 0, or -errno and it was not taken."""
        if self.state is NULL:
            return -EBADF
        if self.forks != fork_generation():
            return -ESRCH
        pthread_mutex_lock(&self.state.lock)
        session_enter(self.state)
        return 0

    cdef void _leave(self) noexcept nogil:
        session_publish(self.state, False)
        pthread_mutex_unlock(&self.state.lock)

    def connect(self, portal not None, int timeout_ms, *, user=None, secret=None, target_user=None,
                target_secret=None):
        cdef login_settings settings
        cdef login_outcome outcome
        cdef iscsi_context *context
        cdef bytes address = os.fsencode(portal)
        cdef bytes name = user or b""
        cdef bytes word = secret or b""
        cdef bytes other_name = target_user or b""
        cdef bytes other_word = target_secret or b""
        cdef bint wanted
        cdef int rc
        if len(address) > 255 or len(name) > 255 or len(word) > 255 or len(other_name) > 255 or len(other_word) > 255:
            raise ValueError(f"{self.label}: the library takes portals, names and secrets of at most 255 bytes")
        settings.portal = address
        settings.target = self.target
        settings.initiator = self.initiator
        memcpy(settings.isid, self.isid, 6)
        settings.header_digest = self.header_digest
        settings.data_digest = self.data_digest
        settings.lun = self.state.lun if self.state is not NULL else 0
        settings.user = NULL
        settings.target_user = NULL
        if user:
            settings.user = name
            settings.secret = word
        if target_user:
            settings.target_user = other_name
            settings.target_secret = other_word
        settings.user_timeout_ms = self.user_timeout_ms
        rc = self._enter()
        if rc < 0:
            raise_engine_error(rc, self.label)
        wanted = self.state.context is NULL and not self.state.closing and not self.connecting
        self.connecting = self.connecting or wanted
        self._leave()
        if not wanted:
            return None
        with nogil:
            context = log_in(&settings, <uint32_t>timeout_ms, &self.stopping, &self.identity, &outcome)
            pthread_mutex_lock(&self.state.lock)
            session_enter(self.state)
            self.connecting = False
            if context is not NULL and not self.state.closing:
                session_install(self.state, context)
                context = NULL
            self.state.tell = True
            self._leave()
            if context is not NULL:
                log_out(context, _LOGOUT_MS)
        if outcome.stage == LOGIN_DONE:
            return None
        return outcome.stage, (<bytes>outcome.words).decode("utf-8", "replace")

    def tend(self, int timeout_ms):
        cdef session *state = self.state
        cdef int loss = -1
        cdef bint connected = False
        cdef bint closed = False
        cdef int rc
        with nogil:
            rc = self._enter()
            if rc == 0:
                if not state.unreported and not state.closing and timeout_ms > 0:
                    session_publish(state, False)
                    pyproxy_condition_wait(&state.upset, &state.lock, <uint32_t>timeout_ms)
                    session_enter(state)
                if not state.driving:
                    session_look(state)
                session_tick(state)
                if state.unreported:
                    loss = state.loss
                    state.unreported = False
                connected = state.context is not NULL
                closed = state.closing
                self._leave()
        if rc < 0:
            raise_engine_error(rc, self.label)
        return connected, closed, None if loss < 0 else loss

    @property
    def last_words(self):
        cdef bytes words
        if self._enter() < 0:
            return ""
        words = self.state.words
        self._leave()
        return words.decode("utf-8", "replace")

    @property
    def identity_page(self):
        return PyBytes_FromStringAndSize(<char *>self.identity.page, max(self.identity.length, 0))

    @property
    def counts(self):
        if self._enter() < 0:
            return 0, 0, 0, 0
        found = (self.state.connections, self.state.losses, self.state.aborts, self.state.in_flight)
        self._leave()
        return found

    def disconnect(self):
        cdef int rc
        with nogil:
            rc = self._enter()
            if rc == 0:
                session_drop(self.state, LOSS_CLOSED)
                self._leave()
        if rc < 0:
            raise_engine_error(rc, self.label)

    def port(self):
        cdef IscsiPort port = IscsiPort.__new__(IscsiPort)
        cdef int rc = self._enter()
        if rc < 0:
            raise_engine_error(rc, self.label)
        port.engine = self
        port.state = self.state
        port.forks = self.forks
        taken = self.state.has_port
        self.state.has_port = True
        self._leave()
        if taken:
            raise RuntimeError(f"{self.label}: the engine has a port already; a session has one worker")
        return port

    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil:
        cdef session *state = self.state
        cdef sg_command *command
        cdef waiter mine
        cdef uint64_t began
        cdef int following = 0
        cdef int queued
        cdef int refused
        cdef int rc = self._enter()
        if rc == 0 and state.closing:
            self._leave()
            rc = -EBADF
        if rc < 0:
            fail_all(commands, indices, n, -rc)
            return rc
        mine.left = 0
        began = state.now
        state.users += 1
        while True:
            queued = 0
            while following < n and state.context is not NULL and state.free_count > 0:
                command = &commands[following if indices is NULL else indices[following]]
                following += 1
                rc = session_queue(state, command, &mine)
                if rc < 0:
                    fail_command(command, -rc, SG_FATE_NOT_EXECUTED)
                queued += rc == 1
            if queued:
                session_serve(state, POLLOUT)
                if mine.left > 0 and state.context is not NULL and not state.driving:
                    session_look(state)
            if state.context is NULL:
                while following < n:
                    command = &commands[following if indices is NULL else indices[following]]
                    if session_gives_up(state):
                        refused = EBADF if state.closing else EHOSTUNREACH
                    elif state.now - began >= command.timeout_ms:
                        refused = ETIMEDOUT
                    else:
                        break
                    fail_command(command, refused, SG_FATE_NOT_EXECUTED)
                    following += 1
            if following == n and mine.left == 0:
                break
            if following < n and state.context is not NULL and state.free_count > 0:
                continue  # what was queued is answered already
            session_publish(state, False)
            session_wait(state)
        state.users -= 1
        # Somebody else has to poll from here on.
        state.tell = True
        self._leave()
        return 0

    def close(self):
        cdef session *state = self.state
        cdef iscsi_context *context = NULL
        if state is NULL or self.forks != fork_generation():
            return
        sgio_store(&self.stopping, 1)
        with nogil:
            pthread_mutex_lock(&state.lock)
            session_enter(state)
            state.closing = True
            state.alarm = True
            state.tell = True
            while state.users > 0 or self.connecting:
                state.tell = True
                session_publish(state, False)
                state.sleepers += 1
                pyproxy_condition_wait(&state.changed, &state.lock, ISCSI_RECHECK_MS)
                state.sleepers -= 1
                session_enter(state)
            if state.in_flight == 0:
                context = state.context
                state.context = NULL
                state.armed_descriptor = -1
            else:
                session_drop(state, LOSS_CLOSED)
            state.tell = True
            state.port_ready = True
            self._leave()
            if context is not NULL:
                log_out(context, _LOGOUT_MS)

    def __dealloc__(self):
        if self.state is not NULL:
            IscsiEngine.close(self)
            session_free(self.state)


cdef class IscsiPort(Port):
    cdef IscsiEngine engine  # keeps the session
    cdef session *state
    cdef unsigned int forks

    cdef int start(self, sg_command **commands, int n) noexcept nogil:
        cdef session *state = self.state
        cdef int taken = 0
        cdef int queued = 0
        cdef int rc
        if self.forks != fork_generation():
            return -ESRCH
        pthread_mutex_lock(&state.lock)
        session_enter(state)
        if state.context is NULL and session_gives_up(state):
            taken = -EBADF if state.closing else -EHOSTUNREACH
        else:
            while (taken < n and state.context is not NULL and state.free_count > 0
                    and state.port_flight < state.depth):
                rc = session_queue(state, commands[taken], NULL)
                if rc < 0:
                    fail_command(commands[taken], -rc, SG_FATE_NOT_EXECUTED)
                if rc == 1:
                    queued += 1
                else:
                    state.done[(state.done_head + state.done_count) % <int>ISCSI_MAX_DEPTH] = commands[taken]
                    state.done_count += 1
                taken += 1
                state.port_flight += 1
            state.port_starved = taken < n and state.free_count == 0
            if queued:
                session_serve(state, POLLOUT)
        session_publish(state, state.done_count == 0)
        pthread_mutex_unlock(&state.lock)
        return taken

    cdef int reap(self, sg_command **done, int room) noexcept nogil:
        cdef session *state = self.state
        cdef uint64_t count
        cdef int found = 0
        if self.forks != fork_generation():
            return -ESRCH
        pthread_mutex_lock(&state.lock)
        session_enter(state)
        if state.done_count < room:
            session_look(state)
        session_tick(state)
        if state.port_raised:
            read(state.port_wake, &count, sizeof(count))
            state.port_raised = False
        while found < room and state.done_count > 0:
            done[found] = state.done[state.done_head]
            state.done_head = (state.done_head + 1) % <int>ISCSI_MAX_DEPTH
            state.done_count -= 1
            state.port_flight -= 1
            found += 1
        session_publish(state, state.done_count == 0)
        pthread_mutex_unlock(&state.lock)
        return found

    cdef int watch(self, int *descriptor, short *events) noexcept nogil:
        cdef session *state = self.state
        cdef int timeout
        pthread_mutex_lock(&state.lock)
        session_enter(state)
        descriptor[0] = state.epoll
        events[0] = POLLIN
        timeout = session_timeout(state)
        session_publish(state, True)
        pthread_mutex_unlock(&state.lock)
        return timeout

    def run(self, Batch batch not None):
        cdef sg_command **offered
        cdef sg_command **reaped
        cdef int n = batch.count
        cdef int following = 0
        cdef int done = 0
        cdef int dead = 0
        cdef int rc
        cdef int i
        cdef pollfd polled
        cdef int timeout
        if n == 0:
            return
        batch.begin()
        offered = <sg_command **>calloc(n, sizeof(sg_command *))
        reaped = <sg_command **>calloc(n, sizeof(sg_command *))
        try:
            if offered is NULL or reaped is NULL:
                raise MemoryError
            for i in range(n):
                offered[i] = &batch.commands[i]
            with nogil:
                while done < n:
                    if following < n:
                        rc = self.start(offered + following, n - following)
                        if rc < 0:
                            dead = rc
                            for i in range(following, n):
                                fail_command(offered[i], -rc, SG_FATE_NOT_EXECUTED)
                            done += n - following
                            following = n
                        else:
                            following += rc
                    if done == n:
                        break
                    timeout = self.watch(&polled.fd, &polled.events)
                    polled.revents = 0
                    poll(&polled, 1, timeout)
                    rc = self.reap(reaped, n)
                    if rc < 0:
                        dead = rc
                        break
                    done += rc
        finally:
            free(offered)
            free(reaped)
            batch.end()
        if dead < 0:
            raise_engine_error(dead, self.engine.label)
