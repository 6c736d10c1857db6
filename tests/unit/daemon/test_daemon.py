"""The daemon as a process: sockets, locks, signals, restarts, and the API on its socket."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from pyproxy.device.base import TransportError
from pyproxy.frontend.api import ApiError, DaemonUnreachableError, UnitClient, connect
from tests.unit.daemon.conftest import Daemon, Start, run_pyproxy, write_config

MEMORY = '[[guest]]\nname = "web"\n[[guest.unit]]\nlun = 3\nemulated = { size = "1MiB" }\n'

KEY = bytes.fromhex("00000000 00c0ffee")
TEST_UNIT_READY = bytes(6)
REGISTER = bytes.fromhex("5f00 0000 0000 0000 1800")
RESERVE_WRITE_EXCLUSIVE = bytes.fromhex("5f01 0100 0000 0000 1800")
READ_KEYS = bytes.fromhex("5e00 0000 0000 0001 0000")


def on_file(path: Path) -> str:
    return f'[[guest]]\nname = "web"\n[[guest.unit]]\nlun = 0\nemulated = {{ size = "1MiB", path = "{path}" }}\n'


def register(unit: UnitClient, *, aptpl: bool = False) -> None:
    unit.execute(TEST_UNIT_READY)
    flags = bytes([0, 0, 0, 0, aptpl, 0, 0, 0])
    assert unit.execute(REGISTER, data_out=bytes(8) + KEY + flags).status == 0


def test_socket_is_0660_in_a_directory_that_is_ours_alone(start: Start) -> None:
    daemon = start(MEMORY)
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(daemon.socket.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_ends_it_with_status_0(start: Start, number: int) -> None:
    daemon = start(MEMORY)
    status, told = daemon.stop(number)
    assert status == 0
    assert "Traceback" not in told
    assert not daemon.socket.exists()
    with pytest.raises(DaemonUnreachableError):
        connect(daemon.socket)


SLOW_DEVICE = """
import sys, time
from pathlib import Path
from typing import Any
from pyproxy import config
from pyproxy.daemon import backing, server

def slow(settings, guest, section):
    opened = backing.open_backing(settings, guest, section)
    execute = opened.device.execute
    def execute_late(command):
        if command.cdb[0] == 0x2A:
            print("got it", file=sys.stderr, flush=True)
            time.sleep(1)
        return execute(command)
    opened.device.execute = execute_late
    return opened

