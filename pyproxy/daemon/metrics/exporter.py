"""Serves the metrics over HTTP, or HTTPS with client certificates; two scrapers at one time cost one collection."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from pyproxy.config import Endpoint, MetricsSection
from pyproxy.daemon.metrics.collector import DaemonCollector
from pyproxy.daemon.tcp import bind_tcp
from pyproxy.migration.transport.tls import CredentialsError, no_password

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 1.0
"""How old an answer may be: Prometheus asks every few seconds, so one of two scrapers gets the other's."""
_GRACE_SECONDS: Final = 2.0


class MetricsError(OSError):
    """The metrics cannot be served; the message says where and why."""


class Exporter:
    """One daemon's metrics. Runs in the event loop that ``start`` is called in; collects in a thread."""

    def __init__(self, section: MetricsSection, collector: DaemonCollector) -> None:
        self._section = section
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._answers: dict[str, tuple[float, bytes]] = {}
        self._collecting = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to answer; raises MetricsError."""
        context = self._context()
        bound = bind_tcp(Endpoint.parse(self._section.listen), "metrics cannot be served")
        application = web.Application()
        application.add_routes([web.get("/metrics", self._metrics)])
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
        async with self._collecting:
            made, body = self._answers.get(content_type, (0.0, b""))
            if time.monotonic() - made > FRESH_SECONDS:
                body = await asyncio.to_thread(encode, self._registry)
                self._answers[content_type] = time.monotonic(), body
        response = web.Response(body=body)
        response.headers["Content-Type"] = content_type
        return response

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
