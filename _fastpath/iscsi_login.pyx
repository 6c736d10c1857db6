# cython: language_level=3
"""Connecting to a portal and logging in as a fixed I_T nexus, without a command that would eat a unit attention.

The library's own full connect sends TEST UNIT READY until no unit attention is left; here login is all that is sent.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from _fastpath.iscsi_session cimport poll, pollfd
from _fastpath.libiscsi cimport (
    ISCSI_HEADER_DIGEST_CRC32C, ISCSI_HEADER_DIGEST_NONE, ISCSI_SESSION_NORMAL, SCSI_STATUS_GOOD, iscsi_connect_async,
    iscsi_context, iscsi_create_context, iscsi_destroy_context, iscsi_get_error, iscsi_get_fd,
    iscsi_get_target_address, iscsi_is_logged_in, iscsi_login_async, iscsi_logout_async, iscsi_service,
    iscsi_set_header_digest, iscsi_set_initiator_username_pwd, iscsi_set_isid_en, iscsi_set_isid_oui,
    iscsi_set_isid_random, iscsi_set_noautoreconnect, iscsi_set_session_type, iscsi_set_target_username_pwd,
    iscsi_set_targetname, iscsi_set_tcp_user_timeout, iscsi_which_events, pyproxy_iscsi_data_digest,
)

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    uint64_t sgio_now_ms()

cdef enum:
    MAX_REDIRECTIONS = 3
    POLL_MS = 100  # how late a request to stop may be noticed

cdef struct step:
    bint ended
    int status


cdef void _on_step(iscsi_context *context, int status, void *data, void *owner) noexcept nogil:
    cdef step *which = <step *>owner
    which.ended = True
    which.status = status


cdef void _keep(char *kept, const char *words) noexcept nogil:
    """Copy what fits into 256 bytes."""
    cdef size_t length = min(strlen(words), <size_t>255)
    memcpy(kept, words, length)
    kept[length] = 0


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


cdef iscsi_context *_try_portal(const login_settings *settings, const char *portal, uint64_t deadline,
                                const uint32_t *stop, login_outcome *outcome, char *moved) noexcept nogil:
    """One portal: the context that has logged in, or NULL; ``moved`` is where the target sends us instead, or empty."""
    cdef iscsi_context *context = _prepare(settings)
    cdef step which
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
        return context
    _keep(outcome.words, iscsi_get_error(context))
    iscsi_destroy_context(context)
    return NULL


cdef iscsi_context *log_in(const login_settings *settings, uint32_t timeout_ms, const uint32_t *stop,
                           login_outcome *outcome) noexcept nogil:
    """Connect and log in, following redirections; NULL and ``outcome`` filled where that fails.

    Gives up when ``stop`` becomes non-zero.
    """
    cdef uint64_t deadline = sgio_now_ms() + timeout_ms
    cdef char portal[256]
    cdef char moved[256]
    cdef iscsi_context *context
    cdef int left = MAX_REDIRECTIONS
    memset(outcome, 0, sizeof(login_outcome))
    _keep(portal, settings.portal)
    while True:
        context = _try_portal(settings, portal, deadline, stop, outcome, moved)
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
