"""Registrations made without us are taken over where that can be known, and reported where it cannot.

guest g, LUN 0 ── nexus A ──┐
sibling ───────── nexus B ──┼── logical unit
another host ──── nexus C ──┘
"""

from __future__ import annotations

import json

import pytest

from pyproxy.device.base import TransportError
from pyproxy.reservation.adopt import Adoption, Decision, adopt
from pyproxy.reservation.snapshot import SnapshotError, SnapshotFailure, drive
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.base import StoreError
from pyproxy.store.sqlite import SqliteStore
from tests.unit.reservation.script import LOST, NOT_SENT, check
from tests.unit.reservation.snooping import LUN, break_store, mend_store
from tests.unit.reservation.targets import GOOD, LioWithoutNames, Port, Target, Tgt

K, F = 0x1111, 0x9999
UNKNOWN = NexusState()


def unnamed(**settings: object) -> Target:
    """A unit without READ FULL STATUS."""
    return Target(full_status=False, **settings)  # type: ignore[arg-type]


def ask(target: Target, tracked: NexusState = UNKNOWN, key: int | None = None) -> Adoption:
    return drive(adopt(tracked, key), target.port("A").execute)


def named(target: Target, **fields: object) -> NexusState:
    return NexusState(transport_id=target.transport_id("A"), **fields)  # type: ignore[arg-type]


def snooper_of(store: SqliteStore, state: NexusState | None = None) -> Snooper:
    if state is not None:
        store.save_nexus("g", LUN, encode_state(state), epoch=0)
    return Snooper("g", 0, LUN, store, migrate_pr=True)


# where the device names the nexus


@pytest.mark.parametrize("held", [None, 1, 5, 7])
def test_full_status_decides_without_a_probe(held: int | None) -> None:
    target = Target(regs={"A": K, "B": F}, kind=held, holder="A" if held else None)
    found = ask(target, named(target))
    assert (found.decision, found.probed, target.sent) == (Decision.LISTED, (), [])
    assert found.state is not None
    assert (found.state.key, found.state.type, found.state.fresh) == (K, held, True)


def test_shared_key_and_reservation_are_no_ambiguity_to_full_status() -> None:
    target = Target(regs={"A": K, "B": K}, kind=1, holder="B")
    found = ask(target, named(target))
    assert found.state is not None
    assert (found.decision, found.state.key, found.state.type) == (Decision.LISTED, K, None)


def test_full_status_without_the_nexus_is_no_registration() -> None:
    target = Target(regs={"B": K})
    found = ask(target, named(target))
    assert (found.decision, target.sent) == (Decision.NOT_REGISTERED, [])
    assert found.state is not None
    assert found.state.key == 0


def test_full_status_contradicts_the_operator() -> None:
    target = Target(regs={"A": K, "B": F})
    found = ask(target, named(target), F)
    assert (found.decision, found.state, target.sent) == (Decision.OTHER_KEY, None, [])
    assert found.sentence.startswith(
        "READ FULL STATUS lists it with key 0x0000000000001111, not with 0x0000000000009999; leave the key out"
    )


def test_a_wrong_transport_id_is_found_out_by_naming_the_key() -> None:
    target = Target(regs={"A": K, "B": F})
    wrong = NexusState(transport_id=target.transport_id("X"))
    assert ask(target, wrong).decision is Decision.NOT_REGISTERED
    found = ask(target, wrong, K)
    assert found.decision is Decision.PROBED
    assert found.state is not None
    assert (found.state.key, found.state.transport_id) == (K, target.transport_id("A"))


def test_two_target_ports_and_ours_unknown_are_told_apart_by_asking() -> None:
    class TwoPorts(Target):
        def transport_id(self, name: str) -> TransportId:
            return super().transport_id("A" if name == "A2" else name)

    target = TwoPorts(regs={"A2": F, "A": K}, kind=1, holder="A")
    found = ask(target, named(target))
    assert found.decision is Decision.PROBED
    assert found.state is not None
    assert (found.state.key, found.state.type) == (K, 1)


# where it has to be asked


