"""The takeover procedures on each real target's behaviour: what is sent, and what is left on the unit."""

from __future__ import annotations

import pytest

from pyproxy.reservation.classify import Decision, Source
from pyproxy.reservation.facts import Nexus
from pyproxy.scsi.command import Result
from tests.unit.reservation.takeover_bench import (
    OTHER,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    Bench,
    K,
    M,
    N,
    holding,
)
from tests.unit.reservation.targets import TARGETS, LioWithoutNames, Spdk, Target, Tgt


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("kind", [1, 3, 5, 6])
def test_p1_moves_what_the_source_holds(make: type[Target], kind: int) -> None:
    bench = Bench(holding(make(), kind, aptpl=True), alive=True, held=kind)
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert outcome.procedure == "P1"
    assert bench.sent == [
        ("d", REGISTER, 0, K),
        ("s", REGISTER, K, N),
        ("d", PREEMPT, K, N),
    ]
    assert bench.target.regs == {"o": OTHER, "d": K}
    assert (bench.target.kind, bench.target.holder) == (kind, "d")
    assert bench.target.aptpl, "APTPL is the unit's and stays what it was"
    assert (outcome.key, outcome.type, outcome.aptpl) == (K, kind, True)
    assert outcome.attentions == (), "what our own PREEMPT told the source is not the guest's"
    assert not bench.target.attentions.get("s")


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize(("kind", "holder"), [(7, "s"), (8, "s"), (None, "s"), (1, "o"), (6, "o")])
def test_p3_moves_a_registration_that_holds_nothing_alone(make: type[Target], kind: int | None, holder: str) -> None:
    held = kind if holder == "s" else None
    bench = Bench(holding(make(), kind, holder=holder), alive=True, held=held)
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert outcome.procedure == "P3"
    assert bench.sent == [("d", REGISTER, 0, K), ("s", REGISTER, K, 0)]
    assert bench.target.regs == {"o": OTHER, "d": K}
    assert bench.target.kind == kind
    assert outcome.type == held
    assert outcome.attentions == ()


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("kind", [1, 3, 5, 6, None])
def test_p2_moves_from_a_dead_source(make: type[Target], kind: int | None) -> None:
    bench = Bench(holding(make(), kind, aptpl=make is not Tgt), alive=False, held=kind)
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert outcome.procedure == "P2"
    abort = [("d", PREEMPT_AND_ABORT, M, K)]
    plain = [] if bench.target.preempt_and_abort else [("d", PREEMPT, M, K)]
    assert bench.sent == [("d", REGISTER, 0, M), *abort, *plain, ("d", REGISTER, M, K)]
    assert bench.target.regs == {"o": OTHER, "d": K}
    assert bench.target.holder == ("d" if kind is not None else None)
    assert bench.target.kind == kind


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("kind", [7, 8])
def test_p2_under_all_registrants_is_refused_on_tgt_only(make: type[Target], kind: int) -> None:
    bench = Bench(holding(make(), kind), alive=False, held=kind)
    outcome = bench.run()
    if make is Tgt:
        assert outcome.decision is Decision.UNSUPPORTED
        assert "without the source" in outcome.sentence
        assert bench.sent == []
    else:
        assert outcome.decision is Decision.TAKEN_OVER
        assert bench.target.regs == {"o": OTHER, "d": K}
        assert bench.target.kind == kind


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("kind", [5, 8, None])
def test_bystanders_that_share_the_key_stay_with_p1_and_p3_and_stop_p2(make: type[Target], kind: int | None) -> None:
    def shared() -> Target:
        target = holding(make(), kind)
        target.regs |= {"b1": K, "b2": K}
        return target

    bench = Bench(shared(), alive=True, held=kind)
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert bench.target.regs == {"o": OTHER, "b1": K, "b2": K, "d": K}
    assert bench.target.kind == kind
    if kind == 5:
        assert bench.target.holder == "d"
    bench = Bench(shared(), alive=False, held=kind)
    outcome = bench.run()
    if make is Tgt and kind == 8:
        assert outcome.decision is Decision.UNSUPPORTED
    else:
        assert outcome.decision is Decision.SHARED_KEY
        assert "3 times" in outcome.sentence
    assert bench.sent == []


