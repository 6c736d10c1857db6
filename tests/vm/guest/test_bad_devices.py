"""Devices that vanish, and wrong ones: one clear line, exit status 1, and on LIO nothing that cannot be finished.

A deleted SCSI device is gone for its initiator only: LIO keeps the nexus' registration, as a storage array does whose
cable was pulled. Its configfs is the judge throughout.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyproxy import config
from pyproxy.cli.main import main
from pyproxy.daemon.host import Host
from pyproxy.device.base import TransportError
from pyproxy.device.sg import SgDevice
from pyproxy.scsi.command import Command
from tests.vm.guest.sg_support import drain, requests_issued, slow, write_cdb
from tests.vm.rig.nodes import SCSI_DEVICES, nodes_of, settle, wait_for
from tests.vm.rig.sg_direct import SgNode
from tests.vm.rig.takeover import CONFLICT, GUEST, REGISTER, GuestHost, shown, write_config
from tests.vm.rig.witness import configfs_shows

K = 0x1122334455667788
TYPE = 5
METADATA = Path("/var/target/pr")
GONE = "the device is gone; attach it again"


def vanish(nexus):
    """Delete the SCSI device under whoever has it open; returns when it is gone and nothing is in flight."""
    nexus.direct.close()
    (SCSI_DEVICES / nexus.nodes.address / "delete").write_text("1")


def come_back(nexus, *config_files):
    """Scan for the device again; the configurations get its new node where that has another name."""
    host, where = nexus.nodes.address.split(":", 1)
    before = nexus.sg
    channel, target, _ = where.split(":")
    # tcm_loop allows no LUN by number here (its max_lun is 0), all of them by the dash.
    Path(f"/sys/class/scsi_host/host{host}/scan").write_text(f"{channel} {target} -")
    nexus.nodes = nodes_of(nexus.nodes.address)
    settle()
    nexus.direct = SgNode(nexus.sg)
    for file in config_files:
        file.write_text(file.read_text().replace(f'"{before}"', f'"{nexus.sg}"'))


def run(config_file, *words):
    """A command of the operator, in this process so that the tests can follow what it sends."""
    return CliRunner().invoke(main, ["--config", str(config_file), *map(str, words)], prog_name="pyproxy")


def line_of(told):
    """The one line of a command that failed as it should."""
    assert isinstance(told.exception, SystemExit), f"ended with {told.exception!r}"
    assert (told.exit_code, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("pyproxy: ")
    return line


class Sent:
    """Counts the commands that reach a nexus' node, and makes its device vanish before number ``vanish_at``."""

    def __init__(self, nexus, *, opcode=None, vanish_at=None):
        self.nexus = nexus
        self.opcode = opcode
        self.vanish_at = vanish_at
        self.count = 0

    def see(self, device, command):
        if device.name != str(self.nexus.sg) or self.opcode not in (None, command.cdb[0]):
            return
        self.count += 1
        if self.count == self.vanish_at:
            vanish(self.nexus)


@pytest.fixture
def following(monkeypatch):
    """``with following(nexus, ...) as sent`` follows the commands to a nexus."""

    @contextmanager
    def follow(nexus, **options):
        sent = Sent(nexus, **options)
        execute = SgDevice.execute

        def seen(device, command):
            sent.see(device, command)
            return execute(device, command)

        with monkeypatch.context() as patch:
            patch.setattr(SgDevice, "execute", seen)
            yield sent

    return follow


@pytest.fixture
def claimed(lio, tmp_path):
    """A unit of two nexuses, and the configuration of the host whose guest holds a reservation through the first."""
    unit = lio.fresh(2)
    with GuestHost(tmp_path, unit.nexuses[0]) as host:
        host.claim(K, TYPE)
    configfs_shows(unit, {unit.nexuses[0]: K}, unit.nexuses[0], TYPE)
    yield unit, host.config_file
    # LIO takes no port down whose device it cannot find.
    for nexus in unit.nexuses:
        if not (SCSI_DEVICES / nexus.nodes.address).exists():
            come_back(nexus)


