"""Whatever keeps a test in the virtual machine from reporting is that test's failure, with the console's end."""

import json
from pathlib import Path

import pytest

from tests.vm import boot, host_session
from tests.vm.host_session import GuestSession


class FakeMachine:
    """A guest that plays back what it is told to have done."""

    def __init__(self, command, *, shared, console):
        self.command = command
        self.shared = shared
        self.console = console
        self.running = True
        self.ready = True
        self.status = None
        self.started_at = 0.0
        self.stopped = False

    def start(self):
        pass

    def stop(self):
        self.stopped = True
        self.running = False

    def console_tail(self, lines=60):
        return "Kernel panic - not syncing"

    def says(self, *records, torn=b""):
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        with (self.shared / "reports.jsonl").open("ab") as stream:
            stream.write(lines + torn)


def report_of(item, when, outcome="passed", longrepr=None):
    data = {
        "$report_type": "TestReport",
        "nodeid": item.nodeid,
        "location": list(item.location),
        "keywords": {},
        "outcome": outcome,
        "longrepr": longrepr,
        "when": when,
        "sections": [["Captured stdout call", "seen inside"]],
        "duration": 0.25,
        "start": 0.0,
        "stop": 0.25,
        "user_properties": [],
    }
    return {"event": "report", "nodeid": item.nodeid, "data": data}


def start(item):
    return {"event": "start", "nodeid": item.nodeid}


def finish(item):
    return {"event": "finish", "nodeid": item.nodeid}


class Item:
    """What a session needs of a collected test."""

    def __init__(self, name):
        self.path = Path(__file__)
        self.nodeid = f"tests/vm/guest/test_x.py::{name}"
        self.location = ("tests/vm/guest/test_x.py", 1, name)
        self.keywords = {name: True}

    def get_closest_marker(self, name):
        return None


@pytest.fixture
def items():
    return [Item("test_first"), Item("test_second")]


@pytest.fixture
def session(monkeypatch, tmp_path, request, items):
    monkeypatch.setattr(host_session, "VirtualMachine", FakeMachine)
    monkeypatch.setattr(host_session, "PROJECT", tmp_path)
    monkeypatch.setattr(host_session, "RUNS", tmp_path / "vm")
    monkeypatch.setattr(host_session, "POLL", 0.001)
    made = GuestSession(request.config, items)
    made.start()
    return made


def machine_of(session) -> FakeMachine:
    return session._vm


def test_reports_come_out_as_they_were_made(session, items):
    item = items[0]
    machine_of(session).says(
        start(item), report_of(item, "setup"), report_of(item, "call", "failed", "assert 1 == 2"), finish(item)
    )
    reports = list(session.reports(item))
    assert [(report.when, report.outcome, report.longrepr) for report in reports] == [
        ("setup", "passed", None),
        ("call", "failed", "assert 1 == 2"),
    ]
    assert reports[1].capstdout == "seen inside"
    assert reports[1].duration == 0.25


def test_a_guest_that_goes_down_fails_the_running_test_and_the_rest(session, items):
    machine = machine_of(session)
    machine.says(start(items[0]), report_of(items[0], "setup"), torn=b'{"event": "rep')
    machine.running = False
    reports = list(session.reports(items[0]))
    assert [(report.when, report.outcome) for report in reports] == [("setup", "passed"), ("call", "failed")]
    assert "the guest went down while its tests ran" in str(reports[-1].longrepr)
    assert "Kernel panic" in str(reports[-1].longrepr)
    (other,) = session.reports(items[1])
    assert (other.when, other.outcome) == ("call", "failed")


def test_a_guest_that_never_comes_up_fails_every_test(session, items):
    machine_of(session).ready = False
    machine_of(session).running = False
    for item in items:
        (report,) = session.reports(item)
        assert report.outcome == "failed"
        assert "the guest did not come up" in str(report.longrepr)


def test_a_slow_boot_is_given_up(session, items, monkeypatch):
    monkeypatch.setattr(host_session, "READY_TIMEOUT", 0.0)
    machine_of(session).ready = False
    (report,) = session.reports(items[0])
    assert "did not come up in 0 s" in str(report.longrepr)
    assert machine_of(session).stopped


def test_a_silent_test_is_given_up_and_the_guest_stopped(session, items, monkeypatch):
    monkeypatch.setattr(host_session, "TEST_TIMEOUT", 0.01)
    machine_of(session).says(start(items[0]))
    (report,) = session.reports(items[0])
    assert "hung: the guest reported nothing" in str(report.longrepr)
    assert machine_of(session).stopped


def test_an_early_end_names_the_exit_status(session, items):
    machine_of(session).running = False
    machine_of(session).status = 4
    (report,) = session.reports(items[0])
    assert "ended early with exit status 4" in str(report.longrepr)


def test_an_item_the_guest_passed_over_fails_alone(session, items):
    first, second = items
    machine_of(session).says(
        start(second), report_of(second, "setup"), report_of(second, "call"), finish(second), {"event": "end"}
    )
    (report,) = session.reports(first)
    assert f"the guest did not run {first.nodeid}" in str(report.longrepr)
    assert [each.outcome for each in session.reports(second)] == ["passed", "passed"]


def test_missing_kernel_names_the_command_to_type(tmp_path):
    with pytest.raises(boot.VmError, match=r"tests/parts/install\.sh test"):
        boot.find_kernel(tmp_path)


def test_a_user_without_root_is_told_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr(boot.os, "geteuid", lambda: 1000)
    machine = boot.VirtualMachine(["true"], shared=tmp_path, console=tmp_path / "console.log")
    with pytest.raises(boot.VmError, match="needs root; type: sudo "):
        machine.start()


def test_the_time_stamp_counter_is_measured_the_same_twice():
    first, second = boot.tsc_khz(), boot.tsc_khz()
    assert abs(first - second) < first / 100


def test_a_program_that_does_not_compile_is_told(tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return nothing; }")
    with pytest.raises(
        boot.VmError, match=r"(?s)wrong\.c does not compile; run tests/parts/install\.sh test\n.*nothing"
    ):
        boot.compile_program(source, tmp_path / "wrong")
