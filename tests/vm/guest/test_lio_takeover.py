"""A guest's reservations move between two I_T nexuses of LIO: each type, each service action, by each procedure.

The unit is behind iSCSI, because PREEMPT AND ABORT does not end behind tcm_loop.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.reservation.classify import Decision
from tests.vm.rig.takeover import (
    CLEAR,
    CONFLICT,
    OUTSIDERS_BLOCK,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    REGISTER_AND_IGNORE,
    RELEASE,
    RESERVE,
    GuestHost,
    shown,
    shut_out,
    tracked_is_true,
)
from tests.vm.rig.witness import all_show, configfs_shows

FIRST, SECOND, K = 0xA11CE, 0xB0B, 0x1122334455667788
OTHERS = 0x0DDB1
METADATA = Path("/var/target/pr")
TYPES = [1, 3, 5, 6, 7, 8]
ANOTHER_TYPE = {1: 3, 3: 5, 5: 6, 6: 1, 7: 1, 8: 3}
REGISTRATIONS_PREEMPTED = (0x06, 0x2A, 0x05)
PROCEDURES = {
    "P1": ("REGISTER", "REGISTER", "PREEMPT"),
    "P2": ("REGISTER", "PREEMPT AND ABORT", "REGISTER"),
    "P3": ("REGISTER", "REGISTER"),
}


@pytest.fixture(params=[False, True], ids=["source-alive", "source-dead"])
def dead(request):
    return request.param


def use_every_service_action(host, unit, type_):
    """As the guest: every service action there is, each followed by what LIO and sg_persist say of it."""
    guest, other = host.nexus, unit.nexuses[2]

    def does(action, registered, holder=None, kind=None, **fields):
        result = host.pr_out(action, **fields)
        assert result.good, f"service action {action} {fields}: {result}"
        configfs_shows(unit, registered, holder, kind)
        tracked_is_true(host, unit)

    does(REGISTER, {guest: FIRST}, sa_key=FIRST)
    does(RESERVE, {guest: FIRST}, guest, type_, key=FIRST, type_=type_)
    does(RELEASE, {guest: FIRST}, key=FIRST, type_=type_)
    does(RESERVE, {guest: FIRST}, guest, type_, key=FIRST, type_=type_)
    does(REGISTER_AND_IGNORE, {guest: SECOND}, guest, type_, sa_key=SECOND)
    all_show(unit, {guest: SECOND}, guest, type_)

    # PREEMPT: another registrant is removed, the reservation stays.
    assert other.direct.persistent_reserve_out(REGISTER, sa_key=OTHERS).good
    does(PREEMPT, {guest: SECOND}, guest, type_, key=SECOND, sa_key=OTHERS, type_=type_)
    assert other.direct.drain_unit_attentions() == [REGISTRATIONS_PREEMPTED]
    # PREEMPT of the own reservation changes its type.
    does(RELEASE, {guest: SECOND}, key=SECOND, type_=type_)
    kind = ANOTHER_TYPE[type_]
    does(RESERVE, {guest: SECOND}, guest, kind, key=SECOND, type_=kind)
    does(PREEMPT, {guest: SECOND}, guest, type_, key=SECOND, sa_key=SECOND, type_=type_)
    does(RELEASE, {guest: SECOND}, key=SECOND, type_=type_)
    # PREEMPT AND ABORT: the reservation is another's.
    assert other.direct.persistent_reserve_out(REGISTER, sa_key=OTHERS).good
    assert other.direct.persistent_reserve_out(RESERVE, key=OTHERS, type_=type_).good
    configfs_shows(unit, {guest: SECOND, other: OTHERS}, other, type_)
    does(PREEMPT_AND_ABORT, {guest: SECOND}, guest, type_, key=SECOND, sa_key=OTHERS, type_=type_)
    assert other.direct.drain_unit_attentions() == [REGISTRATIONS_PREEMPTED]
    all_show(unit, {guest: SECOND}, guest, type_)

    does(CLEAR, {}, key=SECOND)
    all_show(unit, {})
    does(REGISTER, {guest: K}, sa_key=K)
    does(RESERVE, {guest: K}, guest, type_, key=K, type_=type_)


@pytest.mark.parametrize("type_", TYPES)
def test_the_reservation_moves_and_the_source_is_shut_out(iscsi_lio, tmp_path, type_, dead):
    unit = iscsi_lio
    one, two, three = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        use_every_service_action(source, unit, type_)
        # To registrants types 1 and 3 are closed as well.
        bystanders = {three: OTHERS} if type_ in (1, 3) else {}
        for nexus, key in bystanders.items():
            assert nexus.direct.persistent_reserve_out(REGISTER, sa_key=key).good
        assert source.write(b"\x0a" * 512).good
        assert destination.write().status == CONFLICT
        document = source.checkpoint()
        all_show(unit, {one: K, **bystanders}, one, type_)

        with shut_out(three, reads=type_ in (3, 6, 8)) as watch:
            report = destination.restore(document, source=None if dead else one, source_dead=dead, watch=watch)

        assert (report.decision, report.exit_status) == (Decision.TAKEN_OVER, 0), report.sentence
        assert report.procedure == ("P2" if dead else "P3" if type_ in (7, 8) else "P1")
        assert report.service_actions == PROCEDURES[report.procedure]
        assert report.attentions == ()
        all_show(unit, {two: K, **bystanders}, two, type_)
        tracked_is_true(destination, unit)

        # Nothing is pending on a source that was there; a dead one is told when it comes back.
        assert one.direct.drain_unit_attentions() == ([REGISTRATIONS_PREEMPTED] if dead else [])
        assert source.write(b"\x05" * 512).status == CONFLICT
        assert one.direct.write(data=b"\x05" * 512).status == CONFLICT
        assert source.read().status == (CONFLICT if type_ in (3, 6, 8) else 0)
        assert not source.unit.resync().registered
        assert destination.read().data == b"\x0a" * 512
        assert destination.write(b"\x0b" * 512).good
        assert two.direct.read().data == b"\x0b" * 512
        assert two.direct.read(OUTSIDERS_BLOCK).data != b"\xee" * 512

        before = shown(unit)
        again = destination.restore(document, source=None if dead else one, source_dead=dead)
        assert (again.decision, again.exit_status, again.commands) == (Decision.ALREADY_DONE, 0, ())
        assert shown(unit) == before

        # The guest goes on with its reservation where it is now.
        assert destination.pr_out(RELEASE, key=K, type_=type_).good
        tracked_is_true(destination, unit)
        assert one.direct.write().good
        assert destination.pr_out(RESERVE, key=K, type_=type_).good
        tracked_is_true(destination, unit)
        assert one.direct.write().status == CONFLICT


def test_a_registration_without_a_reservation_moves_alone(iscsi_lio, tmp_path, dead):
    unit = iscsi_lio
    one, two, _ = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, None)
        document = source.checkpoint()
        all_show(unit, {one: K})
        report = destination.restore(document, source=None if dead else one, source_dead=dead)
        assert (report.decision, report.procedure) == (Decision.TAKEN_OVER, "P2" if dead else "P3"), report.sentence
        assert report.service_actions == PROCEDURES[report.procedure]
        all_show(unit, {two: K})
        tracked_is_true(destination, unit)
        one.direct.drain_unit_attentions()
        assert [nexus.direct.write().status for nexus in unit.nexuses] == [0, 0, 0]
        assert destination.write().good


@pytest.mark.parametrize("type_", [1, 5])
def test_the_reservation_of_another_nexus_stays_where_it_is(iscsi_lio, tmp_path, type_, dead):
    unit = iscsi_lio
    one, two, holder = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, None)
        assert holder.direct.persistent_reserve_out(REGISTER, sa_key=OTHERS).good
        assert holder.direct.persistent_reserve_out(RESERVE, key=OTHERS, type_=type_).good
        document = source.checkpoint()
        all_show(unit, {one: K, holder: OTHERS}, holder, type_)
        report = destination.restore(document, source=None if dead else one, source_dead=dead)
        assert (report.decision, report.procedure) == (Decision.TAKEN_OVER, "P2" if dead else "P3"), report.sentence
        all_show(unit, {two: K, holder: OTHERS}, holder, type_)
        tracked_is_true(destination, unit)
        one.direct.drain_unit_attentions()
        assert one.direct.write().status == CONFLICT
        # Registrants may write under type 5, nobody but the holder under type 1.
        assert destination.write().status == (0 if type_ == 5 else CONFLICT)
        assert holder.direct.write().good


@pytest.mark.parametrize("names", ["configured", "none"])
@pytest.mark.parametrize("type_", [3, 8])
def test_it_does_not_matter_whether_the_nexuses_can_be_named(iscsi_lio, tmp_path, type_, names, dead):
    unit = iscsi_lio
    one, two, three = unit.nexuses
    known = {"named": names == "configured", "full_status": names == "configured"}
    with GuestHost(tmp_path, one, **known) as source, GuestHost(tmp_path, two, **known) as destination:
        source.claim(K, type_)
        assert source.state.transport_id == (one.transport_id if names == "configured" else None)
        document = source.checkpoint()
        all_show(unit, {one: K}, one, type_)
        with shut_out(three) as watch:
            report = destination.restore(document, source=None if dead else one, source_dead=dead, watch=watch)
        assert report.decision is Decision.TAKEN_OVER, report.sentence
        assert report.service_actions == PROCEDURES[report.procedure]
        # Without names a REGISTER with the same key in both fields asks who is registered.
        if names == "none":
            assert len(watch.changes) > len(report.service_actions)
        all_show(unit, {two: K}, two, type_)
        tracked_is_true(destination, unit)
        one.direct.drain_unit_attentions()
        assert one.direct.write().status == CONFLICT
        assert destination.write().good


@pytest.mark.parametrize("type_", [5, 7])
@pytest.mark.parametrize("aptpl", [False, True])
def test_persistence_through_power_loss_stays_as_it_was(iscsi_lio, tmp_path, type_, aptpl, dead):
    unit = iscsi_lio
    one, two, three = unit.nexuses

    def persists():
        # PTPL_A of REPORT CAPABILITIES, and what LIO would load after a power loss.
        capabilities = three.direct.drained(lambda: three.direct.persistent_reserve_in(2)).data
        serial = (unit.backstore / "wwn" / "vpd_unit_serial").read_text(encoding="ascii").split(":")[1].strip()
        kept = (METADATA / f"aptpl_{serial}").read_text(encoding="ascii")
        return bool(capabilities[3] & 1), [name for name in (one, two) if f"={name.initiator}\n" in kept]

    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, type_, aptpl=aptpl)
        assert persists() == (aptpl, [one] if aptpl else [])
        report = destination.restore(source.checkpoint(), source=None if dead else one, source_dead=dead)
        assert report.decision is Decision.TAKEN_OVER, report.sentence
        assert persists() == (aptpl, [two] if aptpl else [])
        assert (shown(unit).aptpl, destination.state.aptpl) == (aptpl, aptpl)
        all_show(unit, {two: K}, two, type_)