@pytest.mark.parametrize("kind", [LioWithoutNames, Tgt, unnamed])
@pytest.mark.parametrize("held", [None, 1, 8])
def test_the_probe_finds_the_key_and_changes_nothing(kind: type[Target], held: int | None) -> None:
    target = kind(regs={"B": F, "A": K}, kind=held, holder="A" if held else None)
    before = (dict(target.regs), target.kind, target.holder, target.aptpl)
    found = ask(target)
    assert (found.decision, found.probed) == (Decision.PROBED, (F, K))
    assert found.state is not None
    assert (found.state.key, found.state.type, found.state.fresh) == (K, held, True)
    assert (target.regs, target.kind, target.holder, target.aptpl) == before
    assert target.sent == [("A", 0, F, F, 0, False), ("A", 0, K, K, 0, False)]


@pytest.mark.parametrize("aptpl", [False, True])
def test_the_probe_keeps_the_aptpl_in_force(aptpl: bool) -> None:
    target = unnamed(regs={"A": K}, aptpl=aptpl)
    found = ask(target)
    assert target.sent == [("A", 0, K, K, 0, aptpl)]
    assert found.state is not None
    assert found.state.aptpl is aptpl


def test_a_named_key_is_the_only_one_tried() -> None:
    target = unnamed(regs={"B": F, "A": K})
    assert ask(target, key=K).probed == (K,)
    assert ask(target, key=F).decision is Decision.KEY_NOT_OURS
    assert ask(target, key=0x77).decision is Decision.KEY_NOT_REGISTERED
    assert [sent[2] for sent in target.sent] == [K, F]


def test_the_tracked_key_is_tried_first() -> None:
    target = unnamed(regs={"B": F, "A": K})
    assert ask(target, NexusState(key=K, suspect=("ambiguous-key",))).probed == (K,)


def test_what_is_tracked_and_seen_is_not_probed() -> None:
    target = unnamed(regs={"B": F, "A": K})
    found = ask(target, NexusState(key=K))
    assert (found.decision, target.sent) == (Decision.TRACKED, [])


def test_no_key_is_ours() -> None:
    target = unnamed(regs={"B": F, "C": K}, kind=7, holder="B")
    found = ask(target)
    assert (found.decision, found.probed) == (Decision.NOT_REGISTERED, (F, K))
    assert found.state is not None
    assert (found.state.key, found.state.type, found.state.fresh) == (0, None, True)


def test_nobody_is_registered() -> None:
    target = unnamed()
    assert (ask(target).decision, target.sent) == (Decision.NOT_REGISTERED, [])


def test_a_shared_key_with_its_reservation_is_ambiguous() -> None:
    target = unnamed(regs={"A": K, "B": K}, kind=1, holder="A")
    found = ask(target)
    assert found.decision is Decision.AMBIGUOUS_HOLDER
    assert not found.decision.certain
    assert found.state is not None
    assert (found.state.key, found.state.type, found.state.suspect) == (K, None, ("ambiguous-holder",))
    assert "2 nexuses share key 0x0000000000001111 and one of them holds WRITE_EXCLUSIVE" in found.sentence


@pytest.mark.parametrize(("kind", "holder"), [(None, None), (7, "A"), (1, "C")])
def test_a_shared_key_alone_is_not(kind: int | None, holder: str | None) -> None:
    target = unnamed(regs={"A": K, "B": K, "C": F}, kind=kind, holder=holder)
    found = ask(target)
    assert found.state is not None
    assert (found.decision, found.state.key, found.state.fresh) == (Decision.PROBED, K, True)
    assert found.state.type == (7 if kind == 7 else None)


def test_unit_attentions_do_not_answer_the_probe() -> None:
    target = unnamed(regs={"A": K})
    port = target.port("A")
    told = [check(6, 0x2A, 0x05), check(6, 0x29, 0x00)]

    def fault(command: Command) -> Result | None:
        return told.pop() if told and command.cdb[0] == 0x5F else None

    port.fault = fault
    assert drive(adopt(UNKNOWN), port.execute).decision is Decision.PROBED
    assert len(target.sent) == 1


