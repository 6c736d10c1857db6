"""The control API: HTTP and JSON on a Unix socket, one handler for each operation.

Device work blocks, so it runs in threads: a unit's commands in a pool of that unit, so that one stuck device holds up
nobody else's commands.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from pyproxy import __version__
from pyproxy.daemon import failures
from pyproxy.daemon.documents import VersionDocument
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import RestoreRequest
from pyproxy.device.base import TransportError
from pyproxy.frontend.messages import API_VERSION, LARGEST_REQUEST, ErrorReply, ExecuteReply, ExecuteRequest

T = TypeVar("T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)

OPERATION_THREADS: Final = 4
UNIT_THREADS: Final = 4


class ControlApi:
    """Handlers of one daemon. ``close`` waits for the device work that is under way."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._operations = LocalOperations(host, daemon=True)
        self._threads = ThreadPoolExecutor(OPERATION_THREADS, "operation")
        self._unit_threads: dict[tuple[str, int], ThreadPoolExecutor] = {}
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    def application(self) -> web.Application:
        """Return the application that serves the API."""
        application = web.Application(middlewares=[_tell_errors], client_max_size=LARGEST_REQUEST)
        application.add_routes(
            [
                web.get(f"/{API_VERSION}/version", self._version),
                web.get(f"/{API_VERSION}/status", self._status),
                web.post(f"/{API_VERSION}/guests/{{guest}}/checkpoint", self._checkpoint),
                web.post(f"/{API_VERSION}/guests/{{guest}}/units/{{lun}}/execute", self._execute),
                web.post(f"/{API_VERSION}/restore", self._restore),
                web.get(f"/{API_VERSION}/pr/{{what}}", self._pr),
            ]
        )
        return application

    async def drain(self, seconds: float) -> bool:
        """Refuse new work and wait at most ``seconds`` for what is under way; returns whether it ended."""
        self._stopping = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End the threads; call ``drain`` first."""
        for pool in (*self._unit_threads.values(), self._threads):
            pool.shutdown(wait=self._idle.is_set(), cancel_futures=True)

    async def _version(self, _: web.Request) -> web.Response:
        name = self._host.config.daemon.host_name
        return _answer(VersionDocument(version=__version__, host=name, pid=os.getpid()))

    async def _status(self, _: web.Request) -> web.Response:
        return _answer(await self._run(self._operations.status))

    async def _checkpoint(self, request: web.Request) -> web.Response:
        guest = request.match_info["guest"]
        lun = _number(request.query["lun"], "lun") if "lun" in request.query else None
        document = await self._run(lambda: self._operations.checkpoint(guest, lun))
        return web.Response(body=document, content_type="application/json")

    async def _restore(self, request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=RestoreRequest)
        return _answer(await self._run(lambda: self._operations.restore(wanted)))

    async def _pr(self, request: web.Request) -> web.Response:
        reads: dict[str, Callable[[str], msgspec.Struct]] = {
            "keys": self._operations.pr_keys,
            "reservation": self._operations.pr_reservation,
            "status": self._operations.pr_status,
            "capabilities": self._operations.pr_capabilities,
        }
        read = reads.get(request.match_info["what"])
        if read is None:
            raise failures.NotFoundError(f"no such read; there are {', '.join(reads)}")
        if "target" not in request.query:
            raise msgspec.ValidationError("the query lacks target: a device node's path or GUEST/LUN")
        target = request.query["target"]
        return _answer(await self._run(lambda: read(target)))

    async def _execute(self, request: web.Request) -> web.Response:
        guest, lun = request.match_info["guest"], _number(request.match_info["lun"], "lun")
        section = self._host.section(guest, lun)
        command = msgspec.json.decode(await request.read(), type=ExecuteRequest).command()
        if command.timeout_ms == 0:
            command = replace(command, timeout_ms=section.timeout * 1000)
        pool = self._unit_threads.get((guest, lun))
        if pool is None:
            pool = self._unit_threads[guest, lun] = ThreadPoolExecutor(UNIT_THREADS, f"{guest}/{lun}")
        result = await self._run(lambda: self._host.unit(guest, lun).execute(command), pool)
        return _answer(ExecuteReply.of(result))

    async def _run(self, work: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        if self._stopping:
            raise failures.OperationError("the daemon is stopping; ask again when it runs", "stopping")
        self._under_way += 1
        self._idle.clear()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool or self._threads, work)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()


def _answer(document: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise msgspec.ValidationError(f'{name} is "{text[:40]}", expected a number from 0 to 16383')
    return int(text)


@web.middleware
async def _tell_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer every failure with an ErrorReply."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        told = f"{request.method} {request.path}: {error.reason}"
        return _error(error.status, ErrorReply(error=told, reason="http"))
    except msgspec.MsgspecError as error:
        return _error(HTTPStatus.BAD_REQUEST, ErrorReply(error=f"malformed request: {error}", reason="malformed"))
    except TransportError as error:
        reply = ErrorReply(
            error=failures.sentence(error) or str(error),
            reason="transport",
            errno=error.errno or 0,
            fate_unknown=error.fate_unknown,
        )
        return _error(HTTPStatus.BAD_GATEWAY, reply)
    except Exception as error:
        told_or_none = failures.sentence(error)
        if told_or_none is None:
            log.exception("%s %s failed", request.method, request.path)
            told_or_none = f"a defect of pyproxy: {type(error).__name__}; the daemon's log has the details"
        status = HTTPStatus.NOT_FOUND if isinstance(error, failures.NotFoundError) else HTTPStatus.CONFLICT
        return _error(status, ErrorReply(error=told_or_none, reason=failures.reason(error)))


def _error(status: int, reply: ErrorReply) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(reply), content_type="application/json")
