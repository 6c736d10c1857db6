"""What an iSCSI unit is configured with, and what follows from it: address, initiator port, secrets."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Final, NamedTuple, Self

from msgspec import Struct

from pyproxy.device.base import TransportError
from pyproxy.scsi.transport_id import IscsiTransportId

DEFAULT_PORT: Final = 3260
URL_FORM: Final = "iscsi://HOST[:PORT]/TARGET/LUN"
MAX_LUN: Final = 16383

_LIMIT = 255
"""Bytes the library takes of a portal, a name or a secret."""

_NAME = re.compile(r"(?:iqn\.\d{4}-\d{2}\.[^\s/,]+|eui\.[0-9a-f]{16}|naa\.(?:[0-9a-f]{16}){1,2})", re.IGNORECASE)
_URL = re.compile(
    r"iscsi://(?P<host>\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\]|[^/:\[\]@]+)(?::(?P<port>\d+))?/(?P<target>[^/]+)/(?P<lun>\d+)"
)
_ISID = re.compile(r"[0-9a-fA-F]{12}")


class IscsiError(TransportError):
    """An iSCSI unit cannot be used; the message names it, the cause and the remedy."""


class IscsiUrl(NamedTuple):
    """A logical unit as ``iscsi://HOST[:PORT]/TARGET/LUN`` names it; ``portal`` has the port, and IPv6 in brackets."""

    portal: str
    target: str
    lun: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL; raises ValueError that says what is wrong. One that carries credentials is refused."""
        if "@" in text.removeprefix("iscsi://").partition("/")[0]:
            raise ValueError("a URL is shown in logs: put user and secret into chap_user and chap_secret_file instead")
        match = _URL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not of the form {URL_FORM}")
        port = int(match["port"] or DEFAULT_PORT)
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} is not between 1 and 65535")
        lun = int(match["lun"])
        if lun > MAX_LUN:
            raise ValueError(f"LUN {lun} is not between 0 and {MAX_LUN}")
        return cls(f"{match['host']}:{port}", normal_name(match["target"]), lun)

    def __str__(self) -> str:
        return f"iscsi://{self.portal}/{self.target}/{self.lun}"


class IscsiSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One logical unit behind an iSCSI session of its own.

    ``url`` is an IscsiUrl as text; ``initiator`` the iSCSI name this host's initiator has for the guest. ``isid`` is 12
    hex digits, None to derive it. CHAP: the initiator proves that it is ``chap_user`` by the secret in
    ``chap_secret_file``; where ``chap_target_user`` is given the target must prove that it is that one. Secrets are
    files that nobody else may read. ``depth`` is how many commands are in flight, at most 128; more than the
    target's window only queue. Times are seconds: ``connect_seconds`` for connection and login, ``reconnect_seconds``
    how long commands are kept waiting for a lost session, ``abort_seconds`` how long the target may take to abort a
    command that ran out of time before the session is given up, ``nop_interval`` (0 for never) after which a silent
    target is sent NOP-Out and ``nop_timeout`` after which it is taken for dead.
    """

    url: str
    initiator: str
    isid: str | None = None
    chap_user: str | None = None
    chap_secret_file: Path | None = None
    chap_target_user: str | None = None
    chap_target_secret_file: Path | None = None
    header_digest: bool = False
    data_digest: bool = False
    depth: int = 32
    connect_seconds: int = 15
    reconnect_seconds: int = 30
    abort_seconds: int = 5
    nop_interval: int = 5
    nop_timeout: int = 10


class ChapSecrets(NamedTuple):
    """User and secret of CHAP, and those of the target for the other direction; None where there is none."""

    user: bytes | None = None
    secret: bytes | None = None
    target_user: bytes | None = None
    target_secret: bytes | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(user={self.user!r}, target_user={self.target_user!r})"


