"""Tells the service manager how the daemon is: sd_notify(3) over its datagram socket, without a library."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Self

log = logging.getLogger(__name__)

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG_USEC: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"


class ServiceManager:
    """The service manager that started this process; does nothing where none did.

    ``address`` is its socket: a path, or "@" and an abstract name. ``watchdog_seconds`` is within what time ``alive``
    must be called again and again, None where nobody waits for that.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds if address is not None else None
        self._address = address
        self._failed = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Take the socket and the watchdog time from where the service manager put them."""
        address = environment.get(_SOCKET) or None
        if address is not None and not address.startswith(("/", "@")):
            log.warning("%s is %s, which is no Unix socket; the service manager is told nothing", _SOCKET, address)
            address = None
        return cls(address, _watchdog(environment))

    def ready(self, status: str) -> None:
        """Say that the daemon serves, also after a reload; ``status`` is one line for people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the configuration is being read again; ``ready`` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that the daemon is finishing what is under way."""
        self._send("STOPPING=1", "STATUS=waiting for the commands under way")

    def alive(self) -> None:
        """Say that the daemon is not stuck."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        name = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                # A service manager that does not read must not stop the daemon.
                connection.setblocking(False)
                connection.sendto("\n".join(" ".join(line.splitlines()) for line in lines).encode(), name)
        except OSError as error:
            if not self._failed:
                log.warning("the service manager cannot be told %s: %s: %s", lines[0], self._address, error.strerror)
            self._failed = True
        else:
            self._failed = False


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's time in seconds, None where it is not meant for this process."""
    text = environment.get(_WATCHDOG_USEC, "")
    meant_for = environment.get(_WATCHDOG_PID, "")
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    return int(text) / 1e6 if meant_for in ("", str(os.getpid())) else None
