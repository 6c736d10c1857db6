# cython: language_level=3
"""Connecting to a portal and logging in as a fixed I_T nexus, without a command that would eat a unit attention.

The library's own full connect sends TEST UNIT READY until no unit attention is left. Here nothing follows the login but
an INQUIRY, which reports none (SPC-4 6.4): whether the logical unit is the one it was before the session was lost.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset, strlen

from _fastpath.iscsi_session cimport poll, pollfd
from _fastpath.libiscsi cimport (
    ISCSI_HEADER_DIGEST_CRC32C, ISCSI_HEADER_DIGEST_NONE, ISCSI_SESSION_NORMAL, SCSI_RESIDUAL_UNDERFLOW,
    SCSI_STATUS_CHECK_CONDITION, SCSI_STATUS_GOOD, SCSI_XFER_READ, iscsi_connect_async,
    iscsi_context, iscsi_create_context, iscsi_destroy_context, iscsi_get_error, iscsi_get_fd,
    iscsi_get_target_address, iscsi_is_logged_in, iscsi_login_async, iscsi_logout_async,
    iscsi_scsi_command_async, iscsi_service,
    iscsi_set_header_digest, iscsi_set_initiator_username_pwd, iscsi_set_isid_en, iscsi_set_isid_oui,
    iscsi_set_isid_random, iscsi_set_noautoreconnect, iscsi_set_session_type, iscsi_set_target_username_pwd,
    iscsi_set_targetname, iscsi_set_tcp_user_timeout, iscsi_which_events, pyproxy_iscsi_data_digest,
    scsi_iovec, scsi_task, scsi_task_set_iov_in,
)
from _fastpath.sgio cimport iovec

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    uint64_t sgio_now_ms()

cdef enum:
    MAX_REDIRECTIONS = 3
    POLL_MS = 100  # how late a request to stop may be noticed

cdef struct step:
    bint ended
    int status
    char words[256]  # the library's at that moment; it overwrites them soon

# An INQUIRY and where its answer goes; it lives as long as the context that may still answer it.
cdef struct inquiry:
    step ended
    scsi_task task
    iovec buffer
    unit_identity found


cdef void _keep(char *kept, const char *words) noexcept nogil:
    """Copy what fits into 256 bytes."""
    cdef size_t length = min(strlen(words), <size_t>255)
    memcpy(kept, words, length)
    kept[length] = 0


cdef void _on_step(iscsi_context *context, int status, void *data, void *owner) noexcept nogil:
    cdef step *which = <step *>owner
    which.ended = True
    which.status = status
    if status != SCSI_STATUS_GOOD:
        _keep(which.words, iscsi_get_error(context))


cdef int _until(iscsi_context *context, step *which, uint64_t deadline, const uint32_t *stop) noexcept nogil:
    """Serve the context until the step has ended: LOGIN_DONE, LOGIN_SLOW, or LOGIN_UNREACHABLE where it broke."""
    cdef pollfd polled
    cdef uint64_t now
    while not which.ended:
        now = sgio_now_ms()
        if now >= deadline or (stop is not NULL and sgio_load(stop)):
            return LOGIN_SLOW
        polled.fd = iscsi_get_fd(context)
        polled.events = <short>iscsi_which_events(context)
        polled.revents = 0
        if polled.fd < 0:
            return LOGIN_UNREACHABLE
        if poll(&polled, 1, <int>min(deadline - now, <uint64_t>POLL_MS)) <= 0:
            continue
        if iscsi_service(context, polled.revents) < 0 and not which.ended:
            return LOGIN_UNREACHABLE
    return LOGIN_DONE


cdef iscsi_context *_prepare(const login_settings *settings) noexcept nogil:
    """A context with everything set, or NULL."""
    cdef iscsi_context *context = iscsi_create_context(settings.initiator)
    cdef const uint8_t *isid = &settings.isid[0]
    cdef uint32_t upper
    cdef int rc = 0
    if context is NULL:
        return NULL
    iscsi_set_noautoreconnect(context, 1)
    # The four forms of an ISID (RFC 7143 11.12.5); the library has a setter for each.
    if isid[0] & 0xC0 == 0x00:
        upper = (<uint32_t>isid[0] << 16) | (<uint32_t>isid[1] << 8) | isid[2]
        rc |= iscsi_set_isid_oui(context, upper, (<uint32_t>isid[3] << 16) | (<uint32_t>isid[4] << 8) | isid[5])
    else:
        upper = (<uint32_t>isid[1] << 16) | (<uint32_t>isid[2] << 8) | isid[3]
        if isid[0] == 0x40:
            rc |= iscsi_set_isid_en(context, upper, (<uint32_t>isid[4] << 8) | isid[5])
        else:
            rc |= iscsi_set_isid_random(context, upper, (<uint32_t>isid[4] << 8) | isid[5])
    rc |= iscsi_set_targetname(context, settings.target)
    rc |= iscsi_set_session_type(context, ISCSI_SESSION_NORMAL)
    rc |= iscsi_set_header_digest(
        context, ISCSI_HEADER_DIGEST_CRC32C if settings.header_digest else ISCSI_HEADER_DIGEST_NONE)
    rc |= pyproxy_iscsi_data_digest(context, settings.data_digest)
    if settings.user is not NULL:
        rc |= iscsi_set_initiator_username_pwd(context, settings.user, settings.secret)
        if settings.target_user is not NULL:
            rc |= iscsi_set_target_username_pwd(context, settings.target_user, settings.target_secret)
    if settings.user_timeout_ms:
        iscsi_set_tcp_user_timeout(context, <int>settings.user_timeout_ms)
    if rc != 0:
        iscsi_destroy_context(context)
        return NULL
    return context


cdef int _identify(iscsi_context *context, int lun, inquiry *asked, unit_identity *known, uint64_t deadline,
                   const uint32_t *stop) noexcept nogil:
    """Compare VPD page 83h with the known one, or make it known: LOGIN_DONE, LOGIN_UNANSWERED or LOGIN_ANOTHER."""
    cdef unit_identity *found = &asked.found
    cdef scsi_task *task = &asked.task
    cdef int rc
    memset(asked, 0, sizeof(inquiry))
    task.cdb[0] = 0x12  # INQUIRY
    task.cdb[1] = 0x01
    task.cdb[2] = 0x83
    task.cdb[3] = IDENTITY_SIZE >> 8
    task.cdb[4] = IDENTITY_SIZE & 0xFF
    task.cdb_size = 6
    task.xfer_dir = SCSI_XFER_READ
    task.expxferlen = IDENTITY_SIZE
    asked.buffer.iov_base = found.page
    asked.buffer.iov_len = IDENTITY_SIZE
    scsi_task_set_iov_in(task, <scsi_iovec *>&asked.buffer, 1)
    if iscsi_scsi_command_async(context, lun, task, _on_step, NULL, &asked.ended) != 0:
        return LOGIN_UNANSWERED
    rc = _until(context, &asked.ended, deadline, stop)
    if rc != LOGIN_DONE:
        return LOGIN_UNANSWERED
    free(task.datain.data)
    if asked.ended.status == SCSI_STATUS_GOOD:
        found.length = IDENTITY_SIZE
        if task.residual_status == SCSI_RESIDUAL_UNDERFLOW:
            found.length -= <int>min(task.residual, <size_t>IDENTITY_SIZE)
    elif asked.ended.status != SCSI_STATUS_CHECK_CONDITION:
        return LOGIN_UNANSWERED
    if known.length < 0:
        memcpy(known, found, sizeof(unit_identity))
    elif known.length != found.length or memcmp(known.page, found.page, found.length) != 0:
        return LOGIN_ANOTHER
    return LOGIN_DONE


cdef iscsi_context *_try_portal(const login_settings *settings, const char *portal, uint64_t deadline,
                                const uint32_t *stop, unit_identity *identity, login_outcome *outcome,
                                char *moved) noexcept nogil:
    """One portal: the context that has logged in, or NULL; ``moved`` is where the target sends us instead, or empty."""
    cdef iscsi_context *context = _prepare(settings)
    cdef step which
    cdef inquiry asked
    moved[0] = 0
    outcome.words[0] = 0
    if context is NULL:
        outcome.stage = LOGIN_IMPOSSIBLE
        return NULL
    memset(&which, 0, sizeof(which))
    outcome.stage = LOGIN_UNREACHABLE
    if iscsi_connect_async(context, portal, _on_step, &which) == 0:
        outcome.stage = _until(context, &which, deadline, stop)
        if outcome.stage == LOGIN_DONE and which.status != SCSI_STATUS_GOOD:
            outcome.stage = LOGIN_UNREACHABLE
    if outcome.stage == LOGIN_DONE:
        memset(&which, 0, sizeof(which))
        if iscsi_login_async(context, _on_step, &which) != 0:
            outcome.stage = LOGIN_IMPOSSIBLE
        else:
            outcome.stage = _until(context, &which, deadline, stop)
            if outcome.stage == LOGIN_UNREACHABLE or (
                    outcome.stage == LOGIN_DONE
                    and (which.status != SCSI_STATUS_GOOD or not iscsi_is_logged_in(context))):
                outcome.stage = LOGIN_REFUSED
                _keep(moved, iscsi_get_target_address(context))
    if outcome.stage == LOGIN_DONE:
        outcome.stage = _identify(context, settings.lun, &asked, identity, deadline, stop)
    if outcome.stage == LOGIN_DONE:
        return context
    if which.words[0] != 0:
        _keep(outcome.words, which.words)
    else:
        _keep(outcome.words, iscsi_get_error(context))
    iscsi_destroy_context(context)
    return NULL


cdef iscsi_context *log_in(const login_settings *settings, uint32_t timeout_ms, const uint32_t *stop,
                           unit_identity *identity, login_outcome *outcome) noexcept nogil:
    """Connect and log in, following redirections; NULL and ``outcome`` filled where that fails.

    The logical unit must have the ``identity``, which is filled in where its length is -1. Gives up when ``stop``
    becomes non-zero.
    """
    cdef uint64_t deadline = sgio_now_ms() + timeout_ms
    cdef char portal[256]
    cdef char moved[256]
    cdef iscsi_context *context
    cdef int left = MAX_REDIRECTIONS
    memset(outcome, 0, sizeof(login_outcome))
    _keep(portal, settings.portal)
    while True:
        context = _try_portal(settings, portal, deadline, stop, identity, outcome, moved)
        if context is not NULL or moved[0] == 0 or left == 0:
            return context
        _keep(portal, moved)
        left -= 1


cdef void log_out(iscsi_context *context, uint32_t timeout_ms) noexcept nogil:
    """End the session as the protocol has it, or the connection where the target does not answer; frees the context."""
    cdef step which
    memset(&which, 0, sizeof(which))
    if iscsi_logout_async(context, _on_step, &which) == 0:
        _until(context, &which, sgio_now_ms() + timeout_ms, NULL)
    # No step may outlive this frame; destroying the context ends those that are left.
    iscsi_destroy_context(context)
