"""A TCP proxy between an initiator and an iSCSI target that sees PDUs, keeps some back, and breaks connections.

    initiator ── 127.0.0.1:port ── IscsiProxy ── portal of the target

Digests must be off: PDUs are cut at the lengths in their headers (RFC 7143 11.2.1).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from tests.rig.ports import free_port

NOP_OUT: Final = 0x00
SCSI_COMMAND: Final = 0x01
TASK_MANAGEMENT: Final = 0x02
LOGIN: Final = 0x03
LOGOUT: Final = 0x06
NOP_IN: Final = 0x20
SCSI_RESPONSE: Final = 0x21
TASK_MANAGEMENT_RESPONSE: Final = 0x22
DATA_IN: Final = 0x25
ASYNC_MESSAGE: Final = 0x32

_HEADER: Final = 48


@dataclass(frozen=True, slots=True)
class Pdu:
    """One protocol data unit: its header and the rest. Connections are counted from 0."""

    header: bytes
    rest: bytes
    connection: int

    @property
    def task_tag(self) -> int:
        """Initiator task tag, the same in a command and everything that answers it."""
        return int.from_bytes(self.header[16:20])

    @property
    def opcode(self) -> int:
        return self.header[0] & 0x3F

    @property
    def isid(self) -> bytes:
        """Of a login request (RFC 7143 11.12)."""
        return self.header[8:14]

    @property
    def cdb(self) -> bytes:
        """Of a SCSI command (RFC 7143 11.3)."""
        return self.header[32:48]


class IscsiProxy:
    """Forwards to ``portal``; every PDU is noted in ``sent`` (by the initiator) and ``received`` (from the target).

    ``keep_back`` decides which PDUs of the target never arrive.
    """

    def __init__(self, portal: str) -> None:
        host, _, port = portal.rpartition(":")
        self._target = (host, int(port))
        self.port = free_port()
        self.sent: list[Pdu] = []
        self.received: list[Pdu] = []
        self.keep_back: Callable[[Pdu], bool] = lambda _: False
        self.refusing = False
        self._silent = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._connections = 0
        self._listener = socket.create_server(("127.0.0.1", self.port))

    @property
    def portal(self) -> str:
        """Where the initiator connects to."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # A connection that is just being made is among the sockets that reset() closes only once that thread ended.
        self._threads[0].join()
        self.reset()
        for thread in self._threads[1:]:
            thread.join()

    def opcodes_sent(self) -> list[int]:
        return [pdu.opcode for pdu in list(self.sent)]

    def reset(self) -> None:
        """Break every connection with RST on both sides."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)  # ends the recv of the thread that reads it; close alone does not
            one.close()

    def finish(self) -> None:
        """Close every connection in order, as a target does that is stopped."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def inject(self, header: bytes, rest: bytes = b"") -> None:
        """Send the initiator a PDU as if it were the target's."""
        with self._lock:
            initiator = self._sockets[-2]
        initiator.sendall(header + rest)

    def fall_silent(self) -> None:
        """Forward nothing any more in either direction; connections stay."""
        self._silent.set()

    def speak(self) -> None:
        """Forward what arrives from now on."""
        self._silent.clear()

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=f"proxy {self.port}")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                initiator, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                initiator.close()
                continue
            try:
                target = socket.create_connection(self._target)
            except OSError:
                initiator.close()
                continue
            for one in (initiator, target):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [initiator, target]
            self._spawn(self._forward, initiator, target, self.sent, self._connections, False)
            self._spawn(self._forward, target, initiator, self.received, self._connections, True)
            self._connections += 1

    def _forward(
        self, source: socket.socket, sink: socket.socket, noted: list[Pdu], connection: int, of_target: bool
    ) -> None:
        try:
            while True:
                header = _exactly(source, _HEADER)
                length = header[4] * 4 + (int.from_bytes(header[5:8]) + 3 & ~3)
                pdu = Pdu(header, _exactly(source, length), connection)
                noted.append(pdu)
                if self._silent.is_set() or (of_target and self.keep_back(pdu)):
                    continue
                sink.sendall(pdu.header + pdu.rest)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return bytes(data)
