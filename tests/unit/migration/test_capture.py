"""A checkpoint is made only of a claim that the device confirms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.migration.capture import CheckpointRefusedError, take_checkpoint
from pyproxy.migration.checkpoint import Checkpoint
from pyproxy.migration.unit import identify
from pyproxy.reservation.state import NexusState
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import TransportId

K = 0x1122334455667788


def pr_out(nexus: EmulatedNexus, action: int, key: int, sa_key: int = 0, kind: int = 0) -> None:
    assert nexus.execute(Command(PrOut(action, 0, kind, 24).encode(), ParameterList(key, sa_key).encode())).good


@pytest.fixture
def unit() -> EmulatedUnit:
    return EmulatedUnit(1 << 16, serial="capture", power_on_attention=False)


@pytest.fixture
def nexus(unit: EmulatedUnit) -> EmulatedNexus:
    port = unit.nexus(TransportId.parse("naa.5000000000000001"), 3)
    pr_out(port, 0, 0, K)
    pr_out(port, 1, K, 0, 5)
    return port


HELD = NexusState(key=K, type=PrType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, aptpl=True, epoch=4)


def take(nexus: EmulatedNexus, state: NexusState, **changed: Any) -> Checkpoint:
    arguments = {"identity": identify(nexus).identity, "created_at": "2026-01-02T03:04:05Z"} | changed
    return take_checkpoint(nexus, guest="web1", lun=2, state=state, **arguments)


def test_what_the_device_shows_is_written_down(unit: EmulatedUnit, nexus: EmulatedNexus) -> None:
    other = unit.nexus(TransportId.parse("naa.5000000000000002"))
    pr_out(other, 0, 0, 0xAA)
    checkpoint = take(nexus, HELD)
    assert (checkpoint.guest, checkpoint.lun, checkpoint.epoch) == ("web1", 2, 4)
    assert (checkpoint.key, checkpoint.held) == (K, 5)
    assert sorted(checkpoint.keys) == [0xAA, K]
    assert checkpoint.reservation.type == 5
    assert checkpoint.nexus.aptpl is False, "PTPL_A of the device counts, not what was tracked"
    assert checkpoint.nexus.transport_id == "sas:5000000000000001", "the one nexus with this key names itself"
    assert checkpoint.nexus.rtpi == 3
    assert checkpoint.unit.name == identify(nexus).identity.name


def test_a_nexus_that_shares_its_key_is_not_guessed(unit: EmulatedUnit, nexus: EmulatedNexus) -> None:
    pr_out(unit.nexus(TransportId.parse("naa.5000000000000002")), 0, 0, K)
    assert take(nexus, HELD).nexus.transport_id is None
    named = replace(HELD, transport_id=nexus.initiator)
    assert take(nexus, named).nexus.rtpi == 3


def test_a_guest_without_registration(unit: EmulatedUnit) -> None:
    nexus = unit.nexus(TransportId.parse("naa.5000000000000001"))
    checkpoint = take(nexus, NexusState())
    assert (checkpoint.key, checkpoint.held, checkpoint.keys) == (0, None, ())


def test_unit_attentions_travel_and_stay_the_guests(unit: EmulatedUnit, nexus: EmulatedNexus) -> None:
    unit.reset()
    received: list[Sense] = []
    pending = (Sense(6, 0x2A, 0x09), Sense(6, 0x29, 0x03))
    checkpoint = take(nexus, HELD, pending=pending, on_attention=received.append)
    assert [one.code for one in received] == [(6, 0x29, 0x03)]
    assert [one.code for one in checkpoint.pending] == [(6, 0x2A, 0x09), (6, 0x29, 0x03)]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (replace(HELD, spc2_reserved=True), "SPC-2 RESERVE"),
        (HELD.suspected("restart"), "restart"),
        (replace(HELD, all_tg_pt=True), "ALL_TG_PT"),
        (replace(HELD, key=0x55), "tracked as registered with 0x0000000000000055"),
        (replace(HELD, type=PrType.EXCLUSIVE_ACCESS), "tracked as holder of EXCLUSIVE ACCESS"),
        (replace(HELD, type=None), "without a reservation"),
        (replace(HELD, transport_id=TransportId.parse("naa.5000000000000009"), rtpi=1), "READ FULL STATUS"),
        (NexusState(transport_id=TransportId.parse("naa.5000000000000001"), rtpi=3), "READ FULL STATUS"),
    ],
)
def test_what_cannot_be_moved_or_is_not_true_is_refused(nexus: EmulatedNexus, state: NexusState, words: str) -> None:
    with pytest.raises(CheckpointRefusedError, match="guest web1 on naa") as caught:
        take(nexus, state)
    assert words in str(caught.value)


def test_a_unit_without_a_unique_name_is_refused(nexus: EmulatedNexus) -> None:
    with pytest.raises(CheckpointRefusedError, match="no world-wide unique name"):
        take(nexus, HELD, identity=LogicalUnitIdentity(()))


def test_an_spc2_reservation_on_the_device_is_refused(unit: EmulatedUnit) -> None:
    nexus = unit.nexus(TransportId.parse("naa.5000000000000001"))
    assert nexus.execute(Command(bytes([0x16, 0, 0, 0, 0, 0]))).good
    with pytest.raises(CheckpointRefusedError, match=r"cannot be read.*SPC-2"):
        take(nexus, NexusState())


def test_a_device_that_vanishes(nexus: EmulatedNexus) -> None:
    class Gone:
        name = "/dev/sg9"

        def execute(self, command: Command) -> Result:
            raise OSError(19, "No such device")

    with pytest.raises(CheckpointRefusedError, match="No such device"):
        take_checkpoint(
            Gone(),
            guest="web1",
            lun=0,
            state=HELD,
            identity=identify(nexus).identity,
            created_at="2026-01-02T03:04:05Z",
        )