def test_a_device_that_keeps_resetting_ends_it() -> None:
    port = unnamed(regs={"A": K}).port("A")
    port.fault = lambda command: check(6, 0x29, 0x00) if command.cdb[0] == 0x5F else None
    with pytest.raises(SnapshotError, match="10 unit attentions") as caught:
        drive(adopt(UNKNOWN), port.execute)
    assert caught.value.reason is SnapshotFailure.UNIT_ATTENTIONS


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (check(5, 0x24, 0x00), "status 02h, 05/24/00"),
        (check(2, 0x08, 0x00), "status 02h, 02/08/00"),
        (Result(0x08), "status 08h"),
        (Result(0, host_status=3), "host status 0x3"),
    ],
)
def test_another_answer_to_the_probe_is_not_taken_for_one(answer: Result, told: str) -> None:
    port = unnamed(regs={"B": F, "A": K}).port("A")
    port.fault = lambda command: answer if command.cdb[0] == 0x5F else None
    found = drive(adopt(UNKNOWN), port.execute)
    assert (found.decision, found.state, found.probed) == (Decision.PROBE_REFUSED, None, (F,))
    assert told in found.sentence


def test_unknown_aptpl_is_not_overwritten() -> None:
    target = unnamed(regs={"A": K})
    port = target.port("A")
    port.fault = lambda command: check(5, 0x24, 0) if command.cdb[:2] == b"\x5e\x02" else None
    found = drive(adopt(UNKNOWN), port.execute)
    assert (found.decision, found.state, target.sent) == (Decision.APTPL_UNKNOWN, None, [])
    assert drive(adopt(NexusState(aptpl=True)), port.execute).decision is Decision.PROBED
    assert target.sent == [("A", 0, K, K, 0, True)]


def test_too_many_keys_are_not_tried() -> None:
    target = unnamed(regs={f"n{number}": number for number in range(1, 66)})
    assert (ask(target).decision, target.sent) == (Decision.TOO_MANY_KEYS, [])
    assert ask(target, key=5).decision is Decision.KEY_NOT_OURS


def test_a_key_that_appears_meanwhile_leaves_it_open() -> None:
    target = unnamed(regs={"B": F})
    port = target.port("A")

    def register(command: Command) -> None:
        if command.cdb[0] == 0x5F:
            target.regs["C"] = 0x77

    port.fault = register
    found = drive(adopt(UNKNOWN), port.execute)
    assert (found.decision, found.state) == (Decision.CHANGED, None)


def test_a_registration_that_goes_meanwhile_is_not_adopted() -> None:
    target = unnamed(regs={"A": K})

    def execute(command: Command) -> Result:
        result = target.execute("A", command)
        if command.cdb[0] == 0x5F:
            target.clear()
            target.attentions.clear()
        return result

    found = drive(adopt(UNKNOWN), execute)
    assert (found.decision, found.state) == (Decision.CHANGED, None)


# through the snooper: recorded, the guest's unit attentions kept


def test_adopted_state_is_durable_and_each_probe_recorded(store: SqliteStore) -> None:
    target = unnamed(regs={"B": F, "A": K}, kind=1, holder="A", aptpl=True)
    snooper = snooper_of(store)
    found = snooper.adopt(target.port("A").execute)
    assert found.decision is Decision.PROBED
    assert (snooper.state.key, snooper.state.type, snooper.state.fresh) == (K, 1, True)
    again = snooper_of(store)
    assert (again.state.key, again.state.type) == (K, 1)
    intents = store.intents("g", LUN)
    assert [intent.cdb.hex() for intent in intents] == ["5f000000000000001800"] * 2
    assert [intent.parameter_list.hex() for intent in intents] == [
        key.to_bytes(8).hex() * 2 + "0000000001000000" for key in (F, K)
    ]
    assert [json.loads(intent.result or b"")["status"] for intent in intents] == [0x18, 0]
    assert store.open_intents() == []


