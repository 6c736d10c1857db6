"""The status page in a real browser, and ``pyproxy top``, while a guest moves between two daemons on tgt."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from pyproxy.daemon.operations import MigrateRequest
from pyproxy.frontend.api import connect
from tests.rig.browser import browser, keep_screenshot
from tests.rig.ports import free_port
from tests.rig.tgt import TgtTarget
from tests.unit.plane.scene import until
from tests.vm.migrating.hosts import GUEST, DaemonHost, initiator_of

KEY = 0x1122334455667788
REGISTER = bytes.fromhex("5f000000000000001800")
RESERVE = bytes.fromhex("5f010500000000001800")
"""Write Exclusive - Registrants Only."""


def parameters(key: int, service_action_key: int) -> bytes:
    return key.to_bytes(8) + service_action_key.to_bytes(8) + bytes(8)


class Hosts:
    """Two daemons with status pages whose guest is on one logical unit, and who speak to each other."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        target = stack.enter_context(TgtTarget(directory))
        self.ports = {"host-a": free_port(), "host-b": free_port()}
        self.hosts = {}
        for name, peer in (("host-a", "host-b"), ("host-b", "host-a")):
            backing = f'iscsi = {{ url = "{target.url}", initiator = "{initiator_of(name)}" }}'
            more = f'\n[metrics]\nlisten = "127.0.0.1:{self.ports[name]}"\n'
            host = self.hosts[name] = DaemonHost(directory, name, peer, backing, more)
            host.start()
            stack.callback(host.kill)

    def execute(self, name: str, cdb: bytes, data: bytes = b"") -> int:
        unit = connect(self.hosts[name].home / "run" / "control.sock").guest(GUEST).unit(0)
        while (result := unit.execute(cdb, data)).status == 2:
            sense = result.decoded_sense
            assert sense is not None
            assert sense.is_unit_attention
        return result.status

    def reserve(self) -> None:
        assert self.execute("host-a", REGISTER, parameters(0, KEY)) == 0
        assert self.execute("host-a", RESERVE, parameters(KEY, 0)) == 0

    def move(self) -> None:
        here = self.hosts["host-a"]
        here.arm("host-b")
        here.operations().migrate(GUEST, MigrateRequest(action="hand-over"))
        self.hosts["host-b"].until_phase("verified")

    def page(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        yield Hosts(tmp_path, stack)


def test_the_page_shows_the_holder_change_while_the_guest_moves(hosts: Hosts) -> None:
    with browser(390, 844) as phone, browser(1200, 800) as desk:

        def text(driver: object, part: str = f"guest-{GUEST}") -> str:
            # Not by elements: the script replaces them meanwhile.
            return str(driver.execute_script(f"return document.getElementById('{part}').innerText"))  # type: ignore[attr-defined]

        phone.get(hosts.page("host-b"))
        desk.get(hosts.page("host-a"))
        for driver in (phone, desk):
            driver.execute_script("window.loadedOnce = true")
            until(lambda driver=driver: driver.find_elements(By.ID, f"guest-{GUEST}"), "the page has the guest")
        hosts.reserve()
        until(lambda: "held by this guest: Write Exclusive - Registrants Only" in text(desk), "the source holds it")
        assert f"registered with {KEY:#018x}" in text(desk)
        assert "not registered" in text(phone)
        keep_screenshot(desk, "status-source-before")
        hosts.move()
        until(lambda: "held by this guest" in text(phone), "the destination holds it")
        until(lambda: "migration to host-b" in text(desk), "the source tells where it went")
        until(lambda: "held by this guest" not in text(desk), "the source does not hold it")
        assert "migration from host-a: verified" in text(phone)
        for driver in (phone, desk):
            assert driver.execute_script("return window.loadedOnce") is True, "it was loaded again"
            # Nothing is cut off or has to be scrolled to the side.
            widths = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
            assert widths[0] <= widths[1]
            assert not [one for one in driver.get_log("browser") if one["level"] == "SEVERE"]
        keep_screenshot(phone, "status-destination-phone")
        keep_screenshot(desk, "status-source-after")
        hosts.hosts["host-b"].kill()
        until(lambda: "the daemon does not answer" in text(phone, "state"), "it says that what it shows is old")


def test_the_page_loads_nothing_from_elsewhere(hosts: Hosts) -> None:
    with urllib.request.urlopen(hosts.page("host-a"), timeout=30) as answer:
        body, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "://" not in body
    with urllib.request.urlopen(hosts.page("host-a") + "live.json", timeout=30) as answer:
        found = json.load(answer)
    (guest,) = found["guests"]
    assert (found["host"], guest["name"], guest["not_served"]) == ("host-a", GUEST, None)
    assert [unit["lun"] for unit in guest["units"]] == [0]


def test_top_shows_the_same(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.reserve()
    monkeypatch.setenv("COLUMNS", "80")
    told = hosts.hosts["host-a"].command("top", "-n", "1")
    assert max(map(len, told.splitlines())) <= 80
    assert "…" not in told
    monkeypatch.setenv("COLUMNS", "160")
    told = hosts.hosts["host-a"].command("top", "--interval", "0.2", "--count", "2")
    first, second = told.split("host-a: pyproxy ")[1:]
    for reading in (first, second):
        assert "this guest: Write Exclusive - Registrants Only" in reading
        assert "fresh" in reading
    assert "B/s" not in first
    assert "0 B/s" in second
    hosts.move()
    told = hosts.hosts["host-b"].command("top", "-n", "1")
    assert "migration from host-a is verified" in told


def test_what_the_guest_releases_nobody_holds(hosts: Hosts) -> None:
    """Also where the reservation was read while the guest had it, and the guest is not registered any more."""

    def holder(name: str = "host-a") -> tuple[str, str | None]:
        ((unit,),) = [guest.units for guest in hosts.hosts[name].operations().live().guests]
        return unit.holder, unit.reservation

    assert holder() == ("nobody", None)
    hosts.reserve()
    assert holder() == ("guest", "Write Exclusive - Registrants Only")
    hosts.hosts["host-a"].operations().pr_reservation(f"{GUEST}/0")
    until(lambda: hosts.hosts["host-b"].operations().pr_reservation(f"{GUEST}/0").type == 5, "it is read there")
    assert holder("host-b") == ("another", "Write Exclusive - Registrants Only")
    assert hosts.execute("host-a", bytes.fromhex("5f020500000000001800"), parameters(KEY, 0)) == 0
    assert holder() == ("nobody", None)
    assert hosts.execute("host-a", REGISTER, parameters(KEY, 0)) == 0
    assert holder() == ("nobody", None)


def test_top_without_a_daemon(hosts: Hosts) -> None:
    hosts.hosts["host-a"].kill()
    told = hosts.hosts["host-a"].command("top", status=1)
    assert told == "pyproxy: no daemon runs here; start it: pyproxy serve\n"
