"""The Python API: execute a guest's commands through a running daemon.

from pyproxy.frontend.api import connect

unit = connect("/run/pyproxy/control.sock").guest("web").unit(0)
result = unit.execute(bytes.fromhex("12000000 60 00"), data_in=96)
"""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from pyproxy.device.base import TransportError
from pyproxy.frontend.messages import API_VERSION, ErrorReply, ExecuteReply, ExecuteRequest
from pyproxy.scsi.command import Result

# Made here, not where they are used: two threads must not be the first to use a type at the same time.
_EXECUTED: Final = msgspec.json.Decoder(ExecuteReply)
_FAILED: Final = msgspec.json.Decoder(ErrorReply)


class ApiError(RuntimeError):
    """The daemon refused a request; the text says why, ``reason`` is a word for programs, ``status`` is HTTP's."""

    def __init__(self, message: str, reason: str, status: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class DaemonUnreachableError(OSError):
    """Nobody answers on the control socket."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


@dataclass(frozen=True, slots=True)
class Client:
    """A daemon's control API. Each request is a connection of its own, so a client may be shared by threads."""

    socket_path: Path

    def guest(self, name: str) -> GuestClient:
        """Return the guest called ``name``; whether there is one shows at the first request."""
        return GuestClient(self, name)

    def request(self, method: str, path: str, body: bytes | None = None, **query: str) -> bytes:
        """Send one request and return the body of the answer.

        ``path`` begins after "/v1". Raises DaemonUnreachableError, ApiError, or TransportError when a device failed.
        """
        target = f"/{API_VERSION}{path}" + (f"?{urlencode(query)}" if query else "")
        connection = _UnixConnection(self.socket_path)
        headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            connection.connect()
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise DaemonUnreachableError(
                error.errno, "no daemon answers here; start one with: pyproxy serve", str(self.socket_path)
            ) from error
        except OSError as error:
            raise OSError(
                error.errno, f"the daemon cannot be asked: {error.strerror}", str(self.socket_path)
            ) from error
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(
                getattr(error, "errno", None) or 0,
                f"the daemon at {self.socket_path} closed the connection before it answered; look at its log",
                fate_unknown=True,
            ) from error
        finally:
            connection.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise _error(answer, response.status)
        return answer


@dataclass(frozen=True, slots=True)
class GuestClient:
    """One guest of a daemon."""

    client: Client
    name: str

    def unit(self, lun: int) -> UnitClient:
        """Return the guest's logical unit ``lun``."""
        return UnitClient(self.client, self.name, lun)


@dataclass(frozen=True, slots=True)
class UnitClient:
    """One logical unit of a guest."""

    client: Client
    guest: str
    lun: int

    @property
    def path(self) -> str:
        """Path of the unit in the API, after "/v1"."""
        return f"/guests/{quote(self.guest, safe='')}/units/{self.lun}"

    def execute(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0, timeout_ms: int = 0) -> Result:
        """Run one command as the guest's and return what the device answered.

        ``cdb`` is 6 to 32 bytes, ``data_in`` bytes to accept, ``timeout_ms`` 0 the time configured for the unit.
        Raises TransportError when the command could not be handed to the device, ApiError for an unknown unit or a
        length out of range, ValueError when both directions carry data.
        """
        request = ExecuteRequest(cdb=bytes(cdb), data_out=bytes(data_out), data_in=data_in, timeout_ms=timeout_ms)
        answer = self.client.request("POST", f"{self.path}/execute", msgspec.json.encode(request))
        return _EXECUTED.decode(answer).result()


def connect(socket_path: str | PathLike[str]) -> Client:
    """Return a client of the daemon whose control socket is ``socket_path``; raises DaemonUnreachableError."""
    client = Client(Path(socket_path))
    client.request("GET", "/version")
    return client


def _error(answer: bytes, status: int) -> Exception:
    try:
        reply = _FAILED.decode(answer)
    except msgspec.MsgspecError:
        return ApiError(f"the daemon answered HTTP {status} without a reason; look at its log", "unknown", status)
    if reply.errno is not None:
        return TransportError(reply.errno, reply.error, fate_unknown=reply.fate_unknown)
    return ApiError(reply.error, reply.reason, status)
