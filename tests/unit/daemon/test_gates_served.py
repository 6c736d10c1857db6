"""Shut gates as those see them who send commands: by a helper socket, by the control API, by rings of a front end."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from pyproxy.config.reading import parse
from pyproxy.daemon.control import ControlApi
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host
from pyproxy.daemon.live import LiveDocument
from pyproxy.daemon.migrations import Migrations
from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver
from tests.unit.pr_helper import scene as helper
from tests.unit.pr_helper.exchange import Client, parameters, prin, prout
from tests.unit.vhost_user import scene as disk

KEY = 0xC0FFEE
BECOMING_READY = bytes.fromhex("70 00 02 00 00 00 00 0a 00 00 00 00 04 01")
TEST_UNIT_READY = "AAAAAAAA"


def generation(client: Client, descriptor: int) -> int:
    return int.from_bytes(client.ask(prin(0, 64), descriptor).data[:4])


def test_a_helper_request_is_told_to_come_again_and_changes_nothing(tmp_path: Path) -> None:
    gates = Gates()
    with helper.scene(tmp_path, gate=gates.gate("g"), gate_seconds=0.05) as guest, Client(guest.path) as client:
        assert guest.server is not None
        gates.add_shutting("g", guest.server.gate_shut)
        descriptor = os.open(guest.device_file(), os.O_RDWR)
        client.ask(prin(0, 64), descriptor)  # POWER ON OCCURRED
        before = [generation(client, descriptor) for _ in range(3)]  # the last ones pass straight
        gates.shut("g", "it migrates")
        for request in ((prin(0, 64),), (prout(0, 24), parameters(0, KEY))):
            answer = client.ask(request[0], descriptor, *request[1:])
            assert (answer.status, answer.sense[:14]) == (2, BECOMING_READY)
        assert gates.drain("g", 60)
        gates.open("g")
        assert {*before, generation(client, descriptor)} == {before[0]}
        assert client.ask(prout(0, 24), descriptor, parameters(0, KEY)).status == 0
        os.close(descriptor)


def test_a_helper_request_that_waited_is_served_when_the_gate_opens(tmp_path: Path) -> None:
    gates = Gates()
    with helper.scene(tmp_path, gate=gates.gate("g"), gate_seconds=600) as guest, Client(guest.path) as client:
        descriptor = os.open(guest.device_file(), os.O_RDWR)
        client.ask(prin(0, 64), descriptor)
        gates.shut("g", "it migrates")
        opened = threading.Timer(0.1, gates.open, ("g",))
        opened.start()
        assert client.ask(prout(0, 24), descriptor, parameters(0, KEY)).status == 0
        opened.join()
        os.close(descriptor)


def nothing_passes() -> LiveDocument:
    return LiveDocument(host="a", version="0", now=0.0, started=0.0, guests=[])


def test_the_control_api_refuses_in_a_sentence(tmp_path: Path) -> None:
    guests = '[[guest]]\nname = "web"\n[[guest.unit]]\nlun = 3\nemulated = { size = "1MiB" }\n'
    daemon = f'[daemon]\nhost_name = "a"\nruntime_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
    (tmp_path / "state").mkdir(mode=0o700)

    async def ask(api: ControlApi, gates: Gates) -> None:
        async with TestClient(TestServer(api.application())) as client:
            unit = "/v1/guests/web/units/3"
            asked = ((f"{unit}/execute", {"cdb": TEST_UNIT_READY}), (f"{unit}/adopt", {}))
            gates.shut("web", "it runs on host-b now")
            for path, body in asked:
                refused = await client.post(path, json=body)
                told = await refused.json()
                assert refused.status == 409
                assert told["reason"] == "gate-shut"
                assert told["error"] == "guest web is not served on this host now: it runs on host-b now"
            gates.open("web")
            for path, body in asked:
                served = await client.post(path, json=body)
                assert served.status == 200, await served.text()
        assert await api.drain(60)

    with closing(Host(parse(daemon + guests, "test"))) as host:
        front_ends = FrontEnds(host)
        api = ControlApi(host, front_ends, Migrations(host, front_ends.gates), nothing_passes)
        asyncio.run(ask(api, front_ends.gates))
        api.close()


class Handover:
    """What an armed handover does when the rings stop: it shuts the gate, and takes its time."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.over = False

    def stopped(self, guest: str) -> None:
        self._gates.shut(guest, "it migrates")
        self.begun.set()
        assert self.go_on.wait(60)
        self.over = True

    def started(self, guest: str) -> None:
        pass

    def left(self, guest: str) -> None:
        pass


@pytest.mark.parametrize("opens", [False, True])
def test_the_front_end_has_its_answer_after_the_handover(tmp_path: Path, opens: bool) -> None:
    gates = Gates()
    handover = Handover(gates)
    gates.events = handover
    with disk.scene(tmp_path, make=None) as guest:
        gates.add_queues("g", guest.plane().controller)  # type: ignore[arg-type]
        guest.listen(events=gates.rings("g"))
        driver = ScsiDriver(FrontEnd.connect(guest.path))
        driver.start()
        driver.execute(bytes(6))
        assert gates.running("g")
        index = driver.queues[2].index
        answered: list[bool] = []

        def stop() -> None:
            driver.front_end.stop_ring(index)
            answered.append(handover.over)

        thread = threading.Thread(target=stop)
        thread.start()
        assert handover.begun.wait(60)
        assert not answered
        assert not gates.running("g")
        handover.go_on.set()
        thread.join(60)
        assert answered == [True]
        if opens:
            # The migration failed and the guest goes on here: what is on its rings is served when the gate opens.
            driver.front_end.start_ring(driver.queues[2], driver.queues[2].used_index)
            threading.Timer(0.1, gates.open, ("g",)).start()
            assert driver.execute(bytes(6)).status == 0
        driver.close()