def test_unit_attentions_of_the_probe_wait_for_the_guest(store: SqliteStore) -> None:
    target = unnamed(regs={"A": K})
    port = target.port("A")
    told = [check(6, 0x2A, 0x04)]
    port.fault = lambda command: told.pop() if told and command.cdb[0] == 0x5F else None
    snooper = snooper_of(store)
    assert snooper.adopt(port.execute).decision is Decision.PROBED
    assert [sense.code for sense in snooper.attentions.pending] == [(6, 0x2A, 0x04)]
    assert [sense.code for sense in snooper_of(store).attentions.pending] == [(6, 0x2A, 0x04)]
    # The one it was answered with was not executed, but it is recorded too.
    assert len(store.intents("g", LUN)) == 2


def test_an_open_intent_that_reading_cannot_resolve_is_resolved_by_asking(store: SqliteStore) -> None:
    target = unnamed(regs={"B": F, "A": K})
    before = encode_state(NexusState(key=F))
    store.save_nexus("g", LUN, before, epoch=0)
    store.begin_intent(
        "g",
        LUN,
        epoch=0,
        cdb=bytes.fromhex("5f000000000000001800"),
        parameter_list=F.to_bytes(8) + K.to_bytes(8) + bytes(8),
        before=before,
    )
    snooper = snooper_of(store)
    assert snooper.resync(target.port("A").execute).suspect == ("ambiguous-key",)
    assert len(store.open_intents()) == 1
    assert snooper.adopt(target.port("A").execute).decision is Decision.PROBED
    assert (snooper.state.key, snooper.state.fresh) == (K, True)
    assert store.open_intents() == []


def test_a_loss_nobody_announced_is_told_to_the_guest(store: SqliteStore) -> None:
    target = unnamed(regs={"B": K})
    snooper = snooper_of(store, NexusState(key=K, aptpl=False))
    snooper.resync(target.port("A").execute)
    assert snooper.state.key == K  # by the keys alone it might be ours
    assert snooper.adopt(target.port("A").execute).decision is Decision.TRACKED
    target.regs["C"] = F
    found = snooper.adopt(target.port("A").execute, K)
    assert (found.decision, found.probed) == (Decision.NOT_REGISTERED, (K, F))
    assert (snooper.state.key, snooper.state.fresh) == (0, True)
    assert [sense.code for sense in snooper.attentions.pending] == [(6, 0x2A, 0x05)]


def test_what_a_probe_came_to_is_not_known(store: SqliteStore) -> None:
    port = unnamed(regs={"A": K}).port("A")

    def fail(error: TransportError) -> None:
        def fault(command: Command) -> Result | None:
            if command.cdb[0] == 0x5F:
                raise error
            return None

        port.fault = fault

    snooper = snooper_of(store)
    fail(NOT_SENT)
    with pytest.raises(SnapshotError, match="REGISTER could not be sent"):
        snooper.adopt(port.execute)
    assert store.open_intents() == []
    fail(LOST)
    with pytest.raises(SnapshotError):
        snooper.adopt(port.execute)
    assert len(store.open_intents()) == 1
    assert "fate-unknown" in snooper.state.suspect
    port.fault = lambda _: None
    assert snooper.adopt(port.execute).decision is Decision.PROBED
    assert (store.open_intents(), snooper.state.fresh, snooper.state.key) == ([], True, K)


def test_no_probe_is_sent_that_cannot_be_recorded(store: SqliteStore) -> None:
    target = unnamed(regs={"A": K})
    port = target.port("A")
    told = [check(6, 0x29, 0x00)]
    port.fault = lambda command: told.pop() if told and command.cdb[0] == 0x5E else None
    snooper = snooper_of(store)
    break_store(store)
    with pytest.raises(StoreError):
        snooper.adopt(port.execute)
    assert target.sent == []
    assert [sense.code for sense in snooper.attentions.pending] == [(6, 0x29, 0x00)]
    mend_store(store)
    assert snooper.adopt(port.execute).decision is Decision.PROBED


def test_guest_goes_on_with_what_was_adopted(store: SqliteStore) -> None:
    target = unnamed(regs={"A": K})
    port: Port = target.port("A")
    snooper = snooper_of(store)
    snooper.adopt(port.execute)
    change = Command(bytes.fromhex("5f000000000000001800"), data_out=K.to_bytes(8) + F.to_bytes(8) + bytes(8))
    assert snooper.handle(change, port.execute) == GOOD
    assert (snooper.state.key, snooper.state.fresh) == (F, True)
