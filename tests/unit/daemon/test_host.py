"""The wiring: claims on nexuses, restores between two hosts over one unit, what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.documents import key_text, type_text
from pyproxy.daemon.failures import NotFoundError, OperationError, sentence
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import AdoptRequest, RestoreRequest
from pyproxy.device.base import Device
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.migration.capture import CheckpointRefusedError
from pyproxy.migration.checkpoint import CheckpointError, decode_checkpoint, encode_checkpoint
from pyproxy.reservation.poll import Polled, UnitPoll
from pyproxy.reservation.registry import NexusInUseError
from pyproxy.reservation.snapshot import SnapshotError
from pyproxy.reservation.state import encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.sense import MODE_PARAMETERS_CHANGED
from pyproxy.scsi.transport_id import SasTransportId, TransportId
from pyproxy.unit import GuestUnit

PORT_A = SasTransportId(bytes.fromhex("500140500000000a"))
PORT_B = SasTransportId(bytes.fromhex("500140500000000b"))
KEY = (0xC0FFEE).to_bytes(8)

MakeHost = Callable[..., Host]

NAMED_A = 'initiator = "naa.500140500000000a"\nrtpi = 1\n'
NAMED_B = 'initiator = "naa.500140500000000b"\nrtpi = 1\n'


@pytest.fixture
def unit() -> Iterator[EmulatedUnit]:
    with closing(EmulatedUnit(1 << 20, serial="shared", power_on_attention=False)) as shared:
        yield shared


@pytest.fixture
def host(unit: EmulatedUnit, tmp_path: Path) -> Iterator[MakeHost]:
    """Make hosts whose devices are nexuses on the shared unit; the device path names the port."""
    with ExitStack() as stack:

        def make(name: str, ports: dict[str, TransportId | None], guests: str) -> Host:
            text = f'[daemon]\nhost_name = "{name}"\nstate_dir = "{tmp_path}/{name}"\n{guests}'

            def open_port(_config: Config, _guest: GuestSection, section: UnitSection) -> Backing:
                port = ports[str(section.device)]
                named = section.initiator
                return Backing(unit.nexus(port or PORT_A), named, section.rtpi, lambda: None)

            return stack.enter_context(closing(Host(config.parse(text, "test", {}), open_backing=open_port)))

        yield make


def guest(name: str, device: str, extra: str = "") -> str:
    return f'[[guest]]\nname = "{name}"\n[[guest.unit]]\nlun = 0\ndevice = "{device}"\n{extra}'


def reserve(through: GuestUnit) -> None:
    register = Command(bytes.fromhex("5f000000000000001800"), data_out=bytes(8) + KEY + bytes(8))
    take = Command(bytes.fromhex("5f010100000000001800"), data_out=KEY + bytes(16))
    assert through.execute(register).status == 0
    assert through.execute(take).status == 0


def _renamed(document: bytes, name: str) -> bytes:
    """The checkpoint as if its guest were called ``name``."""
    return encode_checkpoint(msgspec.structs.replace(decode_checkpoint(document), guest=name))


def write(through: GuestUnit) -> Result:
    return through.execute(Command(bytes.fromhex("2a000000000000000100"), data_out=bytes(512)))


def test_two_guests_on_one_nexus_are_refused_whatever_the_path(host: MakeHost) -> None:
    one = host("a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, guest("web", "/dev/x") + guest("db", "/dev/y"))
    one.unit("web", 0)
    with pytest.raises(NexusInUseError, match=r"guest db LUN 0: .* served to guest web LUN 0"):
        one.unit("db", 0)


def test_two_guests_whose_nexuses_are_named_and_differ_share_a_unit(host: MakeHost) -> None:
    names = [f'initiator = "{port}"\nrtpi = 1\n' for port in (PORT_A, PORT_B)]
    guests = guest("web", "/dev/x", names[0]) + guest("db", "/dev/y", names[1])
    one = host("a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, guests)
    reserve(one.unit("web", 0))
    assert write(one.unit("db", 0)).status == 0x18


def test_one_named_and_one_unnamed_nexus_might_be_one(host: MakeHost) -> None:
    guests = guest("web", "/dev/x", f'initiator = "{PORT_A}"\nrtpi = 1\n') + guest("db", "/dev/y")
    one = host("a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, guests)
    one.unit("web", 0)
    with pytest.raises(NexusInUseError):
        one.unit("db", 0)


def test_a_released_host_gives_its_lock_to_the_next(host: MakeHost) -> None:
    first = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(first.unit("web", 0))
    first.close()
    again = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    assert again.unit("web", 0).state.key == 0xC0FFEE
    with pytest.raises(OperationError, match="is being stopped"):
        first.unit("web", 0)


def test_what_an_earlier_run_left_is_told(host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    first = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(first.unit("web", 0))
    name = first.unit("web", 0).snooper.identity_name
    state = b'{"format":1}'
    for owner, unit in (("web", "naa.gone"), ("db", name)):
        first.store.begin_intent(
            owner, unit, epoch=0, cdb=bytes.fromhex("5f00"), parameter_list=bytes(24), before=state
        )
    first.store.journal_open("t1", b"{}", "P1", 7, guest="web", unit=name)
    first.store.journal_open("t2", b"{}", "P2", 7, guest="web", unit=name)
    first.store.journal_close("t2", "done")
    first.close()
    again = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    again.open_all()
    status = LocalOperations(again).status()
    assert [(one.id, one.guest, one.unit, one.procedure) for one in status.open_takeovers] == [
        ("t1", "web", name, "P1")
    ]
    assert status.open_takeovers[0].started.endswith("Z")
    assert {(one.guest, one.unit, one.open_intents) for one in status.stray_intents} == {
        ("web", "naa.gone", 1),
        ("db", name, 1),
    }
    assert "a takeover (t1) was begun" in caplog.text
    assert "guest web on naa.gone: 1 PERSISTENT RESERVE OUT of unknown outcome" in caplog.text


def test_intents_of_a_unit_that_is_not_open_are_not_called_stray(host: MakeHost) -> None:
    one = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    one.store.begin_intent("web", "naa.x", epoch=0, cdb=bytes(10), parameter_list=bytes(24), before=b"")
    assert one.stray_intents() == []
    one.unit("web", 0)
    assert [stray.unit for stray in one.stray_intents()] == ["naa.x"]


def test_what_cannot_be_read_at_the_start_stays_suspect_until_it_can(unit: EmulatedUnit, tmp_path: Path) -> None:
    device = WithoutFullStatus(unit.nexus(PORT_A))
    backing = Backing(device, PORT_A, 1, lambda: None)
    settings = config.parse(f'[daemon]\nstate_dir = "{tmp_path}/state"\n' + guest("web", "/dev/x"), "test", {})
    with closing(Host(settings, open_backing=lambda *_: backing)) as first:
        web = first.unit("web", 0)
        reserve(web)
        # Recorded and executed, but killed before the outcome was recorded: the guest's key is another now.
        change = KEY + bytes.fromhex("0000000000c0ffff") + bytes(8)
        cdb = bytes.fromhex("5f000000000000001800")
        first.store.begin_intent(
            "web", web.snooper.identity_name, epoch=0, cdb=cdb, parameter_list=change, before=encode_state(web.state)
        )
        assert unit.nexus(PORT_A).execute(Command(cdb, data_out=change)).good
    device.ready = False
    with closing(Host(settings, open_backing=lambda *_: backing)) as again:
        again.open_all()
        operations = LocalOperations(again)
        (told,) = operations.status().guests[0].units
        assert (told.key, told.fresh, told.open_intents) == ("0x0000000000c0ffee", False, 1)
        assert "restart" in told.suspect
        with pytest.raises(SnapshotError):
            operations.checkpoint("web", 0)
        device.ready = True
        found = again.open_unit("web", 0)
        assert UnitPoll().run(found.unit.snooper, found.lock, found.unit.device.execute) is Polled.RESYNCED
        (told,) = operations.status().guests[0].units
        assert (told.key, told.reservation_type) == ("0x0000000000c0ffff", 1)
        assert (told.fresh, told.open_intents) == (True, 0)


class WithoutFullStatus:
    """A nexus of a unit that does not tell who registered."""

    def __init__(self, nexus: Device) -> None:
        self.name = nexus.name
        self.nexus = nexus
        self.probes: list[bytes] = []
        self.ready = True

    def execute(self, command: Command) -> Result:
        if command.cdb[:2] == b"\x5e\x03":
            return Result(0x02, bytes.fromhex("700005000000000a00000000240000000000"))
        if command.cdb[0] == 0x5E and not self.ready:
            return Result(0x02, bytes.fromhex("700002000000000a00000000040100000000"))
        if command.cdb[0] == 0x5F:
            assert isinstance(command.data_out, bytes)
            self.probes.append(command.data_out)
        return self.nexus.execute(command)

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        return [self.execute(command) for command in commands]

    def close(self) -> None:
        pass


@pytest.fixture
def silent_host(unit: EmulatedUnit, tmp_path: Path) -> Iterator[Callable[[str], tuple[Host, WithoutFullStatus]]]:
    """Make hosts on a unit that does not tell who registered, each with a state directory of its own."""
    with ExitStack() as stack:

        def make(extra: str) -> tuple[Host, WithoutFullStatus]:
            device = WithoutFullStatus(unit.nexus(PORT_A))
            text = f'[daemon]\nstate_dir = "{tmp_path}/state-{id(device)}"\n' + guest("web", "/dev/x", extra)
            backing = Backing(device, None, None, lambda: None)
            settings = config.parse(text, "test", {})
            return stack.enter_context(closing(Host(settings, open_backing=lambda *_: backing))), device

        yield make


def register_outside(unit: EmulatedUnit) -> None:
    """Another program registers through our nexus, and reserves Write Exclusive."""
    nexus = unit.nexus(PORT_A)
    assert nexus.execute(Command(bytes.fromhex("5f000000000000001800"), data_out=bytes(8) + KEY + bytes(8))).good
    assert nexus.execute(Command(bytes.fromhex("5f010100000000001800"), data_out=KEY + bytes(16))).good


@pytest.mark.parametrize("configured", [True, False])
def test_at_start_up_it_adopts_where_it_is_configured(
    unit: EmulatedUnit, silent_host: Callable[[str], tuple[Host, WithoutFullStatus]], configured: bool
) -> None:
    register_outside(unit)
    one, device = silent_host(f"adopt = {str(configured).lower()}\n")
    one.open_all()
    state = one.unit("web", 0).state
    assert (state.key, state.type) == ((0xC0FFEE, 1) if configured else (0, None))
    assert device.probes == ([KEY + KEY + bytes(8)] if configured else [])


def test_only_a_daemon_adopts_by_itself(
    unit: EmulatedUnit, silent_host: Callable[[str], tuple[Host, WithoutFullStatus]]
) -> None:
    register_outside(unit)
    one, device = silent_host("adopt = true\n")
    assert (one.unit("web", 0).state.key, device.probes) == (0, [])


def test_what_was_adopted_can_be_checkpointed(
    unit: EmulatedUnit, silent_host: Callable[[str], tuple[Host, WithoutFullStatus]]
) -> None:
    register_outside(unit)
    one, _ = silent_host("")
    operations = LocalOperations(one)
    found = operations.adopt("web", 0, AdoptRequest(key="0xc0ffee"))
    assert (found.succeeded, found.decision, found.key) == (True, "proven-by-probe", "0x0000000000c0ffee")
    assert (found.reservation_type, found.probed, found.fresh) == (1, ["0x0000000000c0ffee"], True)
    assert json.loads(operations.checkpoint("web", 0))["nexus"]["key"] == "0x0000000000c0ffee"


def test_a_shared_key_is_reported_and_not_guessed(
    unit: EmulatedUnit, silent_host: Callable[[str], tuple[Host, WithoutFullStatus]]
) -> None:
    register_outside(unit)
    sibling = Command(bytes.fromhex("5f000000000000001800"), data_out=bytes(8) + KEY + bytes(8))
    assert unit.nexus(PORT_B).execute(sibling).good
    one, _ = silent_host("")
    operations = LocalOperations(one)
    found = operations.adopt("web", 0, AdoptRequest())
    assert (found.succeeded, found.decision, found.reservation) == (False, "ambiguous-holder", None)
    with pytest.raises(CheckpointRefusedError):
        operations.checkpoint("web", 0)


def test_adoption_needs_tracking(host: MakeHost) -> None:
    off = guest("web", "/dev/x").replace("[[guest.unit]]", "migrate_pr = false\n[[guest.unit]]")
    operations = LocalOperations(host("a", {"/dev/x": PORT_A}, off))
    with pytest.raises(OperationError, match="migrate_pr is off"):
        operations.adopt("web", 0, AdoptRequest())


def test_restore_moves_the_claim_and_the_guest_goes_on(host: MakeHost) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    destination = host("b", {"/dev/y": PORT_B}, guest("web", "/dev/y"))
    reserve(source.unit("web", 0))
    assert write(destination.unit("web", 0)).status == 0x18
    document = LocalOperations(source).checkpoint("web", None)
    found = destination.open_unit("web", 0)
    report = LocalOperations(destination).take_over(
        decode_checkpoint(document),
        found.backing.device,
        source.open_unit("web", 0).backing.device,
        RestoreRequest(document=b""),
        found,
    )
    assert (report.succeeded, report.procedure) == (True, "P1")
    assert write(destination.unit("web", 0)).status == 0
    assert write(source.unit("web", 0)).status == 0x18
    state = destination.unit("web", 0).state
    assert (state.key, state.type, state.epoch, state.fresh) == (0xC0FFEE, 1, 1, True)


def test_restore_when_the_source_is_dead_and_again(host: MakeHost) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    destination = LocalOperations(host("b", {"/dev/y": PORT_B}, guest("web", "/dev/y")))
    reserve(source.unit("web", 0))
    document = LocalOperations(source).checkpoint("web", 0)
    unsaid = destination.restore(RestoreRequest(document=document))
    assert (unsaid.succeeded, unsaid.decision, unsaid.service_actions) == (False, "source_needed", [])
    said = destination.restore(RestoreRequest(document=document, source_dead=True))
    assert (said.succeeded, said.procedure, said.key) == (True, "P2", "0x0000000000c0ffee")
    again = destination.restore(RestoreRequest(document=document, source_dead=True))
    assert (again.succeeded, again.decision, again.service_actions) == (True, "already_done", [])


def test_restore_refuses_what_does_not_fit_together(host: MakeHost, unit: EmulatedUnit) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(source.unit("web", 0))
    document = LocalOperations(source).checkpoint("web", 0)
    generation = unit.reservations.generation
    other = LocalOperations(host("b", {"/dev/y": PORT_B}, guest("db", "/dev/y")))
    with pytest.raises(NotFoundError, match=r"there is no guest web .* name the node with --device"):
        other.restore(RestoreRequest(document=document, source_dead=True))
    with pytest.raises(OperationError, match="/dev/y is LUN 0 of guest db here"):
        other.restore(RestoreRequest(document=document, source_dead=True, device="/dev/y"))
    with pytest.raises(OperationError, match="exclude each other"):
        other.restore(RestoreRequest(document=document, source_dead=True, source="/dev/y"))
    with pytest.raises(CheckpointError, match="digest"):
        other.restore(RestoreRequest(document=document.replace(b'"epoch": 0', b'"epoch": 1')))
    assert unit.reservations.generation == generation


def test_the_source_unit_of_this_host_is_doubted_once_its_claim_has_moved(host: MakeHost) -> None:
    one = host(
        "a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, guest("old", "/dev/x", NAMED_A) + guest("web", "/dev/y", NAMED_B)
    )
    old = one.unit("old", 0)
    reserve(old)
    operations = LocalOperations(one)
    document = _renamed(operations.checkpoint("old", 0), "web")
    assert operations.restore(RestoreRequest(document=document, source="/dev/x")).succeeded
    assert one.unit("web", 0).state.key == 0xC0FFEE
    assert not old.state.fresh
    assert old.resync().key == 0


def test_restored_again_after_the_guest_moved_on_it_does_not_start_twice(host: MakeHost) -> None:
    hosts = [
        host(name, {"/dev/x": port}, guest("web", "/dev/x", named))
        for name, port, named in (("a", PORT_A, NAMED_A), ("b", PORT_B, NAMED_B))
    ]
    there, back = (LocalOperations(one) for one in reversed(hosts))
    reserve(hosts[0].unit("web", 0))
    first = back.checkpoint("web", 0)
    assert there.restore(RestoreRequest(document=first, source_dead=True)).succeeded
    assert there.restore(RestoreRequest(document=first)).decision == "already_done"
    assert back.restore(RestoreRequest(document=there.checkpoint("web", 0), source_dead=True)).succeeded
    again = there.restore(RestoreRequest(document=first))
    assert (again.succeeded, again.decision) == (False, "older")
    assert "lost its registration here since" in again.sentence
    assert write(hosts[0].unit("web", 0)).status == 0


def test_refused_restore_eats_no_attention_of_the_guest_that_runs_there(host: MakeHost, unit: EmulatedUnit) -> None:
    one = host(
        "a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, guest("old", "/dev/x", NAMED_A) + guest("web", "/dev/y", NAMED_B)
    )
    old, web = one.unit("old", 0), one.unit("web", 0)
    reserve(old)
    operations = LocalOperations(one)
    document = _renamed(operations.checkpoint("old", 0), "web")
    for port in (PORT_A, PORT_B):
        unit.nexus(port).attentions.establish(MODE_PARAMETERS_CHANGED)
    unit.refresh_all()
    assert operations.restore(RestoreRequest(document=document)).decision == "source_needed"
    for guest_unit in (old, web):
        told = guest_unit.execute(Command(bytes(6)))
        assert (told.status, told.sense[12:14]) == (0x02, b"\x2a\x01"), guest_unit.guest


def test_restores_onto_one_unit_wait_for_each_other_whatever_the_node(host: MakeHost, unit: EmulatedUnit) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(source.unit("web", 0))
    checkpoint = decode_checkpoint(LocalOperations(source).checkpoint("web", 0))
    there = host("b", {"/dev/y": PORT_B}, guest("db", "/dev/y"))
    inside, go = threading.Event(), threading.Event()

    class Slow:
        name = "/dev/sg7"

        def execute(self, command: Command) -> Result:
            inside.set()
            assert go.wait(20)
            return unit.nexus(PORT_B).execute(command)

    def take_over(device: object) -> None:
        LocalOperations(there).take_over(
            checkpoint,
            device,  # type: ignore[arg-type]
            None,
            RestoreRequest(document=b"", source_dead=True),
            None,
        )

    first = threading.Thread(target=take_over, args=(Slow(),))
    second = threading.Thread(target=take_over, args=(unit.nexus(PORT_B),))
    first.start()
    assert inside.wait(20)
    second.start()
    second.join(0.1)
    assert second.is_alive()
    go.set()
    first.join(20)
    second.join(20)
    assert unit.reservations.key_of(unit.nexus(PORT_B).identity) == 0xC0FFEE


def test_nodes_of_one_device_are_one_unit(host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/sg1 and /dev/sda of one SCSI device: reading through the other node must not eat the guest's attentions."""
    one = host("a", {"/dev/sg1": PORT_A}, guest("web", "/dev/sg1"))
    devices = {"/dev/sg1": "0:0:0:0", "/dev/sda": "0:0:0:0", "/dev/sdb": "0:0:1:0"}
    monkeypatch.setattr("pyproxy.daemon.host._scsi_device", lambda path: devices.get(str(path)))
    assert one.find_node("/dev/sda") == ("web", 0)
    assert one.find_node("/dev/sdb") is None
    assert one.find_node("/dev/sdc") is None