@pytest.mark.parametrize("make", TARGETS)
def test_a_sibling_with_the_same_key_holds_and_keeps_it(make: type[Target]) -> None:
    target = holding(make(), 5)
    target.regs["b1"] = K
    target.holder = "b1"
    bench = Bench(target, alive=True)
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert outcome.type is None
    assert (target.kind, target.holder) == (5, "b1")
    assert target.regs == {"o": OTHER, "b1": K, "d": K}


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("alive", [True, False])
def test_fenced_before_the_start(make: type[Target], alive: bool) -> None:
    bench = Bench(holding(make(), 5), alive=alive, held=5)
    assert bench.target.preempt("o", OTHER, K, 5).good
    outcome = bench.run()
    assert outcome.decision is Decision.FENCED
    assert bench.sent == [], "nothing is replayed"
    assert outcome.key == 0
    codes = [(one.asc, one.ascq) for one in outcome.attentions]
    assert codes == ([(0x2A, 0x03)] if make is Tgt and alive else [(0x2A, 0x05)])
    assert "FENCED" in outcome.sentence


@pytest.mark.parametrize("make", TARGETS)
def test_fenced_while_the_source_has_the_nonce_is_honoured(make: type[Target]) -> None:
    bench = Bench(holding(make(), 6), alive=True, held=6)

    def fence_before_preempt(command: object) -> None:
        if bench.target.regs.get("s") == N and bench.target.regs.get("d") == K:
            bench.target.preempt("o", OTHER, K, 6)

    bench.d.fault = fence_before_preempt  # type: ignore[assignment]
    outcome = bench.run()
    assert outcome.decision is Decision.FENCED
    assert bench.sent[-1] == ("s", REGISTER, N, 0)
    assert bench.target.regs == {"o": OTHER}
    assert bench.target.kind is None
    assert [(one.asc, one.ascq) for one in outcome.attentions] == [(0x2A, 0x03 if make is Tgt else 0x05)]


@pytest.mark.parametrize("make", TARGETS)
def test_cleared_by_another_initiator(make: type[Target]) -> None:
    bench = Bench(holding(make(), 1), alive=True, held=1)
    bench.target.clear()
    outcome = bench.run()
    assert outcome.decision is Decision.FENCED
    assert bench.sent == []
    assert outcome.attentions[0].asc == 0x2A


@pytest.mark.parametrize("make", TARGETS)
def test_power_loss_without_persistence(make: type[Target]) -> None:
    bench = Bench(holding(make(), 1), alive=False, held=1)
    bench.target.regs, bench.target.kind, bench.target.holder, bench.target.generation = {}, None, None, 0
    outcome = bench.run()
    assert outcome.decision is Decision.POWER_LOST
    assert [(one.asc, one.ascq) for one in outcome.attentions] == [(0x29, 0x00)]
    assert bench.sent == []


@pytest.mark.parametrize("make", TARGETS)
def test_a_destination_registered_with_another_key_is_left_alone(make: type[Target]) -> None:
    for alive in (True, False):
        target = holding(make(), 1)
        target.regs["d"] = 0xD00D
        bench = Bench(target, alive=alive, held=1)
        outcome = bench.run()
        assert outcome.decision is Decision.DESTINATION_BUSY
        assert target.regs == {"o": OTHER, "s": K, "d": 0xD00D}
        assert (target.kind, target.holder) == (1, "s")


@pytest.mark.parametrize("make", TARGETS)
def test_neither_a_source_nor_the_word_that_it_is_dead(make: type[Target]) -> None:
    bench = Bench(holding(make(), 1), alive=False, held=1)
    outcome = bench.run(source=Source.ABSENT)
    assert outcome.decision is Decision.SOURCE_NEEDED
    assert bench.sent == []


@pytest.mark.parametrize("make", TARGETS)
def test_source_and_destination_are_one_nexus(make: type[Target]) -> None:
    bench = Bench(holding(make(), 5), alive=True, held=5)
    bench.d = bench.s
    named = bench.run(destination_nexus=bench.facts.source_nexus)
    assert named.decision is Decision.SAME_NEXUS
    assert bench.sent == []
    probed = bench.run(destination_nexus=None, source_nexus=None)
    assert probed.decision is Decision.SAME_NEXUS
    assert bench.sent == []
    told = bench.run(same_device=True)
    assert told.decision is Decision.SAME_NEXUS
    assert told.type == 5
    assert bench.target.holder == "s"


