"""What the kernel says about devices that come, go and change: uevents, from its netlink group.

A datagram is ``action@devpath`` NUL, then ``KEY=value`` NUL and so on. Events can be lost and are no proof of anything:
they are a reason to look.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1
_KERNEL: Final = 0
"""The kernel's own port number; another sender's is never 0."""

LARGEST: Final = 8192
"""Bytes of a datagram that are read: the kernel's own buffer for one has 2048, and 256 for the first line."""
RECEIVE_BUFFER: Final = 1 << 20
_AT_ONCE: Final = 1024
"""How many datagrams one call takes, so that a storm of them does not keep it for ever."""


@dataclass(frozen=True, slots=True)
class Uevent:
    """One event. ``devpath`` is the device's directory below ``/sys``; ``properties`` are all of its keys."""

    action: str
    devpath: str
    properties: Mapping[str, str]

    @property
    def subsystem(self) -> str:
        """Such as ``scsi``, ``block`` or ``scsi_generic``; empty where it has none."""
        return self.properties.get("SUBSYSTEM", "")

    @property
    def scsi_address(self) -> str | None:
        """``H:C:T:L`` of the SCSI device that it is about, or belongs to; None where there is none."""
        for part in reversed(self.devpath.split("/")):
            fields = part.split(":")
            if len(fields) == 4 and all(field.isascii() and field.isdigit() for field in fields):
                return part
        return None

    @property
    def capacity_changed(self) -> bool:
        """Whether a unit attention (2A/09) or the disk's new size says that the capacity is another one."""
        return self.properties.get("SDEV_UA") == "CAPACITY_DATA_HAS_CHANGED" or self.properties.get("RESIZE") == "1"


def decode_uevent(datagram: bytes) -> Uevent | None:
    """Read a datagram; None for one that is not laid out as the kernel does it, or cut short."""
    header, nul, rest = datagram.partition(b"\0")
    if not nul or not rest.endswith(b"\0"):
        return None
    action, at, devpath = header.decode("utf-8", "replace").partition("@")
    if not (action and at and devpath.startswith("/")):
        return None
    properties: dict[str, str] = {}
    for field in rest[:-1].split(b"\0"):
        key, equals, value = field.decode("utf-8", "replace").partition("=")
        if not (key and equals) or key in properties:
            return None
        properties[key] = value
    if properties.get("ACTION") != action or properties.get("DEVPATH") != devpath:
        return None
    return Uevent(action, devpath, properties)


class UeventSocket:
    """Receives uevents of the kernel, and of nobody else. Needs no privilege. OSError where there is no netlink."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.bind((0, _KERNEL_GROUP))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, readable while something waits."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait for an event; whether there is one."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def receive(self) -> tuple[list[Uevent], bool]:
        """Take what waits, without waiting.

        Returns the events in order, and whether some were lost: dropped by the kernel, or not understood.
        """
        events: list[Uevent] = []
        lost = False
        for _ in range(_AT_ONCE):
            try:
                datagram, _, flags, sender = self._socket.recvmsg(LARGEST)
            except BlockingIOError:
                break
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if not from_kernel(sender):
                continue
            event = None if flags & socket.MSG_TRUNC else decode_uevent(datagram)
            if event is None:
                lost = True
            else:
                events.append(event)
        return events, lost

    def close(self) -> None:
        """Stop receiving; safe to repeat."""
        self._socket.close()


def from_kernel(sender: object) -> bool:
    """Tell whether a netlink address, (port, groups), is the kernel's sending to its own group."""
    return sender == (_KERNEL, _KERNEL_GROUP)
