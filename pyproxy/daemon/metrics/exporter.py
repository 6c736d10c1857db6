"""Serves the metrics and the status page over HTTP, or HTTPS with client certificates.

What is collected is kept for a moment, so that two who ask at one time cost one collection.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from pyproxy.config import Endpoint, MetricsSection
from pyproxy.daemon.live import LiveDocument
from pyproxy.daemon.metrics.collector import DaemonCollector
from pyproxy.daemon.tcp import bind_tcp
from pyproxy.migration.transport.tls import CredentialsError, no_password

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 1.0
"""How old an answer may be: Prometheus asks every few seconds, so one of two scrapers gets the other's."""
_GRACE_SECONDS: Final = 2.0
_PAGE: Final = Path(__file__).with_name("page.html")
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class MetricsError(OSError):
    """The metrics cannot be served; the message says where and why."""


class _Kept:
    """What was made last, for as long as it is fresh."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, bytes]] = {}
        self._making = asyncio.Lock()

    async def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what was made under that name, made in a thread where it is not fresh any more."""
        async with self._making:
            made, body = self._answers.get(name, (0.0, b""))
            if time.monotonic() - made > FRESH_SECONDS:
                body = await asyncio.to_thread(make)
                self._answers[name] = time.monotonic(), body
            return body


class Exporter:
    """One daemon's metrics and status page. Runs in the event loop that ``start`` is called in."""

    def __init__(self, section: MetricsSection, collector: DaemonCollector, live: Callable[[], LiveDocument]) -> None:
        self._section = section
        self._live = live
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._kept = _Kept()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to answer; raises MetricsError."""
        context = self._context()
        bound = bind_tcp(Endpoint.parse(self._section.listen), "metrics cannot be served")
        application = web.Application()
        application.add_routes([web.get("/metrics", self._metrics)])
        if self._section.page:
            application.add_routes([web.get("/", self._page), web.get("/live.json", self._live_json)])
        runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=_GRACE_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, bound, ssl_context=context).start()
        except BaseException:
            bound.close()
            await runner.cleanup()
            raise
        self._runner = runner
        log.info("metrics are at %s://%s/metrics", "http" if context is None else "https", self._section.listen)

    async def stop(self) -> None:
        """Answer no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=await self._kept.get(content_type, lambda: encode(self._registry)))
        response.headers["Content-Type"] = content_type
        return response

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        body = await asyncio.to_thread(_PAGE.read_bytes)
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)

    async def _live_json(self, _request: web.Request) -> web.Response:
        body = await self._kept.get("live", lambda: msgspec.json.encode(self._live()))
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    def _context(self) -> ssl.SSLContext | None:
        section = self._section
        if section.certificate is None or section.key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(section.certificate, section.key, password=no_password(section.key))
            if section.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(section.client_ca)
        except (OSError, ssl.SSLError, CredentialsError) as error:
            raise MetricsError(
                0, f"metrics cannot be served: its certificates cannot be read: {error}", str(section.certificate)
            ) from None
        return context