def normal_name(text: str) -> str:
    """Return an iSCSI name as it goes on the wire, in lower case (RFC 7143 4.2.7.2); ValueError for none."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no iSCSI name, which looks like iqn.2026-01.org.example:name")
    lowered = text.lower()
    IscsiTransportId(lowered)
    return lowered


def derive_isid(host: str, guest: str, lun: int) -> bytes:
    """Return the ISID that this unit of this guest has on this host, each time.

    Of the type for random values (RFC 7143 11.12.5), because nobody here owns an enterprise number. The host is part of
    it: a guest that moves must not evict the session of the host it comes from.
    """
    return b"\x80" + hashlib.sha256(f"{host}/{guest}/{lun}".encode()).digest()[:5]


def parse_isid(text: str) -> bytes:
    """Read 12 hex digits; ValueError for what is no ISID an initiator may use."""
    if not _ISID.fullmatch(text):
        raise ValueError(f"ISID {text!r} is not 12 hex digits")
    isid = bytes.fromhex(text)
    if isid[0] > 0x40 and isid[0] != 0x80:
        raise ValueError(
            f"ISID {text} is of no usable type: it begins with 00 to 3f (OUI), 40 (enterprise number) or 80 (random)"
        )
    return isid


def problem_of(settings: IscsiSettings) -> str | None:
    """Say what is wrong with settings as a whole, or return None; files are not looked at."""
    try:
        IscsiUrl.parse(settings.url)
        normal_name(settings.initiator)
        if settings.isid is not None:
            parse_isid(settings.isid)
    except ValueError as error:
        return str(error)
    if (settings.chap_user is None) != (settings.chap_secret_file is None):
        return "chap_user and chap_secret_file need each other"
    if (settings.chap_target_user is None) != (settings.chap_target_secret_file is None):
        return "chap_target_user and chap_target_secret_file need each other"
    if settings.chap_target_user is not None and settings.chap_user is None:
        return "the target proves who it is only to an initiator that does: chap_target_user needs chap_user"
    for name in (settings.chap_user, settings.chap_target_user):
        if name is not None and not 1 <= len(name.encode()) <= _LIMIT:
            return f"a CHAP user has 1 to {_LIMIT} bytes"
    if not 1 <= settings.depth <= 128:
        return f"depth {settings.depth} is not between 1 and 128"
    if settings.connect_seconds < 1 or settings.abort_seconds < 1 or settings.reconnect_seconds < 0:
        return "connect_seconds and abort_seconds are at least 1, reconnect_seconds at least 0"
    if settings.nop_interval < 0 or settings.nop_timeout < 1:
        return "nop_interval is at least 0, nop_timeout at least 1"
    return None


def read_secrets(settings: IscsiSettings) -> ChapSecrets:
    """Read the files of the CHAP secrets; raises IscsiError."""
    if settings.chap_user is None or settings.chap_secret_file is None:
        return ChapSecrets()
    user, secret = settings.chap_user.encode(), read_secret(settings.chap_secret_file)
    if settings.chap_target_user is None or settings.chap_target_secret_file is None:
        return ChapSecrets(user, secret)
    expected = read_secret(settings.chap_target_secret_file)
    if expected == secret:
        # Anyone could then send our own challenge back to us (RFC 7143 9.2.1).
        raise IscsiError(
            errno.EINVAL,
            f"{settings.chap_target_secret_file}: holds the same secret as {settings.chap_secret_file}; the two "
            "directions of CHAP need different ones",
        )
    return ChapSecrets(user, secret, settings.chap_target_user.encode(), expected)


def read_secret(path: Path) -> bytes:
    """Read a file that holds a secret and that nobody but its owner, who is this user or root, may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        number = error.errno or errno.EIO
        raise IscsiError(number, f"{path}: the CHAP secret cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IscsiError(errno.EINVAL, f"{path}: a CHAP secret is kept in a regular file")
        if status.st_mode & 0o077:
            raise IscsiError(
                errno.EPERM,
                f"{path}: others may read or change the CHAP secret (mode {stat.S_IMODE(status.st_mode):04o}); "
                f"type: chmod 600 {path}",
            )
        if status.st_uid not in (0, os.geteuid()):
            raise IscsiError(
                errno.EPERM,
                f"{path}: the CHAP secret belongs to user {status.st_uid}; make it root's, or the daemon's own",
            )
        secret = os.read(descriptor, _LIMIT + 2)
    finally:
        os.close(descriptor)
    secret = secret.removesuffix(b"\n")
    if not 1 <= len(secret) <= _LIMIT or b"\0" in secret or b"\n" in secret:
        raise IscsiError(errno.EINVAL, f"{path}: a CHAP secret is one line of 1 to {_LIMIT} bytes")
    return secret
