"""Mutual TLS: both sides show a certificate of the configured authority, and a peer is who its certificate names."""

from __future__ import annotations

import logging
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pyproxy.migration.transport import validity

log = logging.getLogger(__name__)

WARN_DAYS: Final = 14
"""Before a certificate ends, every day tells."""
_DAY: Final = 86400.0


class CredentialsError(Exception):
    """Certificate, key or authority cannot be used; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of this daemon's certificate, its key, and the authority's certificates (PEM)."""

    certificate: Path
    key: Path
    ca: Path
    _told: dict[Path, float] = field(default_factory=dict, compare=False, repr=False)

    def server(self) -> ssl.SSLContext:
        """Make what a server needs, which refuses clients without a certificate; raises CredentialsError."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client(self) -> ssl.SSLContext:
        """Make what a client needs, which checks the server's name; raises CredentialsError."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def stamp(self) -> tuple[object, ...]:
        """Return something that changes when one of the files does."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.ca))

    def tell_end(self, now: float) -> None:
        """Warn, at most once a day, of certificates that end soon; ``now`` counts seconds since 1970."""
        for path in (self.certificate, self.ca):
            try:
                end = min(validity.ends(path.read_bytes()), default=None)
            except (OSError, ValueError):
                continue  # whoever loads it tells why
            left = WARN_DAYS * _DAY if end is None else end.timestamp() - now
            if end is None or left >= WARN_DAYS * _DAY or now - self._told.get(path, -_DAY) < _DAY:
                continue
            self._told[path] = now
            at = f"{end:%Y-%m-%d %H:%M} UTC"
            if end <= datetime.fromtimestamp(now, UTC):
                log.error("%s: the certificate ended at %s; peers refuse it: renew it now", path, at)
            else:
                log.warning("%s: the certificate ends at %s; renew it, then it is taken without a restart", path, at)

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        _check_closed(self.key)
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        # A name in the subject alone is never taken: only DNS names among the alternative names count.
        context.hostname_checks_common_name = False
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise CredentialsError(f"{self.ca}: the authority's certificates cannot be read: {_why(error)}") from None
        try:
            context.load_cert_chain(self.certificate, self.key, password=no_password(self.key))
        except (OSError, ssl.SSLError) as error:
            raise CredentialsError(
                f"{self.certificate} with {self.key}: cannot be used: {_why(error)}; give a PEM certificate and its "
                "own key, without a passphrase"
            ) from None
        return context


def names_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the DNS names of a verified certificate (as ``getpeercert`` gives it), in lower case."""
    alternative = (certificate or {}).get("subjectAltName", ())
    return frozenset(str(value).lower() for kind, value in alternative if kind == "DNS")


def _check_closed(key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as error:
        raise CredentialsError(f"{key}: the key cannot be read: {error.strerror}") from None
    if mode & 0o007:
        raise CredentialsError(f"{key}: the key is open to others (mode {mode:04o}); type: chmod o= {key}")


def no_password(key: Path) -> Any:
    """Return what ``load_cert_chain`` asks for a passphrase: raises CredentialsError, for nobody is there to type."""

    def refuse() -> str:
        raise CredentialsError(f"{key}: the key has a passphrase, which nobody is there to type; store it without")

    return refuse


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