def test_vanishing_during_a_checkpoint(claimed, following, tmp_path):
    unit, config_file = claimed
    one = unit.nexuses[0]
    file, before = tmp_path / "db.json", shown(unit)
    with following(one) as sent:
        assert run(config_file, "checkpoint", GUEST, "-o", file).exit_code == 0
    file.unlink()
    assert sent.count > 6
    for at in (1, sent.count // 2, sent.count):
        with following(one, vanish_at=at):
            line = line_of(run(config_file, "checkpoint", GUEST, "-o", file))
        assert str(one.sg) in line
        assert GONE in line
        assert not file.exists()
        assert shown(unit) == before
        # Gone before the command is another line, as clear.
        assert "no such node" in line_of(run(config_file, "checkpoint", GUEST, "-o", file))
        come_back(one, config_file)
    assert run(config_file, "checkpoint", GUEST, "-o", file).exit_code == 0
    assert shown(unit) == before


@pytest.mark.parametrize(
    ("side", "at"), [("destination", 1), ("source", 1), ("destination", 2)], ids=["REGISTER", "REKEY", "PREEMPT"]
)
def test_vanishing_between_two_steps_of_a_restore(claimed, following, tmp_path, side, at):
    unit, source_config = claimed
    one, two = unit.nexuses
    destination_config = write_config(tmp_path, "host-2", two)
    file = tmp_path / "db.json"
    assert run(source_config, "checkpoint", GUEST, "-o", file).exit_code == 0
    before = shown(unit)
    lost = two if side == "destination" else one
    with following(lost, opcode=0x5F, vanish_at=at) as sent:
        line = line_of(run(destination_config, "restore", file, "--source", one.sg))
    assert sent.count >= at
    # What the source cannot do is undone at the destination, which is still there.
    assert ("UNDONE" if side == "source" else "NOT FINISHED") in line
    assert str(lost.sg) in line or side == "source"
    assert GONE in line or side == "source"
    between = shown(unit)
    if (side, at) == ("destination", 1):
        assert between == before
    # The guest's reservation lapses at no point.
    assert (between.holder, between.type) == (one.initiator, TYPE)
    come_back(lost, destination_config)
    done = run(destination_config, "restore", file, "--source", one.sg)
    assert done.exit_code == 0, done.output
    configfs_shows(unit, {two: K}, two, TYPE)
    assert one.direct.write().status == CONFLICT


@contextmanager
def stuck_metadata(unit):
    """LIO's file for this unit is a pipe that is full: REGISTER is executed but does not end inside."""
    serial = (unit.backstore / "wwn" / "vpd_unit_serial").read_text().partition(": ")[2].strip()
    pipe = METADATA / f"aptpl_{serial}"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while True:
                os.write(fd, bytes(4096))
        yield lambda: os.read(fd, 1 << 20)
    finally:
        os.read(fd, 1 << 20)
        os.close(fd)
        pipe.unlink()


def in_flight(nexus):
    device = SCSI_DEVICES / nexus.nodes.address
    issued, done = (int((device / name).read_text(), 16) for name in ("iorequest_cnt", "iodone_cnt"))
    return issued - done


def open_intents(host):
    return host.host.store.open_intents(GUEST, host.unit.snooper.identity_name)


def test_vanishing_with_a_register_of_the_guest_in_flight(lio, tmp_path):
    """It is executed while its node is taken away: told GOOD or told nothing, and then the intent stays open."""
    unit = lio.fresh(2)
    one = unit.nexuses[0]
    ended = []

    def register():
        try:
            ended.append(host.pr_out(REGISTER, sa_key=K))
        except TransportError as error:
            ended.append(error)

    with GuestHost(tmp_path, one, named=True) as host:
        assert host.state.fresh
        idle = in_flight(one)
        with stuck_metadata(unit) as drain_pipe:
            guest = threading.Thread(target=register)
            guest.start()
            wait_for(lambda: in_flight(one) > idle, "the REGISTER to be sent")
            # The kernel takes the node away at once, and the device when nothing is in flight any more.
            puller = threading.Thread(target=vanish, args=(one,))
            puller.start()
            wait_for(lambda: not one.sg.exists(), f"{one.sg} to vanish")
            assert guest.is_alive()
            drain_pipe()
            guest.join(60)
            puller.join(60)
            assert not guest.is_alive()
            assert not puller.is_alive()
        (outcome,) = ended
        if isinstance(outcome, TransportError):
            assert (outcome.errno, outcome.fate_unknown) == (errno.ENODEV, True)
            assert "fate-unknown" in host.state.suspect
            assert [intent.cdb[1] for intent in open_intents(host)] == [REGISTER]
        else:
            # GOOD is told only after the device was asked where the answer needs it, and nothing else is told.
            assert outcome.good or open_intents(host)
        configfs_shows(unit, {one: K})
        # What needs the device meanwhile says so and changes nothing.
        host.close()
        assert "no such node" in line_of(run(host.config_file, "checkpoint", GUEST))
        come_back(one, host.config_file)
        assert host.state.fresh
        assert host.state.key == K
        assert open_intents(host) == []
        assert host.checkpoint()


def test_losing_the_path_under_a_register_of_the_guest(lio, tmp_path):
    """It was not executed, but nobody could tell: once the path is back the device tells, and the guest too."""
    unit = lio.fresh(2)
    one = unit.nexuses[0]
    with GuestHost(tmp_path, one, named=True) as host:
        assert host.state.fresh
        one.offline()
        lost = host.pr_out(REGISTER, sa_key=K)
        assert lost.host_status == 0x0E
        assert not lost.good
        assert "fate-unknown" in host.state.suspect
        assert len(open_intents(host)) == 1
        host.close()
        assert "host status" in line_of(run(host.config_file, "checkpoint", GUEST))
        one.online()
        configfs_shows(unit, {})
        assert host.unit.resync().fresh
        assert not host.state.registered
        assert open_intents(host) == []
        # The reading received the unit attention in the guest's place.
        assert host.write().decoded_sense.code == (0x06, 0x29, 0x07)
        assert host.pr_out(REGISTER, sa_key=K).good
        configfs_shows(unit, {one: K})


def test_a_checkpoint_of_another_unit_changes_neither(claimed, lio, tmp_path):
    unit, config_file = claimed
    other = lio.fresh(2)
    with GuestHost(tmp_path / "elsewhere", other.nexuses[0]) as elsewhere:
        elsewhere.claim(K, TYPE)
    destination_config = write_config(tmp_path, "host-2", other.nexuses[1])
    file = tmp_path / "db.json"
    assert run(config_file, "checkpoint", GUEST, "-o", file).exit_code == 0
    before = shown(unit), shown(other)
    one = unit.nexuses[0]
    for how in (["--source", one.sg], ["--source-dead"]):
        line = line_of(run(destination_config, "restore", file, *how))
        assert "REFUSED" in line
        assert f"{other.nexuses[1].sg} leads to logical unit naa.6001405" in line
        assert "Nothing was sent but INQUIRY" in line
    assert (shown(unit), shown(other)) == before


def test_a_disk_deleted_under_a_write_of_the_guest(scsi_debug, tmp_path):
    (disk,) = scsi_debug(dev_size_mb=8, delay=0)
    drain(disk)
    config_file = tmp_path / "pyproxy.toml"
    config_file.write_text(
        f"""
        [daemon]
        host_name = "host-1"
        state_dir = "{tmp_path / "state"}"
        runtime_dir = "{tmp_path / "run"}"
        [[guest]]
        name = "{GUEST}"
        migrate_pr = false
        [[guest.unit]]
        lun = 0
        device = "{disk.sg}"
        """
    )
    host = Host(config.load(config_file))
    write = Command(write_cdb(0, 1), data_out=bytes(512), timeout_ms=20_000)
    caught = []

    def writer():
        try:
            caught.append(unit.execute(write))
        except TransportError as error:
            caught.append(error)

    try:
        unit = host.unit(GUEST, 0)
        with slow(1.5):
            before = requests_issued(disk)
            guest = threading.Thread(target=writer)
            guest.start()
            wait_for(lambda: requests_issued(disk) > before, "the WRITE to be sent")
            (SCSI_DEVICES / disk.address / "delete").write_text("1")
            guest.join(60)
            assert not guest.is_alive()
        # It may have been executed; where its end was seen in time, it was.
        (outcome,) = caught
        if isinstance(outcome, TransportError):
            assert (outcome.errno, outcome.fate_unknown) == (errno.ENODEV, True)
        else:
            assert outcome.good
        with pytest.raises(TransportError, match=f"^{disk.sg}: .*{GONE}") as later:
            unit.execute(write)
        assert not later.value.fate_unknown
    finally:
        host.close()
    line = line_of(run(config_file, "pr", "keys", f"{GUEST}/0"))
    assert f"{disk.sg}: " in line
    assert "no such node" in line