def test_spdk_answers_good_to_a_preempt_of_nobody_and_is_not_believed() -> None:
    bench = Bench(holding(Spdk(), None), alive=False)
    target = bench.target

    def fence_before_preempt(command: object) -> None:
        if getattr(command, "cdb", b"")[:2] == bytes([0x5F, PREEMPT]):
            target.preempt("o", OTHER, K, 1)

    bench.d.fault = fence_before_preempt  # type: ignore[assignment]
    outcome = bench.run()
    assert outcome.decision is Decision.UNDECIDED
    assert K not in target.regs.values()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: setattr(t, "generation", t.generation + 1), "PRGENERATION is 101, in the checkpoint 100"),
        (lambda t: t.regs.update(x=0x77), "new 0x0000000000000077"),
        (lambda t: t.regs.pop("o"), "gone 0x0000000000000bad"),
        (lambda t: setattr(t, "kind", 3), "EXCLUSIVE ACCESS"),
        (lambda t: (setattr(t, "kind", None), setattr(t, "holder", None)), "the reservation is none"),
    ],
)
def test_a_dead_source_needs_a_checkpoint_that_is_not_older(change: object, words: str) -> None:
    target = holding(Tgt(), 1)
    bench = Bench(target, alive=False, held=1)
    change(target)  # type: ignore[operator]
    outcome = bench.run()
    assert outcome.decision is Decision.OLDER
    assert words in outcome.sentence
    assert bench.sent == []


def test_full_status_proves_the_source_where_prgeneration_cannot() -> None:
    bench = Bench(holding(Target(), 1), alive=False, held=1)
    bench.target.generation += 7
    assert bench.run().decision is Decision.TAKEN_OVER
    bench = Bench(holding(Target(), 1), alive=False, held=1)
    bench.target.generation += 7
    assert bench.run(source_nexus=None).decision is Decision.OLDER


def test_a_live_source_that_is_not_registered_while_others_have_the_key() -> None:
    target = holding(Target(), None)
    bench = Bench(target, alive=True)
    del target.regs["s"]
    target.regs["x"] = K
    outcome = bench.run()
    assert outcome.decision is Decision.OLDER
    assert bench.sent == []


def test_a_live_source_registered_with_another_key() -> None:
    target = holding(Target(), 1)
    bench = Bench(target, alive=True, held=1)
    target.regs["s"] = 0x4711
    outcome = bench.run()
    assert outcome.decision is Decision.OLDER
    assert bench.sent == []


def test_a_type_the_source_changed_since_is_adopted() -> None:
    target = holding(Target(), 1)
    bench = Bench(target, alive=True, held=1)
    target.kind = 3
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert outcome.type == 3
    assert (target.kind, target.holder) == (3, "d")


def test_a_wrong_name_for_the_destination_is_found_out() -> None:
    bench = Bench(holding(Target(), 5), alive=True, held=5)
    outcome = bench.run(destination_nexus=Nexus(Target().transport_id("zz"), 9))
    assert outcome.decision is Decision.TAKEN_OVER
    assert bench.target.regs == {"o": OTHER, "d": K}


@pytest.mark.parametrize("alive", [True, False])
def test_every_register_repeats_the_aptpl_value_in_force_also_a_probe(alive: bool) -> None:
    bench = Bench(holding(LioWithoutNames(), 5, aptpl=True), alive=alive, held=5)
    assert bench.run(aptpl=False).decision is Decision.TAKEN_OVER
    registers = [one for one in bench.target.sent if one[1] == REGISTER]
    assert any(key == sa_key for _, _, key, sa_key, *_ in registers), "the target names nobody, so nexuses are asked"
    assert all(aptpl for *_, aptpl in registers)


def test_a_nonce_left_on_a_dead_source_is_named_and_removed_when_the_source_is_back() -> None:
    bench = Bench(holding(Target(), 5), alive=True, held=5)
    bench.d.fault = lambda command: Result(0, host_status=1) if command.cdb[:2] == b"\x5f\x04" else None
    assert bench.run().decision is Decision.UNSETTLED
    bench.d.fault = lambda _command: None
    assert bench.target.preempt("o", OTHER, K, 5).good
    dead = bench.run(source=Source.DEAD)
    assert dead.decision is Decision.FENCED
    assert "still registered with 0x00000000000000a1" in dead.sentence
    back = bench.run(source=Source.ALIVE)
    assert back.decision is Decision.FENCED
    assert bench.target.regs == {"o": OTHER}
