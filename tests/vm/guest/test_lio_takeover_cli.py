"""A takeover as an operator does it: two daemons, a guest on their sockets, commands with their exit statuses.

Each command is run once as a process of its own, which takes seconds on the emulated processor, and in this one
thereafter.
"""

from __future__ import annotations

import contextlib
import json
import signal
import struct

from tests.vm.rig.nodes import wait_for
from tests.vm.rig.operated import OperatedHost
from tests.vm.rig.takeover import CONFLICT, GUEST, REGISTER, RESERVE, shown
from tests.vm.rig.witness import all_show

K = 0x1122334455667788
TYPE = 5


def pr_out(guest, action, *, key=0, sa_key=0, type_=0):
    return guest.execute(struct.pack(">BBB2xIx", 0x5F, action, type_, 24), struct.pack(">QQ8x", key, sa_key))


def write(guest):
    return guest.execute(bytes.fromhex("2A 00 00000000 00 0001 00"), b"\xda" * 512)


def test_an_operator_moves_a_guest_to_another_host_and_back(iscsi_lio, tmp_path):
    unit = iscsi_lio
    one, two, third = unit.nexuses
    host_a, host_b = OperatedHost(tmp_path, "host-a", one), OperatedHost(tmp_path, "host-b", two)
    file, later = tmp_path / "db.json", tmp_path / "db-later.json"
    with contextlib.ExitStack() as cleanup:
        for host in (host_a, host_b):
            cleanup.callback(host.stop, signal.SIGKILL)
            host.serve()
        wait_for(lambda: host_a.serving and host_b.serving, "the daemons")

        guest = host_a.guest()
        assert pr_out(guest, REGISTER, sa_key=K).good
        assert pr_out(guest, RESERVE, key=K, type_=TYPE).good
        assert write(guest).good
        assert third.direct.write().status == CONFLICT
        all_show(unit, {one: K}, one, TYPE)

        assert host_a.process("checkpoint", GUEST, "-o", file) == (
            0,
            "",
            f"pyproxy: guest db: checkpoint written to {file}\n",
        )
        status, out, err = host_b.here("inspect", file)
        assert status == 0, err
        assert "0x1122334455667788" in out

        # Wrong use and a missing decision change nothing.
        before = shown(unit)
        assert host_b.here("restore", file, "--source", one.sg, "--source-dead")[0] == 2
        status, _, err = host_b.here("restore", file)
        assert status == 1
        assert "the source's device node was not given and the source was not declared dead" in err
        assert shown(unit) == before

        status, out, err = host_b.process("restore", file, "--source", one.sg, "--json")
        assert status == 0, err
        report = json.loads(out)
        assert (report["decision"], report["procedure"]) == ("taken_over", "P1")
        assert report["service_actions"] == ["REGISTER", "REGISTER", "PREEMPT"]
        all_show(unit, {two: K}, two, TYPE)
        assert write(host_b.guest()).good
        assert write(guest).status == CONFLICT
        assert third.direct.write().status == CONFLICT

        found = host_b.status(host_b.process)
        assert (found["device"], found["key"], found["reservation_type"]) == (str(two.sg), f"{K:#018x}", TYPE)
        assert (found["fresh"], found["epoch"], found["open_intents"]) == (True, 1, 0)
        left = host_a.status(host_a.here)
        assert not (left["fresh"] and left["registered"]), "host-a still says that its guest holds"

        before = shown(unit)
        status, out, err = host_b.here("restore", file, "--source", one.sg)
        assert status == 0, err
        assert "already done" in out
        assert shown(unit) == before

        # And back, because host-b dies.
        assert host_b.here("checkpoint", GUEST, "-o", later)[0] == 0
        assert host_b.stop(signal.SIGKILL) == -signal.SIGKILL
        status, out, err = host_a.here("restore", later, "--source-dead")
        assert status == 0, err
        assert "taken over by P2" in out
        all_show(unit, {one: K}, one, TYPE)
        assert write(guest).good
        assert two.direct.drain_unit_attentions() == [(0x06, 0x2A, 0x05)]
        assert two.direct.write().status == CONFLICT
        assert host_a.status(host_a.here)["epoch"] == 2
        # The first checkpoint is used up: the guest has moved twice since.
        before = shown(unit)
        status, _, err = host_a.here("restore", file, "--source", two.sg)
        assert status == 1
        assert "the checkpoint is older than what this host knows" in err
        assert shown(unit) == before
        assert host_a.stop() == 0
        all_show(unit, {one: K}, one, TYPE)