server.serve(config.load(Path(sys.argv[1])), lambda: print("serving", file=sys.stderr, flush=True), open_backing=slow)
"""


def test_commands_under_way_are_finished_before_it_stops(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_DEVICE)
    daemon = start(MEMORY, str(tmp_path / "slow.py"), str(tmp_path / "pyproxy.toml"))
    unit = daemon.client.guest("web").unit(3)
    unit.execute(TEST_UNIT_READY)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        write = pool.submit(unit.execute, bytes.fromhex("2a00 00000000 00 0001 00"), bytes(512))
        assert daemon.process.stderr is not None
        assert daemon.process.stderr.readline() == "got it\n"
        daemon.process.send_signal(signal.SIGTERM)
        assert write.result().status == 0
    assert daemon.process.wait(timeout=10) == 0


def test_a_request_that_never_ends_does_not_hold_up_the_stop(start: Start) -> None:
    daemon = start(MEMORY)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(_request("/v1/guests/web/units/3/execute", b'{"cdb": "AAAAAAAA"}')[:-4])
        began = time.monotonic()
        assert daemon.stop()[0] == 0
    assert time.monotonic() - began < 5


def test_a_guest_writes_and_reads_through_the_api(start: Start) -> None:
    daemon = start(MEMORY)
    unit = daemon.client.guest("web").unit(3)
    attention = unit.execute(TEST_UNIT_READY)
    assert (attention.status, attention.sense[2] & 0x0F, attention.sense[12]) == (2, 6, 0x29)
    data = os.urandom(4096)
    assert unit.execute(bytes.fromhex("2a00 00000010 00 0008 00"), data_out=data).status == 0
    read = unit.execute(bytes.fromhex("2800 00000010 00 0008 00"), data_in=4096)
    assert (read.status, read.data, read.residual) == (0, data, 0)
    refused = unit.execute(bytes.fromhex("04 00 00 00 00 00"))
    assert (refused.status, refused.sense[2], refused.sense[12:14]) == (2, 5, b"\x20\x00")


def test_many_clients_at_once(running: Daemon) -> None:
    unit = running.client.guest("web").unit(3)
    unit.execute(TEST_UNIT_READY)

    def write_and_read(lba: int) -> bool:
        data = lba.to_bytes(2) * 256
        unit.execute(bytes([0x2A, 0, *lba.to_bytes(4), 0, 0, 1, 0]), data_out=data)
        return unit.execute(bytes([0x28, 0, *lba.to_bytes(4), 0, 0, 1, 0]), data_in=512).data == data

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(write_and_read, range(200)))


@pytest.mark.parametrize(
    ("guest", "lun", "told"),
    [
        ("nobody", 3, "there is no guest nobody"),
        ("web", 4, "guest web has no LUN 4"),
        ("a/b", 3, "there is no guest a/b"),
    ],
)
def test_unknown_guests_and_luns_are_told(running: Daemon, guest: str, lun: int, told: str) -> None:
    unit = running.client.guest(guest).unit(lun)
    with pytest.raises(ApiError, match=told) as caught:
        unit.execute(TEST_UNIT_READY)
    assert (caught.value.status, caught.value.reason) == (404, "not-found")


BAD_REQUESTS = [
    ("not JSON", b"{", "malformed"),
    ("no CDB", b"{}", "cdb"),
    ("short CDB", b'{"cdb": "AAAA"}', "cdb"),
    ("long CDB", json.dumps({"cdb": "A" * 44}).encode(), "cdb"),
    ("not base64", b'{"cdb": "???"}', "cdb"),
    ("negative length", b'{"cdb": "AAAAAAAA", "data_in": -1}', "data_in"),
    ("huge length", b'{"cdb": "AAAAAAAA", "data_in": 99999999999}', "data_in"),
    ("both directions", b'{"cdb": "AAAAAAAA", "data_in": 1, "data_out": "AA=="}', "one direction"),
    ("unknown field", b'{"cdb": "AAAAAAAA", "x": 1}', "x"),
]


@pytest.mark.parametrize(("body", "told"), [row[1:] for row in BAD_REQUESTS], ids=[row[0] for row in BAD_REQUESTS])
def test_malformed_requests_are_refused_and_the_daemon_lives(running: Daemon, body: bytes, told: str) -> None:
    status, answer = _ask(running.socket, "/v1/guests/web/units/3/execute", body)
    assert status == 400
    assert told in answer["error"]
    assert answer["reason"] == "malformed"
    assert running.client.guest("web").unit(3).execute(bytes.fromhex("120000002400"), data_in=36).status == 0


def test_other_paths_methods_and_sizes_are_refused(running: Daemon) -> None:
    assert _ask(running.socket, "/v2/status", None)[0] == 404
    assert _ask(running.socket, "/v1/execute", b"{}")[0] == 404
    assert _ask(running.socket, "/v1/status", b"{}")[0] == 405
    assert _ask(running.socket, "/v1/guests/web/units/x/execute", b"{}")[0] == 400
    assert _ask(running.socket, "/v1/pr/keys", None)[0] == 400
    assert _ask(running.socket, "/v1/pr/nothing?target=web/3", None)[0] == 404
    assert _ask(running.socket, "/v1/guests/web/units/3/execute", b"x" * (25 << 20))[0] == 413


def test_status_and_pr_reads_through_the_daemon(start: Start) -> None:
    daemon = start(MEMORY)
    unit = daemon.client.guest("web").unit(3)
    register(unit)
    assert unit.execute(RESERVE_WRITE_EXCLUSIVE, data_out=KEY + bytes(16)).status == 0

    def read(what: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(daemon.client.request("GET", f"/pr/{what}", target="web/3"))
        return answer

    status = json.loads(daemon.client.request("GET", "/status"))
    assert (status["daemon"], status["pid"], status["host"]) == (True, daemon.process.pid, "host-a")
    (told,) = status["guests"][0]["units"]
    assert (told["key"], told["reservation_type"], told["reservation"]) == ("0x0000000000c0ffee", 1, "Write Exclusive")
    assert (told["fresh"], told["open_intents"], told["error"]) == (True, 0, None)

    assert json.loads(daemon.run("pr", "keys", "web/3", "--json").stdout)["keys"] == ["0x0000000000c0ffee"]
    reservation = read("reservation")
    assert (reservation["key"], reservation["type"]) == ("0x0000000000c0ffee", 1)
    (entry,) = read("status")["registrations"]
    assert (entry["key"], entry["holder"]) == ("0x0000000000c0ffee", True)
    assert read("capabilities")["types"] == [1, 3, 5, 6, 7, 8]


def test_adopting_through_the_daemon(start: Start) -> None:
    daemon = start(MEMORY)
    nothing = json.loads(daemon.run("adopt", "web", "3", "--json").stdout)
    assert (nothing["succeeded"], nothing["decision"], nothing["key"]) == (True, "not-registered", None)
    register(daemon.client.guest("web").unit(3))
    done = daemon.run("adopt", "web", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "guest web LUN 3: registered with key 0x0000000000c0ffee, holds no reservation, as tracked\n"
    )
    other = daemon.run("adopt", "web", "3", "--key", "0x1")
    assert (other.returncode, other.stdout) == (1, "")
    assert "with key 0x0000000000c0ffee, not with 0x0000000000000001" in other.stderr
    status, answer = _ask(daemon.socket, "/v1/guests/web/units/3/adopt", b'{"key": "c0ffee"}')
    assert (status, answer["reason"]) == (400, "malformed")
    assert _ask(daemon.socket, "/v1/guests/web/units/3/adopt", b'{"key": "0x0"}')[0] == 409
    assert _ask(daemon.socket, "/v1/guests/web/units/4/adopt", b"{}")[0] == 404


def test_what_our_reads_receive_is_still_told_to_the_guest(start: Start) -> None:
    daemon = start(MEMORY)
    for what in ("keys", "capabilities"):
        daemon.client.request("GET", f"/pr/{what}", target="web/3")
    first = daemon.client.guest("web").unit(3).execute(TEST_UNIT_READY)
    assert (first.status, first.sense[2] & 0x0F, first.sense[12]) == (2, 6, 0x29)


def test_killed_and_restarted_it_knows_what_the_guest_registered(start: Start, tmp_path: Path) -> None:
    guests = on_file(tmp_path / "unit.img")
    daemon = start(guests)
    unit = daemon.client.guest("web").unit(0)
    register(unit, aptpl=True)
    assert unit.execute(RESERVE_WRITE_EXCLUSIVE, data_out=KEY + bytes(16)).status == 0
    daemon.process.kill()
    daemon.process.wait()
    assert daemon.socket.exists()

    again = start(guests)
    (told,) = json.loads(again.run("status", "--json").stdout)["guests"][0]["units"]
    assert (told["key"], told["reservation_type"], told["fresh"]) == ("0x0000000000c0ffee", 1, True)
    assert again.run("checkpoint", "web", "-o", str(tmp_path / "web.json")).returncode == 0
    assert json.loads((tmp_path / "web.json").read_text())["nexus"]["key"] == "0x0000000000c0ffee"


def test_a_unit_that_lost_its_reservations_is_noticed_after_a_restart(start: Start, tmp_path: Path) -> None:
    guests = on_file(tmp_path / "unit.img")
    daemon = start(guests)
    register(daemon.client.guest("web").unit(0))
    assert daemon.stop()[0] == 0
    again = start(guests)
    (told,) = json.loads(again.run("status", "--json").stdout)["guests"][0]["units"]
    assert (told["registered"], told["fresh"]) == (False, True)
    assert any("29/0" in attention for attention in told["pending_unit_attentions"])


def test_without_a_daemon_commands_work_by_themselves_and_answer_the_same(start: Start, tmp_path: Path) -> None:
    guests = on_file(tmp_path / "unit.img")
    daemon = start(guests)
    register(daemon.client.guest("web").unit(0), aptpl=True)
    with_daemon = json.loads(daemon.run("status", "--json").stdout)
    keys = daemon.run("pr", "keys", "web/0", "--json").stdout
    daemon.stop()
    alone = json.loads(daemon.run("status", "--json").stdout)
    assert alone["daemon"] is False
    for unit in (with_daemon["guests"][0]["units"][0], alone["guests"][0]["units"][0]):
        del unit["generation"], unit["pending_unit_attentions"]
    assert alone["guests"] == with_daemon["guests"]
    assert json.loads(daemon.run("pr", "keys", "web/0", "--json").stdout)["keys"] == json.loads(keys)["keys"]
    assert daemon.run("checkpoint", "web").stdout.startswith("{")


def test_one_state_directory_one_daemon(start: Start, tmp_path: Path) -> None:
    daemon = start(MEMORY)
    again = daemon.run("serve")
    assert again.returncode == 1
    assert again.stderr.startswith(f"pyproxy: {tmp_path}/state: another pyproxy (process {daemon.process.pid}) holds")
    daemon.socket.unlink()
    hidden = daemon.run("status")
    assert hidden.returncode == 1
    assert f"process {daemon.process.pid}" in hidden.stderr


def test_one_control_socket_one_daemon(start: Start, tmp_path: Path) -> None:
    daemon = start(MEMORY)
    text = daemon.config.read_text().replace(f"{tmp_path}/state", f"{tmp_path}/other")
    (tmp_path / "other.toml").write_text(text)
    done = run_pyproxy("--config", str(tmp_path / "other.toml"), "serve")
    assert done.returncode == 1
    assert "another daemon answers on this control socket" in done.stderr
    assert daemon.run("status").returncode == 0


def test_directories_open_to_others_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, MEMORY)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    done = run_pyproxy("--config", str(config), "serve")
    assert done.returncode == 1
    assert f"the runtime directory is open to others (mode 0755); type: chmod 700 {tmp_path}/run" in done.stderr


def test_without_a_file_it_serves_one_emulated_unit_below_the_runtime_directory(tmp_path: Path) -> None:
    done = run_pyproxy("status", "--json", XDG_RUNTIME_DIR=str(tmp_path), PYPROXY_CONFIG="")
    status = json.loads(done.stdout)
    assert [(guest["name"], len(guest["units"])) for guest in status["guests"]] == [("guest", 1)]
    assert (tmp_path / "pyproxy" / "state").is_dir()


def test_one_unit_that_cannot_be_opened_does_not_hold_up_the_others(start: Start) -> None:
    daemon = start(MEMORY + '[[guest.unit]]\nlun = 4\ndevice = "/dev/null"\n')
    good, bad = json.loads(daemon.run("status", "--json").stdout)["guests"][0]["units"]
    assert good["error"] is None
    assert "/dev/null" in bad["error"]
    assert "error" not in daemon.run("pr", "keys", "web/3").stderr
    with pytest.raises(TransportError, match="/dev/null"):
        daemon.client.guest("web").unit(4).execute(TEST_UNIT_READY)


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _ask(path: Path, target: str, body: bytes | None) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        with contextlib.suppress(BrokenPipeError):  # an oversized body is refused before it was sent
            connection.request("GET" if body is None else "POST", target, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
