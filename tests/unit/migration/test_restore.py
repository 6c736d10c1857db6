"""A restore against the emulated unit and a store on disk: reports, exit status, epochs, and what is made durable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.migration.capture import take_checkpoint
from pyproxy.migration.checkpoint import Checkpoint
from pyproxy.migration.restore import RestoreReport, draw_key, restore
from pyproxy.migration.unit import identify
from pyproxy.reservation.attention import decode_attentions, encode_attentions
from pyproxy.reservation.classify import Decision
from pyproxy.reservation.facts import Nexus
from pyproxy.reservation.state import NexusState, decode_state, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.sense import CAPACITY_DATA_CHANGED, Sense
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.sqlite import SqliteStore

K = 0x1122334455667788


def pr_out(nexus: EmulatedNexus, action: int, key: int, sa_key: int = 0, kind: int = 0, *, aptpl: bool = False) -> None:
    lists = ParameterList(key, sa_key, aptpl=aptpl).encode()
    assert nexus.execute(Command(PrOut(action, 0, kind, 24).encode(), lists)).good


@dataclass
class Setting:
    unit: EmulatedUnit
    s: EmulatedNexus
    d: EmulatedNexus
    store: SqliteStore

    def checkpoint(self, state: NexusState | None = None, pending: tuple[Sense, ...] = ()) -> Checkpoint:
        return take_checkpoint(
            self.s,
            guest="web1",
            lun=0,
            state=state or NexusState(key=K, type=PrType.WRITE_EXCLUSIVE, aptpl=True),
            identity=identify(self.s).identity,
            created_at="2026-01-02T03:04:05Z",
            pending=pending,
        )

    def restore(self, checkpoint: Checkpoint, **changed: Any) -> RestoreReport:
        destination = changed.pop("destination", self.d)
        arguments = {"source": self.s, "destination_nexus": Nexus(self.d.initiator, 1), "store": self.store} | changed
        return restore(checkpoint, destination, **arguments)

    def stored(self) -> tuple[NexusState, list[tuple[int, int, int]], int]:
        record = self.store.load_nexus("web1", identify(self.d).identity.name)
        assert record is not None
        return decode_state(record.state), [one.code for one in decode_attentions(record.attentions)], record.epoch


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    unit = EmulatedUnit(1 << 16, path=tmp_path / "unit", serial="restore", power_on_attention=False)
    s, d = (unit.nexus(TransportId.parse(f"naa.500000000000000{index}")) for index in (1, 2))
    pr_out(s, 0, 0, K, aptpl=True)
    pr_out(s, 1, K, 0, 1)
    store = SqliteStore(tmp_path / "store.db")
    yield Setting(unit, s, d, store)
    store.close()
    unit.close()


def write(nexus: EmulatedNexus) -> Result:
    return nexus.execute(Command(bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0]), bytes(512)))


def test_the_guest_writes_on_the_destination_and_the_source_is_refused(setting: Setting) -> None:
    report = setting.restore(setting.checkpoint(pending=(CAPACITY_DATA_CHANGED,)))
    assert (report.decision, report.exit_status, report.procedure) == (Decision.TAKEN_OVER, 0, "P1")
    assert report.service_actions == ("REGISTER", "REGISTER", "PREEMPT")
    assert write(setting.d).status == 0x00
    assert write(setting.s).status == 0x18
    assert setting.unit.reservations.aptpl, "APTPL stays what it was"
    state, attentions, epoch = setting.stored()
    assert (state.key, state.type, state.aptpl, state.epoch, state.fresh) == (K, 1, True, 1, True)
    assert (str(state.transport_id), state.rtpi, epoch) == ("sas:5000000000000002", 1, 1)
    assert attentions == [(6, 0x2A, 0x09)], "what waited for the guest on the source waits for it here"
    assert [one.code for one in report.attentions] == [(6, 0x2A, 0x09)]
    assert report.before is not None
    assert report.before.reservation_key == K
    assert report.after is not None
    assert report.after.keys == (K,)
    assert report.state == state


@pytest.mark.parametrize("kind", [0, 1, 5, 7])
@pytest.mark.parametrize("sharing", [0, 2])
def test_the_destination_learns_its_own_name(setting: Setting, kind: int, sharing: int) -> None:
    """Else a guest whose key others share could not be told from them here, and never be checkpointed again."""
    pr_out(setting.s, 2, K, 0, 1)
    if kind:
        pr_out(setting.s, 1, K, 0, kind)
    for index in range(sharing):
        pr_out(setting.unit.nexus(TransportId.parse(f"naa.500000000000000{index + 5}")), 0, 0, K, aptpl=True)
    held = PrType(kind) if kind else None
    checkpoint = setting.checkpoint(NexusState(key=K, type=held, aptpl=True, transport_id=setting.s.initiator, rtpi=1))
    assert setting.restore(checkpoint, destination_nexus=None).succeeded
    state = setting.stored()[0]
    assert (str(state.transport_id), state.rtpi) == ("sas:5000000000000002", 1)


def test_a_resumed_takeover_takes_no_bystander_for_the_destination(setting: Setting) -> None:
    """The destination was registered by the first run; what appears during the second is somebody else."""
    checkpoint = setting.checkpoint()
    cut = Broken(setting.d, 9)
    assert not setting.restore(checkpoint, destination=cut, destination_nexus=None).succeeded
    assert setting.unit.reservations.key_of(setting.d.identity) == K
    joins = setting.unit.nexus(TransportId.parse("naa.5000000000000005"))
    arrived = []

    class Joined:
        name = "/dev/sg7"

        def execute(self, command: Command) -> Result:
            result = setting.d.execute(command)
            if command.cdb[0] == 0x5F and not arrived:
                arrived.append(command)
                pr_out(joins, 0, 0, K, aptpl=True)
            return result

    assert setting.restore(checkpoint, destination=Joined(), destination_nexus=None).succeeded
    assert arrived
    assert setting.stored()[0].transport_id is None


def test_the_claim_survives_power_loss_after_a_takeover(setting: Setting) -> None:
    assert setting.restore(setting.checkpoint(), source=None, source_dead=True).succeeded
    setting.unit.power_cycle()
    assert setting.unit.reservations.key_of(setting.d.identity) == K
    assert setting.unit.reservations.holds(setting.d.identity)


def test_a_dead_source_with_preempt_and_abort(setting: Setting) -> None:
    report = setting.restore(setting.checkpoint(), source=None, source_dead=True)
    assert report.service_actions == ("REGISTER", "PREEMPT AND ABORT", "REGISTER")
    assert report.procedure == "P2"


def test_repeating_says_already_done_and_sends_nothing_but_inquiry(setting: Setting) -> None:
    checkpoint = setting.checkpoint()
    setting.restore(checkpoint)
    generation = setting.unit.reservations.generation
    again = setting.restore(checkpoint)
    assert (again.decision, again.exit_status, again.commands) == (Decision.ALREADY_DONE, 0, ())
    assert "already done" in again.sentence
    assert setting.unit.reservations.generation == generation
    assert setting.stored()[2] == 1


def test_there_and_back_again_raises_the_epoch_each_time(setting: Setting, tmp_path: Path) -> None:
    first = setting.checkpoint()
    assert setting.restore(first).succeeded
    back = take_checkpoint(
        setting.d,
        guest="web1",
        lun=0,
        state=setting.stored()[0],
        identity=identify(setting.d).identity,
        created_at="2026-01-02T03:05:05Z",
    )
    assert back.epoch == 1
    with_store = SqliteStore(tmp_path / "source.db")
    report = restore(back, setting.s, source=setting.d, store=with_store)
    assert report.decision is Decision.TAKEN_OVER
    assert report.state is not None
    assert report.state.epoch == 2
    with_store.close()


def test_a_checkpoint_older_than_the_hosts_own_knowledge_is_refused(setting: Setting) -> None:
    checkpoint = setting.checkpoint()
    name = identify(setting.d).identity.name
    setting.store.save_nexus("web1", name, encode_state(NexusState(key=K, epoch=5)), epoch=5)
    report = setting.restore(checkpoint)
    assert (report.decision, report.exit_status, report.commands) == (Decision.OLDER, 1, ())
    assert "takeover number 0" in report.sentence
    assert "number 5" in report.sentence
    assert setting.unit.reservations.key_of(setting.d.identity) is None


def test_another_unit_is_refused_after_inquiry_only(setting: Setting) -> None:
    other = EmulatedUnit(1 << 16, serial="other", power_on_attention=False)
    port = other.nexus(setting.d.initiator)
    for changed in ({"destination": port}, {"source": port}):
        report = setting.restore(setting.checkpoint(), **changed)
        assert (report.decision, report.exit_status, report.commands) == (Decision.WRONG_UNIT, 1, ())
        assert "leads to logical unit" in report.sentence
    assert other.reservations.generation == 0


class Broken:
    """A device node whose device has gone."""

    name = "/dev/sg7"

    def __init__(self, nexus: EmulatedNexus, after: int = 0) -> None:
        self.nexus = nexus
        self.left = after

    def execute(self, command: Command) -> Result:
        self.left -= 1
        if self.left < 0:
            raise OSError(19, "No such device")
        return self.nexus.execute(command)


def test_a_destination_that_vanishes_at_any_command_is_reported_and_can_be_continued(setting: Setting) -> None:
    checkpoint = setting.checkpoint()
    for after in range(20):
        report = setting.restore(checkpoint, destination=Broken(setting.d, after))
        assert report.decision in (Decision.UNSETTLED, Decision.TAKEN_OVER, Decision.ALREADY_DONE), report.sentence
        if report.succeeded:
            break
        assert report.exit_status == 1
        assert "No such device" in report.sentence
    assert setting.restore(checkpoint).succeeded
    assert setting.unit.reservations.holds(setting.d.identity)
    assert setting.unit.reservations.key_of(setting.s.identity) is None


def test_a_fenced_guest_is_stored_as_not_registered_and_will_be_told(setting: Setting) -> None:
    checkpoint = setting.checkpoint()
    fencer = setting.unit.nexus(TransportId.parse("naa.5000000000000003"))
    pr_out(fencer, 0, 0, 0xFE, aptpl=True)
    pr_out(fencer, 4, 0xFE, K, 1)
    report = setting.restore(checkpoint)
    assert (report.decision, report.exit_status, report.service_actions) == (Decision.FENCED, 1, ())
    state, attentions, epoch = setting.stored()
    assert (state.key, state.type, epoch) == (0, None, 0)
    assert attentions == [(6, 0x2A, 0x05)]
    assert setting.restore(checkpoint).decision is Decision.FENCED


def test_a_guest_without_registration(setting: Setting) -> None:
    pr_out(setting.s, 0, K, 0)
    checkpoint = setting.checkpoint(NexusState(transport_id=setting.s.initiator, rtpi=1))
    report = setting.restore(checkpoint, source=None)
    assert (report.decision, report.exit_status) == (Decision.NOT_REGISTERED, 0)
    assert (setting.stored()[0].key, setting.stored()[2]) == (0, 1)
    assert setting.restore(checkpoint, source=None).decision is Decision.ALREADY_DONE
    setting.store.forget_nexus("web1", checkpoint.unit.name)


def test_a_guest_that_registered_since(setting: Setting) -> None:
    pr_out(setting.s, 0, K, 0)
    checkpoint = setting.checkpoint(NexusState(transport_id=setting.s.initiator, rtpi=1))
    pr_out(setting.d, 0, 0, 0x77)
    assert setting.restore(checkpoint, source=None).decision is Decision.DESTINATION_BUSY
    pr_out(setting.s, 0, 0, 0x66)
    report = setting.restore(checkpoint, source=None)
    assert (report.decision, report.exit_status) == (Decision.OLDER, 1)


def test_source_and_destination_are_the_same_device(setting: Setting) -> None:
    generation = setting.unit.reservations.generation
    report = setting.restore(setting.checkpoint(), destination=setting.s, destination_nexus=None)
    assert (report.decision, report.service_actions) == (Decision.SAME_NEXUS, ())
    assert setting.unit.reservations.generation == generation
    assert setting.stored()[0].type == 1
    assert setting.stored()[2] == 1


def test_neither_source_nor_word_of_its_death(setting: Setting) -> None:
    report = setting.restore(setting.checkpoint(), source=None)
    assert (report.decision, report.exit_status, report.service_actions) == (Decision.SOURCE_NEEDED, 1, ())


def test_both_at_once_is_wrong_use(setting: Setting) -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        setting.restore(setting.checkpoint(), source_dead=True)


def test_a_registration_through_every_target_port_is_refused(setting: Setting) -> None:
    checkpoint = setting.checkpoint()
    checkpoint = msgspec.structs.replace(checkpoint, nexus=msgspec.structs.replace(checkpoint.nexus, all_tg_pt=True))
    report = setting.restore(checkpoint)
    assert (report.decision, report.commands) == (Decision.UNSUPPORTED, ())


def test_the_journal_is_closed_and_names_the_guest(setting: Setting) -> None:
    setting.restore(setting.checkpoint())
    assert setting.store.journals() == []
    [journal] = setting.store.journals(only_open=False)
    assert (journal.guest, journal.outcome) == ("web1", "taken_over")
    assert journal.nonce != 0
    assert all(step.result is not None for step in journal.steps[:3])


def test_a_refused_checkpoint_can_be_tried_again(setting: Setting) -> None:
    checkpoint = setting.checkpoint()
    pr_out(setting.d, 0, 0, 0x77, aptpl=True)
    assert setting.restore(checkpoint).decision is Decision.DESTINATION_BUSY
    pr_out(setting.d, 0, 0x77, 0, aptpl=True)
    assert setting.restore(checkpoint).decision is Decision.TAKEN_OVER


def test_drawn_keys_are_not_in_use() -> None:
    taken = frozenset({0, 1})
    keys = {draw_key(taken) for _ in range(100)}
    assert len(keys) == 100
    assert all(0 < key < 1 << 64 for key in keys)


class Dying(SqliteStore):
    """A store whose process is killed before or after the n-th durable step."""

    left = 0
    done_first = False

    def _step(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.left -= 1
        if self.left < 0 and not self.done_first:
            raise KeyboardInterrupt
        getattr(SqliteStore, name)(self, *arguments, **keywords)
        if self.left < 0:
            raise KeyboardInterrupt

    def journal_open(self, *arguments: Any, **keywords: Any) -> None:
        self._step("journal_open", arguments, keywords)

    def journal_step(self, *arguments: Any, **keywords: Any) -> None:
        self._step("journal_step", arguments, keywords)

    def journal_result(self, *arguments: Any, **keywords: Any) -> None:
        self._step("journal_result", arguments, keywords)

    def save_nexus(self, *arguments: Any, **keywords: Any) -> None:
        self._step("save_nexus", arguments, keywords)

    def journal_close(self, *arguments: Any, **keywords: Any) -> None:
        self._step("journal_close", arguments, keywords)


@pytest.mark.parametrize("done_first", [False, True], ids=["before", "after"])
def test_killed_at_every_durable_step_with_the_store_reopened_from_disk(
    setting: Setting, tmp_path: Path, done_first: bool
) -> None:
    checkpoint = setting.checkpoint()
    prepared = setting.unit.reservations
    for steps in range(20):
        setting.unit.reservations = prepared
        setting.unit.refresh_all()
        path = tmp_path / f"killed-{steps}.db"
        store = Dying(path)
        store.left, store.done_first = steps, done_first
        try:
            finished = setting.restore(checkpoint, store=store).succeeded
        except KeyboardInterrupt:
            finished = False
        store.close()
        reopened = SqliteStore(path)
        report = setting.restore(checkpoint, store=reopened)
        assert report.succeeded, report.sentence
        assert setting.unit.reservations.holds(setting.d.identity)
        assert setting.unit.reservations.key_of(setting.s.identity) is None
        record = reopened.load_nexus("web1", identify(setting.d).identity.name)
        assert record is not None
        assert record.epoch == 1
        assert reopened.journals() == []
        reopened.close()
        if finished:
            return
    raise AssertionError("a takeover has more durable steps than were tried")


def test_an_older_checkpoint_that_was_refused_before_does_not_touch_the_guest_that_came_since(setting: Setting) -> None:
    """Two checkpoints of one claim: the first is refused, the second succeeds, the guest runs here; then the first."""
    first, second = setting.checkpoint(), setting.checkpoint(pending=(CAPACITY_DATA_CHANGED,))
    pr_out(setting.d, 0, 0, 0x0BAD, aptpl=True)
    assert setting.restore(first, destination_nexus=None).decision is Decision.DESTINATION_BUSY
    pr_out(setting.d, 0, 0x0BAD, 0, aptpl=True)
    assert setting.restore(second).succeeded
    told = setting.stored()[1]
    report = setting.restore(first)
    assert (report.decision, report.state) == (Decision.OLDER, None)
    assert setting.stored()[1] == told == [(6, 0x2A, 0x09)], "what waits for the guest stays"


def test_guest_that_did_not_leave_its_nexus_is_told_what_waited_there(setting: Setting) -> None:
    """The handover was given up; one attention was told since, another has come."""
    checkpoint = setting.checkpoint(pending=(CAPACITY_DATA_CHANGED,))
    fencer = setting.unit.nexus(TransportId.parse("naa.5000000000000007"))
    setting.store.save_nexus(
        "web1", checkpoint.unit.name, encode_state(NexusState(key=K)), epoch=0, attentions=encode_attentions(())
    )
    pr_out(fencer, 0, 0, 0xFE, aptpl=True)
    setting.s.attentions.establish(Sense(6, 0x2A, 0x01))
    setting.unit.refresh_all()
    report = setting.restore(checkpoint, destination=setting.s, destination_nexus=None)
    assert report.decision is Decision.SAME_NEXUS
    assert setting.stored()[1] == [(6, 0x2A, 0x01)]
