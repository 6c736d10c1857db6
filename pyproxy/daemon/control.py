"""The control API: HTTP and JSON on a Unix socket, one handler for each operation.

Device work blocks, so it runs in threads: a unit's commands in a pool of that unit, so that one stuck device holds up
nobody else's commands.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from pyproxy import __version__
from pyproxy.daemon import failures, openapi
from pyproxy.daemon.documents import (
    AdoptDocument,
    CapabilitiesDocument,
    FullStatusDocument,
    KeysDocument,
    MigrationDocument,
    MigrationsDocument,
    ReservationDocument,
    RestoreDocument,
    StatusDocument,
    VersionDocument,
)
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.host import Host
from pyproxy.daemon.live import LiveDocument
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.migrations import Migrations
from pyproxy.daemon.operations import AdoptRequest, MigrateRequest, RestoreRequest
from pyproxy.daemon.routes import ROUTES, Route
from pyproxy.device.base import TransportError
from pyproxy.frontend.messages import API_VERSION, LARGEST_REQUEST, ErrorReply, ExecuteReply, ExecuteRequest
from pyproxy.scsi.command import Result

T = TypeVar("T")
_Operation = Callable[[web.Request, Any], Awaitable[msgspec.Struct | bytes]]
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)

OPERATION_THREADS: Final = 4
UNIT_THREADS: Final = 4


class ControlApi:
    """Handlers of one daemon, of its ``operations``; ``live`` tells what passes now.

    ``close`` waits for the device work that is under way.
    """

    def __init__(
        self, host: Host, front_ends: FrontEnds, migrations: Migrations, live: Callable[[], LiveDocument]
    ) -> None:
        self._host = host
        self._live_now = live
        self._migrations = migrations
        self._gates = front_ends.gates
        self.operations = LocalOperations(host, front_ends)
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
            web.route(
                route.method,
                f"/{API_VERSION}{route.path}",
                functools.partial(self._serve, route, getattr(self, f"_{route.name}")),
            )
            for route in ROUTES
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

    async def _serve(self, route: Route, handler: _Operation, request: web.Request) -> web.Response:
        """Decode what the route says is sent, run its handler and encode what it returns."""
        body = None if route.body is None else msgspec.json.decode(await request.read() or b"{}", type=route.body)
        answer = await handler(request, body)
        data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
        return web.Response(body=data, content_type="application/json")

    async def _version(self, _request: web.Request, _body: None) -> VersionDocument:
        return VersionDocument(version=__version__, host=self._host.config.daemon.host_name, pid=os.getpid())

    async def _openapi(self, _request: web.Request, _body: None) -> bytes:
        return msgspec.json.encode(openapi.document())

    async def _status(self, _request: web.Request, _body: None) -> StatusDocument:
        return await self._run(self.operations.status)

    async def _live(self, _request: web.Request, _body: None) -> LiveDocument:
        return await self._run(self._live_now)

    async def _checkpoint(self, request: web.Request, _body: None) -> bytes:
        guest = request.match_info["guest"]
        lun = _number(request.query["lun"], "lun") if "lun" in request.query else None
        return await self._run(lambda: self.operations.checkpoint(guest, lun))

    async def _adopt(self, request: web.Request, body: AdoptRequest) -> AdoptDocument:
        guest, lun = _unit_of(request)

        def adopt() -> AdoptDocument:
            # It may probe with a REGISTER, which only the host that serves the guest may send.
            with self._gates.entered(guest):
                return self.operations.adopt(guest, lun, body)

        return await self._run(adopt)

    async def _restore(self, _request: web.Request, body: RestoreRequest) -> RestoreDocument:
        return await self._run(lambda: self.operations.restore(body))

    async def _migrate(self, request: web.Request, body: MigrateRequest) -> MigrationDocument:
        guest = request.match_info["guest"]
        self._host.sections(guest)
        return await self._run(lambda: self._migrations.ask(guest, body))

    async def _migrating(self, _request: web.Request, _body: None) -> MigrationsDocument:
        return self._migrations.status()

    async def _pr_keys(self, request: web.Request, _body: None) -> KeysDocument:
        target = _target_of(request)
        return await self._run(lambda: self.operations.pr_keys(target))

    async def _pr_reservation(self, request: web.Request, _body: None) -> ReservationDocument:
        target = _target_of(request)
        return await self._run(lambda: self.operations.pr_reservation(target))

    async def _pr_status(self, request: web.Request, _body: None) -> FullStatusDocument:
        target = _target_of(request)
        return await self._run(lambda: self.operations.pr_status(target))

    async def _pr_capabilities(self, request: web.Request, _body: None) -> CapabilitiesDocument:
        target = _target_of(request)
        return await self._run(lambda: self.operations.pr_capabilities(target))

    async def _execute(self, request: web.Request, body: ExecuteRequest) -> ExecuteReply:
        guest, lun = _unit_of(request)
        section = self._host.section(guest, lun)
        command = body.command()
        if command.timeout_ms == 0:
            command = replace(command, timeout_ms=section.timeout * 1000)
        pool = self._unit_threads.get((guest, lun))
        if pool is None:
            pool = self._unit_threads[guest, lun] = ThreadPoolExecutor(UNIT_THREADS, f"{guest}/{lun}")

        def execute() -> Result:
            with self._gates.entered(guest):
                return self._host.unit(guest, lun).execute(command)

        result = await self._run(execute, pool)
        return ExecuteReply.of(result)

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


def _unit_of(request: web.Request) -> tuple[str, int]:
    return request.match_info["guest"], _number(request.match_info["lun"], "lun")


def _target_of(request: web.Request) -> str:
    if "target" not in request.query:
        raise msgspec.ValidationError("the query lacks target: a device node's path or GUEST/LUN")
    return request.query["target"]


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
