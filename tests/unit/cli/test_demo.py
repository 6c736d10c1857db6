"""``pyproxy demo``: what it shows is what it promises, measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from pyproxy import demo
from pyproxy.cli.main import main
from pyproxy.device.emulated import EmulatedUnit


def test_json_has_what_was_measured() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pyproxy", "demo", "--json"], capture_output=True, text=True, check=False
    )
    assert time.monotonic() - began < 5
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["reservation_type"] == "Write Exclusive"
    assert told["reservation_type_code"] == 1
    assert (told["holder_before"], told["holder_after"]) == ("host-a", "host-b")
    assert told["source_status_after"] == "RESERVATION CONFLICT"
    assert told["third_party_status"] == "RESERVATION CONFLICT"
    assert told["guest_write_errors"] == 0
    assert told["commands_sent_to_take_over"] == ["REGISTER", "REGISTER", "PREEMPT"]
    assert told["commands_sent_by"] == ["host-b", "host-a", "host-b"]
    assert 0 < told["handover_ms"] < told["elapsed_ms"] < 5000
    assert 0 < told["guest_writes_after_handover"] < told["guest_writes"]
    assert told["guest_bytes_verified"] > 0
    assert told["failures"] == []


def test_for_people_it_is_a_table_before_and_after() -> None:
    told = CliRunner().invoke(main, ["demo"])
    assert told.exit_code == 0
    assert told.output.index("Before: the guest runs on host-a") < told.output.index("After: the guest runs on host-b")
    assert "host-b PREEMPT" in told.output
    assert "0 errors" in told.output


def test_it_fails_when_the_unit_does_not_do_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    original = EmulatedUnit.nexus

    def one_port_for_all(self: EmulatedUnit, initiator: object, rtpi: int = 1) -> object:
        return original(self, demo.PORTS["host-a"], rtpi)

    monkeypatch.setattr(EmulatedUnit, "nexus", one_port_for_all)
    told = CliRunner().invoke(main, ["demo", "--json"])
    assert told.exit_code == 1
    failures = json.loads(told.stdout)["failures"]
    assert "a write of third party before is GOOD, expected RESERVATION CONFLICT" in failures
    assert all(f"pyproxy: demo: {failure}" in told.stderr for failure in failures)
