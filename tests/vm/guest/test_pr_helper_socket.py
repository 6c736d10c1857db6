"""The helper's socket on real disks: the path without Python, devices that come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.pr_helper.exchange import Answer, Client, parameters, prin, prout
from tests.unit.pr_helper.qemu import qemu_pr_helper
from tests.vm.rig.nodes import settle
from tests.vm.rig.pr_helper import helper

KEY = 0x1234
REGISTER = (prout(6, 24), parameters(0, KEY))


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR):
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def code(answer: Answer) -> tuple[int, int, int]:
    assert answer.status == 2
    return answer.sense[2] & 0x0F, answer.sense[12], answer.sense[13]


@pytest.fixture
def nexus(lio):
    return lio(2).nexuses[0]


def test_both_nodes_of_a_unit_are_the_same_unit(nexus, tmp_path):
    with helper(tmp_path, nexus) as rig, opened(nexus.sd) as sd, opened(nexus.sg) as sg, Client(rig.path) as client:
        (unit,) = rig.units.values()
        register, parameter_list = REGISTER
        assert client.ask(register, sd, parameter_list) == Answer(0)
        assert unit.state.key == KEY
        for descriptor in (sd, sg, sd, sg):
            assert client.ask(prin(0, 16), descriptor).data[8:] == KEY.to_bytes(8, "big")
        assert client.ask(prout(1, 24, 3), sg, parameters(KEY)) == Answer(0)
        assert unit.state.type == 3
        assert client.ask(prout(2, 24, 3), sd, parameters(KEY)) == Answer(0)
        assert unit.state.type is None
        # The first of each node is identified; from then on it passes straight.
        assert rig.server.counts().straight == 2


@pytest.mark.parametrize("node", ["sd", "sg"])
def test_what_passes_straight_is_what_the_device_says(nexus, tmp_path, node):
    with helper(tmp_path, nexus) as rig, opened(getattr(nexus, node)) as device, Client(rig.path) as client:
        register, parameter_list = REGISTER
        assert client.ask(register, device, parameter_list) == Answer(0)
        client.ask(prin(0, 8), device)
        for action in (0, 1, 3):
            for allocation in (8, 12, 16, 24, 255, 4096, 8192):
                told = nexus.direct.persistent_reserve_in(action, allocation)
                assert client.ask(prin(action, allocation), device) == Answer(0, b"", told.data)
        assert client.ask(prin(0, 0), device).data == b""
        capabilities = bytearray(nexus.direct.persistent_reserve_in(2, 8).data)
        assert capabilities[2] & 0x0C, "LIO offers what is masked"
        capabilities[2] &= 0xF3
        assert client.ask(prin(2, 8), device).data == bytes(capabilities)
        straight = rig.server.counts().straight
        assert straight >= 22
        # What the device refuses is answered through Python, in the device's words.
        assert code(client.ask(prin(31, 64), device)) == (5, 0x24, 0)
        assert rig.server.counts().straight == straight


def test_a_request_is_counted_before_its_answer_is_seen(nexus, tmp_path):
    with helper(tmp_path, nexus) as rig, opened(nexus.sd) as device, Client(rig.path) as client:
        assert client.ask(prin(0, 8), device).status == 0
        for count in range(1, 301):
            assert client.ask(prin(0, 8), device).status == 0
            assert rig.server.counts().straight == count


def test_without_migration_nothing_is_masked(nexus, tmp_path):
    with helper(tmp_path, nexus, migrate_pr=False) as rig, opened(nexus.sd) as device, Client(rig.path) as client:
        told = nexus.direct.persistent_reserve_in(2, 8).data
        assert told[2] & 0x0C
        for _ in range(3):
            assert client.ask(prin(2, 8), device).data == told


def test_unit_attentions_on_the_straight_path_reach_guest_and_snooper(lio, tmp_path):
    nexus, other = lio(2).nexuses
    # Where a test before closed the disk, udev looks at it once more, and would get the unit attention.
    settle()
    with helper(tmp_path, nexus) as rig, opened(nexus.sd) as device, Client(rig.path) as client:
        (unit,) = rig.units.values()
        register, parameter_list = REGISTER
        assert client.ask(register, device, parameter_list) == Answer(0)
        for _ in range(2):
            client.ask(prin(0, 64), device)
        assert unit.state.fresh
        other.direct.drained(lambda: other.direct.persistent_reserve_out(6, sa_key=0x9999))
        other.direct.drained(lambda: other.direct.persistent_reserve_out(4, key=0x9999, sa_key=KEY, type_=3))
        assert code(client.ask(prin(0, 64), device)) == (6, 0x2A, 0x05)
        assert not unit.state.fresh
        assert client.ask(prin(0, 64), device).status == 0
        # What a read of pyproxy received in the guest's place is reported on the guest's next command, once.
        other.direct.drained(lambda: other.direct.persistent_reserve_out(6, sa_key=0))
        before = rig.server.counts().straight
        unit.snooper.attentions.add(*[_released()])
        assert code(client.ask(prin(0, 64), device)) == (6, 0x2A, 0x04)
        assert client.ask(prin(0, 64), device).status == 0
        assert rig.server.counts().straight == before + 1


def _released():
    from pyproxy.scsi.sense import RESERVATIONS_RELEASED

    return RESERVATIONS_RELEASED


def test_a_lost_path_is_answered_as_qemus_helper_answers(nexus, tmp_path):
    with (
        qemu_pr_helper(tmp_path) as theirs,
        helper(tmp_path, nexus) as rig,
        opened(nexus.sd) as device,
        Client(theirs) as reference,
        Client(rig.path) as client,
    ):
        client.ask(prin(0, 64), device)
        client.ask(prin(0, 64), device)
        nexus.offline()
        for ask in ((prin(0, 64), b""), (prin(1, 64), b""), REGISTER):
            expected = reference.ask(ask[0], device, ask[1])
            assert client.ask(ask[0], device, ask[1]) == expected
            assert code(expected) == (0xB, 0x29, 0x07)
        nexus.online()
        assert code(client.ask(prin(0, 64), device)) == (6, 0x29, 0x07)
        assert client.ask(prin(0, 64), device).status == 0


def test_a_device_that_goes_and_comes_back_is_identified_again(lio, tmp_path):
    unit = lio.fresh(2)
    nexus = unit.nexuses[0]
    with helper(tmp_path, nexus) as rig, Client(rig.path) as client:
        with opened(nexus.sd) as device:
            for _ in range(3):
                assert client.ask(prin(0, 64), device).status == 0
            nexus.unplug()
            assert code(client.ask(prin(0, 64), device)) == (0xB, 0x00, 0x06)
            register, parameter_list = REGISTER
            assert code(client.ask(register, device, parameter_list)) == (0xB, 0x00, 0x06)
        nexus.plug()
        nexus.direct.drain_unit_attentions()
        straight = rig.server.counts().straight
        with opened(nexus.sd) as device:
            assert client.ask(prin(0, 64), device).status == 0
            assert rig.server.counts().straight == straight
            # What is still queued on the returned device makes it be identified once more.
            for _ in range(3):
                assert client.ask(prin(0, 64), device).status == 0
            assert rig.server.counts().straight > straight


def test_another_path_to_the_unit_is_not_the_guests(lio, tmp_path):
    nexus, other = lio(2).nexuses
    with helper(tmp_path, nexus) as rig, opened(other.sd) as wrong, Client(rig.path) as client:
        assert code(client.ask(prin(0, 64), wrong)) == (5, 0x25, 0x00)
        register, parameter_list = REGISTER
        assert code(client.ask(register, wrong, parameter_list)) == (5, 0x25, 0x00)
        assert other.direct.keys() == []


def test_another_user_with_access_to_the_socket_is_turned_away(nexus, tmp_path):
    script = """
        import os, socket, sys
        address = f"/proc/self/fd/{sys.argv[1]}"
        client, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        client.connect(address)
        os.setresuid(65534, 65534, 65534)
        other.connect(address)
        print(len(client.recv(4)), len(other.recv(4)))
    """
    with helper(tmp_path, nexus) as rig:
        rig.path.chmod(0o666)
        path = os.open(rig.path, os.O_PATH)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(path)],
            pass_fds=[path],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(path)
        assert done.stdout == "4 0\n", done.stderr
        assert rig.server.counts().refused_peers == 1
