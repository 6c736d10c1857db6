# cython: language_level=3
"""Connecting and logging in, logging out: one context in the hands of one thread; see iscsi_login.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.libiscsi cimport iscsi_context


cdef enum:
    LOGIN_DONE = 0
    LOGIN_UNREACHABLE = 1  # no TCP connection
    LOGIN_REFUSED = 2  # the target answered the login with an error, or what it said cannot be accepted
    LOGIN_SLOW = 3  # not done in time
    LOGIN_IMPOSSIBLE = 4  # no memory, or the library cannot do what is asked
    LOGIN_UNANSWERED = 5  # logged in, but INQUIRY did not end
    LOGIN_ANOTHER = 6  # logged in, but to another logical unit than before

    IDENTITY_SIZE = 4096


cdef struct login_settings:
    const char *portal  # HOST:PORT or [HOST]:PORT
    const char *target
    const char *initiator
    uint8_t isid[6]
    bint header_digest
    bint data_digest
    const char *user  # NULL: no CHAP
    const char *secret
    const char *target_user  # NULL: the target need not prove who it is
    const char *target_secret
    uint32_t user_timeout_ms  # of TCP, 0 for the system's
    int lun  # as it goes on the wire


# VPD page 83h as the logical unit answered it, as far as it fits; length 0 where it has none, -1 where never asked.
cdef struct unit_identity:
    int length
    uint8_t page[IDENTITY_SIZE]


# What became of an attempt: LOGIN_*, and the library's words where it has some.
cdef struct login_outcome:
    int stage
    char words[256]


cdef iscsi_context *log_in(const login_settings *settings, uint32_t timeout_ms, const uint32_t *stop,
                           unit_identity *identity, login_outcome *outcome) noexcept nogil
cdef void log_out(iscsi_context *context, uint32_t timeout_ms) noexcept nogil
