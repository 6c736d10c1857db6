"""The wiring: claims on nexuses, restores between two hosts over one unit, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.documents import key_text, type_text
from pyproxy.daemon.failures import NotFoundError, OperationError, sentence
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import RestoreRequest
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.migration.capture import CheckpointRefusedError
from pyproxy.migration.checkpoint import CheckpointError, decode_checkpoint
from pyproxy.reservation.registry import NexusInUseError
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.transport_id import SasTransportId, TransportId
from pyproxy.unit import GuestUnit

PORT_A = SasTransportId(bytes.fromhex("500140500000000a"))
PORT_B = SasTransportId(bytes.fromhex("500140500000000b"))
KEY = (0xC0FFEE).to_bytes(8)

MakeHost = Callable[..., Host]


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


def test_restore_moves_the_claim_and_the_guest_goes_on(host: MakeHost) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    destination = host("b", {"/dev/y": PORT_B}, guest("web", "/dev/y"))
    reserve(source.unit("web", 0))
    assert write(destination.unit("web", 0)).status == 0x18
    document = LocalOperations(source, daemon=False).checkpoint("web", None)
    found = destination.open_unit("web", 0)
    report = LocalOperations(destination, daemon=False).take_over(
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
    destination = LocalOperations(host("b", {"/dev/y": PORT_B}, guest("web", "/dev/y")), daemon=False)
    reserve(source.unit("web", 0))
    document = LocalOperations(source, daemon=False).checkpoint("web", 0)
    unsaid = destination.restore(RestoreRequest(document=document))
    assert (unsaid.succeeded, unsaid.decision, unsaid.service_actions) == (False, "source_needed", [])
    said = destination.restore(RestoreRequest(document=document, source_dead=True))
    assert (said.succeeded, said.procedure, said.key) == (True, "P2", "0x0000000000c0ffee")
    again = destination.restore(RestoreRequest(document=document, source_dead=True))
    assert (again.succeeded, again.decision, again.service_actions) == (True, "already_done", [])


def test_restore_refuses_what_does_not_fit_together(host: MakeHost, unit: EmulatedUnit) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(source.unit("web", 0))
    document = LocalOperations(source, daemon=False).checkpoint("web", 0)
    generation = unit.reservations.generation
    other = LocalOperations(host("b", {"/dev/y": PORT_B}, guest("db", "/dev/y")), daemon=False)
    with pytest.raises(NotFoundError, match=r"there is no guest web .* name the node with --device"):
        other.restore(RestoreRequest(document=document, source_dead=True))
    with pytest.raises(OperationError, match="/dev/y is LUN 0 of guest db here"):
        other.restore(RestoreRequest(document=document, source_dead=True, device="/dev/y"))
    with pytest.raises(OperationError, match="exclude each other"):
        other.restore(RestoreRequest(document=document, source_dead=True, source="/dev/y"))
    with pytest.raises(CheckpointError, match="digest"):
        other.restore(RestoreRequest(document=document.replace(b'"epoch": 0', b'"epoch": 1')))
    assert unit.reservations.generation == generation


def test_checkpoint_says_what_it_cannot_do(host: MakeHost) -> None:
    two = guest("web", "/dev/x") + '[[guest.unit]]\nlun = 1\ndevice = "/dev/y"\n'
    several = LocalOperations(host("a", {"/dev/x": PORT_A, "/dev/y": PORT_B}, two), daemon=False)
    with pytest.raises(OperationError, match=r"has 2 logical units \(LUN 0, 1\).*--lun"):
        several.checkpoint("web", None)
    off = guest("web", "/dev/x").replace("[[guest.unit]]", "migrate_pr = false\n[[guest.unit]]")
    verbatim = LocalOperations(host("b", {"/dev/x": PORT_A}, off), daemon=False)
    with pytest.raises(OperationError, match="migrate_pr is off"):
        verbatim.checkpoint("web", None)
    legacy = host("c", {"/dev/x": PORT_B}, guest("web", "/dev/x"))
    assert legacy.unit("web", 0).execute(Command(bytes.fromhex("160000000000"))).status == 0
    with pytest.raises(CheckpointRefusedError, match="SPC-2 RESERVE"):
        LocalOperations(legacy, daemon=False).checkpoint("web", None)


def test_a_checkpoint_names_keys_as_text(host: MakeHost) -> None:
    source = host("a", {"/dev/x": PORT_A}, guest("web", "/dev/x"))
    reserve(source.unit("web", 0))
    document = json.loads(LocalOperations(source, daemon=False).checkpoint("web", 0))
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
