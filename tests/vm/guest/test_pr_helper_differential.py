"""5,000 generated requests to qemu-pr-helper and to pyproxy on the same LIO unit: the same bytes or the same close.

Conversations with PREEMPT AND ABORT are held on a unit behind iSCSI, where that command ends, the others on one behind
tcm_loop, which is quicker (see ``tests.vm.rig.lio``).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pyproxy.unit import GuestUnit
from tests.unit.pr_helper.differences import ALLOWED, Comparison
from tests.unit.pr_helper.exchange import OTHERS_KEYS, Answer, Client, Generator, Step
from tests.unit.pr_helper.qemu import qemu_pr_helper
from tests.vm.rig.lio import LioUnit, create_unit
from tests.vm.rig.pr_helper import helper

REQUESTS = 5000
STRANGE = ("read-only", "write-only", "null", "regular", "directory", "pipe")


@contextmanager
def descriptors(disk: Path, directory: Path) -> Iterator[dict[str, int]]:
    (directory / "regular").touch(exist_ok=True)
    reading, writing = os.pipe()
    opened = {
        "rw": os.open(disk, os.O_RDWR | os.O_NONBLOCK),
        "read-only": os.open(disk, os.O_RDONLY | os.O_NONBLOCK),
        "write-only": os.open(disk, os.O_WRONLY | os.O_NONBLOCK),
        "null": os.open("/dev/null", os.O_RDWR),
        "regular": os.open(directory / "regular", os.O_RDWR),
        "directory": os.open(directory, os.O_RDONLY),
        "pipe": reading,
    }
    try:
        yield opened
    finally:
        for descriptor in (*opened.values(), writing):
            os.close(descriptor)


PREEMPT, PREEMPT_AND_ABORT = 4, 5
Plan = list[tuple[int, dict[str, int]]]


def action_of(step: Step) -> int | None:
    """The service action of PERSISTENT RESERVE OUT, None for everything else."""
    return step.cdb[1] & 0x1F if len(step.cdb) == 16 and step.cdb[0] == 0x5F else None


class Bystander:
    """What the other nexus does before a conversation, the same for both sides."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def plan(self) -> Plan:
        if self.random.random() < 0.5:
            return []
        key = self.random.choice(OTHERS_KEYS)
        plan = [(6, {"sa_key": key})]
        if self.random.random() < 0.6:
            plan.append((1, {"key": key, "type_": self.random.choice((1, 3, 5, 6, 7, 8))}))
        return plan


def may_upset_lio(step: Step, plan: Plan) -> bool:
    """Whether LIO might never end the command, or go on with a registration that it has just freed.

    PREEMPT AND ABORT waits in tcm_loop for the very work queue it runs in. The rest is PREEMPT of the caller's own key
    while another nexus or nobody holds, and PREEMPT of an all-registrants reservation with key 0 while another
    registrant is the nominal holder.
    """
    if action_of(step) == PREEMPT_AND_ABORT:
        return True
    if action_of(step) != PREEMPT or len(step.parameter_list) < 16:
        return False
    key, sa_key = step.parameter_list[:8], step.parameter_list[8:16]
    return key == sa_key != bytes(8) or (sa_key == bytes(8) and bool(plan))


def relative(steps: list[Step], answers: list[Answer], base: int) -> list[Answer]:
    """Count PRGENERATION from where the conversation began: both sides use the same unit, one after the other."""
    out = []
    for step, answer in zip(steps, answers, strict=False):
        counted = len(step.cdb) == 16 and step.cdb[0] == 0x5E and step.cdb[1] & 0x1F in (0, 1, 3)
        if counted and answer.status == 0 and len(answer.data) >= 4:
            generation = (int.from_bytes(answer.data[:4], "big") - base) & 0xFFFFFFFF
            answer = replace(answer, data=generation.to_bytes(4, "big") + answer.data[4:])
        out.append(answer)
    return out + answers[len(out) :]


def wipe(unit: LioUnit) -> None:
    """End every registration, and have the guest's nexus and the bystander told of it."""
    guests, other = unit.nexuses[0].direct, unit.nexuses[1].direct
    # LIO refuses a nexus that registered with ALL_TG_PT every later REGISTER without it, so the other one wipes.
    other.drained(lambda: other.persistent_reserve_out(6, sa_key=1))
    other.drained(lambda: other.persistent_reserve_out(3, key=1))
    guests.drain_unit_attentions()
    other.drain_unit_attentions()
    assert not unit.registered


def hold(path: Path, unit: LioUnit, plan: Plan, steps: list[Step], opened: dict[str, int]) -> list[Answer]:
    """One conversation with one helper, after the bystander did what it plans to."""
    other = unit.nexuses[1].direct
    for action, arguments in plan:
        assert other.persistent_reserve_out(action, **arguments).good
    base = unit.generation
    with Client(path) as client:
        return relative(steps, client.hold(steps, opened), base)


@dataclass
class Stage:
    """One unit, the guest's descriptors of its disk and what their names stand for, and pyproxy's unit there."""

    unit: LioUnit
    opened: dict[str, int]
    guest_unit: GuestUnit

    def compare(self, theirs: Path, ours: Path, plan: Plan, steps: list[Step]) -> tuple[list[Answer], list[Answer]]:
        """Hold one conversation with both."""
        wipe(self.unit)
        reference = hold(theirs, self.unit, plan, steps, self.opened)
        wipe(self.unit)
        # That was done through the guest's own nexus: it is no loss to tell the guest of.
        self.guest_unit.resync()
        pending = self.guest_unit.snooper.attentions
        pending.discard(*(sense.code for sense in pending.pending))
        return reference, hold(ours, self.unit, plan, steps, self.opened)


@pytest.mark.vm_timeout(900)
def test_the_same_requests_get_the_same_answers(tmp_path):
    # Never taken down: LIO holds on to something of what it was sent here, and removing the unit never returns.
    unit = create_unit(2)
    nexus = unit.nexuses[0]
    generator, bystander, comparison = Generator(7, STRANGE), Bystander(8), Comparison()
    good: Counter[int] = Counter()
    with ExitStack() as stack:
        theirs = stack.enter_context(qemu_pr_helper(tmp_path))
        ours = stack.enter_context(helper(tmp_path, nexus))
        opened = stack.enter_context(descriptors(nexus.sd, tmp_path))
        stage = Stage(unit, opened, ours.units[nexus.nodes.address])
        while comparison.requests < REQUESTS:
            plan = bystander.plan()
            steps = [step for step in generator.conversation(14) if not may_upset_lio(step, plan)]
            reference, answers = stage.compare(theirs, ours.path, plan, steps)
            comparison.compare(steps, reference, answers, f"after {comparison.requests} requests, bystander {plan}")
            good.update(
                action
                for step, answer in zip(steps, reference, strict=False)
                if answer.status == 0 and (action := action_of(step)) is not None
            )
        straight = ours.server.counts().straight
    print(f"differences {comparison.differences}, GOOD by service action {good}, {straight} passed straight")
    assert straight > REQUESTS / 50, "hardly any request passed straight"
    # Each of them is met: a difference that no longer exists must leave the list.
    assert set(comparison.differences or {}) == {one.name for one in ALLOWED}
    assert good.keys() == set(range(7)) - {PREEMPT_AND_ABORT}, "of a service action none ended with GOOD"
