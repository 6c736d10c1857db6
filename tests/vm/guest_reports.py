"""The guest's half: a pytest plugin that runs the host's selection and writes what becomes of it, a line an event."""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_shared = Path(os.environ["PYPROXY_VM_REPORTS"])
_selection: list[dict[str, Any]] = json.loads((_shared / "selection.json").read_text(encoding="utf-8"))
_timeouts = {each["nodeid"]: float(each["timeout"]) for each in _selection}
# Unbuffered, and opened before pytest starts to capture, like the console for tracebacks of hung tests.
_stream = (_shared / "reports.jsonl").open("ab", buffering=0)
_console = os.fdopen(os.dup(2), "w")

TRACEBACK_LEAD = 10.0
"""Seconds before the host gives a test up that the guest prints where it is stuck."""


def _write(event: str, **fields: Any) -> None:
    _stream.write(json.dumps({"event": event, **fields}, default=str).encode() + b"\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    found = {item.nodeid: item for item in items}
    items[:] = [found[nodeid] for nodeid in _timeouts if nodeid in found]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _write("start", nodeid=item.nodeid)
    faulthandler.dump_traceback_later(max(1.0, _timeouts[item.nodeid] - TRACEBACK_LEAD), exit=False, file=_console)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        _write("finish", nodeid=item.nodeid)


class _Reporter:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        _write("report", nodeid=report.nodeid, data=data)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Reporter(config), "guest-reporter")


def pytest_sessionfinish() -> None:
    _write("end")