def test_checkpoint_says_what_it_cannot_do(host: MakeHost) -> None:
    two = guest("web", "/dev/x") + '[[guest.unit]]\nlun = 1\ndevice = "/dev/y"\n'
    several = LocalOperations(host("a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, two))
    with pytest.raises(OperationError, match=r"has 2 logical units \(LUN 0, 1\).*--lun"):
        several.checkpoint("web", None)
    off = guest("web", "/dev/x").replace("[[guest.unit]]", "migrate_pr = false\n[[guest.unit]]")
    verbatim = LocalOperations(host("b", {"/dev/x": PORT_A}, off))
    with pytest.raises(OperationError, match="migrate_pr is off"):
        verbatim.checkpoint("web", None)
    legacy = host("c", {"/dev/x": PORT_B}, guest("web", "/dev/x"))
    assert legacy.unit("web", 0).execute(Command(bytes.fromhex("160000000000"))).status == 0
    with pytest.raises(CheckpointRefusedError, match="SPC-2 RESERVE"):
        LocalOperations(legacy).checkpoint("web", None)


def test_a_checkpoint_names_keys_as_text(host: MakeHost) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(source.unit("web", 0))
    document = json.loads(LocalOperations(source).checkpoint("web", 0))
    assert (document["nexus"]["key"], document["nexus"]["type"]) == ("0x0000000000c0ffee", 1)


def test_words_of_documents() -> None:
    assert key_text(0xC0FFEE) == "0x0000000000c0ffee"
    assert [type_text(number) for number in (None, 1, 3, 5, 6, 7, 8, 4)] == [
        None,
        "Write Exclusive",
        "Exclusive Access",
        "Write Exclusive - Registrants Only",
        "Exclusive Access - Registrants Only",
        "Write Exclusive - All Registrants",
        "Exclusive Access - All Registrants",
        "reserved type 4h",
    ]


def test_defects_are_not_disguised_as_failures() -> None:
    assert sentence(OSError(2, "No such file or directory", "/x")) == "/x: No such file or directory"
    assert (
        sentence(PermissionError(13, "Permission denied", "/x"))
        == "/x: Permission denied; run as a user who may use it"
    )
    assert sentence(KeyError("x")) is None
    assert sentence(ValueError("x")) is None
