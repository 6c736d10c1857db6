"""The host's half of running tests in the virtual machine: boot once, follow the report file, hand out reports."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.floor import build_library
from tests.vm.boot import GUEST_SHARED, PROJECT, VirtualMachine, VmError

READY_TIMEOUT = 300.0
"""Seconds from power on to the first command in the guest; about 15 on an idle machine."""

COLLECT_TIMEOUT = 180.0
"""Seconds from there to the first test; about 10 on an idle machine."""

TEST_TIMEOUT = 300.0
"""Seconds between two reports, unless the test's ``vm_timeout`` marker says otherwise."""

POLL = 0.1
RUNS = PROJECT / ".cache" / "vm"
KEPT_RUNS = 3
KEPT_SECONDS = 3600.0


def timeout_of(item: pytest.Item) -> float:
    """How long the guest may be silent while it runs ``item``, in seconds."""
    marker = item.get_closest_marker("vm_timeout")
    return float(marker.args[0]) if marker is not None else TEST_TIMEOUT


def _new_run_directory() -> Path:
    RUNS.mkdir(parents=True, exist_ok=True)
    for old in sorted(RUNS.glob("run-*"))[: -KEPT_RUNS + 1]:
        # A run in another terminal may be under way.
        if time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("run-%Y%m%d-%H%M%S-"), dir=RUNS))


class GuestSession:
    """One boot that runs ``items`` in their order; ``reports`` yields the guest's reports of one of them.

    Whatever keeps an item from being reported - a boot that fails, a kernel panic, a hang - becomes its failure,
    with the end of the guest's console.

    ``outside`` is what has to stand outside of the guest while it runs; entered before the boot, it returns further
    options of QEMU.
    """

    def __init__(
        self,
        config: pytest.Config,
        items: Sequence[pytest.Item],
        outside: AbstractContextManager[Sequence[str]] | None = None,
    ) -> None:
        self._config = config
        self._outside = outside
        self._entered = ExitStack()
        self._items = list(items)
        self._directory = _new_run_directory()
        self._report_file = self._directory / "reports.jsonl"
        self._offset = 0
        self._records: list[dict[str, Any]] = []
        self._failure: str | None = None
        self._finished = False
        self._started = False
        self._vm = VirtualMachine(
            [
                *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
                *("-p", "tests.vm.guest_reports", "--rootdir", str(PROJECT), "-c", str(PROJECT / "pyproject.toml")),
                *dict.fromkeys(str(item.path) for item in self._items),
            ],
            shared=self._directory,
            console=self._directory / "console.log",
        )

    def start(self) -> None:
        """Boot with the selection; a failure is kept and told by every item."""
        selection = [{"nodeid": item.nodeid, "timeout": timeout_of(item)} for item in self._items]
        (self._directory / "selection.json").write_text(json.dumps(selection), encoding="utf-8")
        self._report_file.touch()
        # The guest sees the project read-only, so what its tests need compiled has to be there.
        build_library("pr_client")
        environment = {"PYTHONPATH": str(PROJECT), "PYPROXY_VM_REPORTS": GUEST_SHARED}
        if compiler := os.environ.get("CC"):
            environment["CC"] = compiler
        self._vm.command = [
            "env",
            f"--chdir={PROJECT}",
            *(f"{name}={value}" for name, value in environment.items()),
            *self._vm.command,
        ]
        try:
            if self._outside is not None:
                self._vm.qemu_options += self._entered.enter_context(self._outside)
            self._vm.start()
        except (VmError, OSError, AssertionError) as error:
            self._failure = str(error)

    @property
    def last(self) -> pytest.Item:
        """The item after which the machine is not needed any more."""
        return self._items[-1]

    def stop(self) -> None:
        """Power off, whatever the guest is doing."""
        self._vm.stop()
        self._entered.close()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The guest's reports of ``item``, as they come in."""
        started = time.monotonic()
        called = False
        while True:
            record = self._next_record(item, started)
            if record is None:
                yield self._failed(item, started, after_call=called)
                return
            if record["event"] == "finish" and record["nodeid"] == item.nodeid:
                return
            if record["event"] == "report" and record["data"]["nodeid"] == item.nodeid:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=record["data"])
                assert isinstance(report, pytest.TestReport)
                called = called or report.when == "call"
                yield report
            elif record["event"] in ("report", "start") and record.get("nodeid") != item.nodeid:
                # The guest went on without this item: it did not collect it.
                self._records.insert(0, record)
                yield self._failed(item, started, message=f"the guest did not run {item.nodeid}")
                return

    def _next_record(self, item: pytest.Item, started: float) -> dict[str, Any] | None:
        """The next event, or None when there will be none; then ``_failure`` says why."""
        last_event = time.monotonic()
        while not self._records and self._failure is None:
            alive = self._vm.running
            self._read_reports()
            if self._records:
                break
            now = time.monotonic()
            if self._finished or not alive:
                self._failure = self._how_it_ended()
            elif not self._vm.ready:
                if now - self._vm.started_at > READY_TIMEOUT:
                    self._failure = f"the guest did not come up in {READY_TIMEOUT:.0f} s"
            elif not self._started:
                if now - self._vm.started_at > READY_TIMEOUT + COLLECT_TIMEOUT:
                    self._failure = f"pytest in the guest did not start a test in {COLLECT_TIMEOUT:.0f} s"
            elif now - last_event > timeout_of(item):
                self._failure = f"{item.nodeid} hung: the guest reported nothing for {timeout_of(item):.0f} s"
            if self._failure is None:
                time.sleep(POLL)
        if self._records:
            return self._records.pop(0)
        self._vm.stop()
        return None

    def _read_reports(self) -> None:
        with self._report_file.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        # The guest writes lines; the last may be cut.
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            self._started = True
            if record["event"] == "end":
                self._finished = True
            else:
                self._records.append(record)

    def _how_it_ended(self) -> str:
        if self._finished:
            return "pytest in the guest ended without running it"
        if self._vm.status is not None:
            return f"pytest in the guest ended early with exit status {self._vm.status}"
        if self._vm.ready:
            return "the guest went down while its tests ran"
        return "the guest did not come up"

    def _failed(
        self, item: pytest.Item, started: float, *, message: str | None = None, after_call: bool = False
    ) -> pytest.TestReport:
        text = (
            f"{message or self._failure}\n"
            f"its console ({self._vm.console.relative_to(PROJECT)}) ends with:\n\n{self._vm.console_tail()}"
        )
        now = time.monotonic()
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="failed",
            longrepr=text,
            when="teardown" if after_call else "call",
            duration=now - started,
            start=time.time() - (now - started),
            stop=time.time(),
        )
