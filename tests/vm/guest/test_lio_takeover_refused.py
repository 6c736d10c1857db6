"""Takeovers that must leave other nexuses alone, or must not happen: shared keys, fenced guests."""

from __future__ import annotations

import pytest

from pyproxy.reservation.classify import Decision
from tests.vm.rig.takeover import (
    CLEAR,
    CONFLICT,
    PREEMPT,
    REGISTER,
    REGISTER_AND_IGNORE,
    RESERVE,
    GuestHost,
    Watch,
    shown,
    tracked_is_true,
)
from tests.vm.rig.witness import all_show, configfs_shows

K, FENCER = 0x1122334455667788, 0xFE4CE
REGISTRATIONS_PREEMPTED, RESERVATIONS_PREEMPTED = (0x06, 0x2A, 0x05), (0x06, 0x2A, 0x03)


@pytest.fixture(params=[False, True], ids=["source-alive", "source-dead"])
def dead(request):
    return request.param


def moved_past_bystanders(report, type_):
    expected = ("REGISTER", "REGISTER") if type_ in (None, 7) else ("REGISTER", "REGISTER", "PREEMPT")
    assert (report.decision, report.service_actions) == (Decision.TAKEN_OVER, expected), report.sentence


def moved_to(destination, unit, type_):
    """Who is to hold: under type 7 all do, and LIO keeps one of them as the nominal holder."""
    if type_ != 7:
        return type_ and destination
    return next(nexus for nexus in unit.nexuses if nexus.initiator == unit.holder)


@pytest.mark.parametrize("type_", [None, 1, 5, 7])
def test_bystanders_with_the_guests_key_stay_registered(lio, tmp_path, type_):
    unit = lio(4)
    one, two, *bystanders = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, type_)
        for nexus in bystanders:
            assert nexus.direct.persistent_reserve_out(REGISTER, sa_key=K).good
        everyone = {one: K, **dict.fromkeys(bystanders, K)}
        document = source.checkpoint()
        all_show(unit, everyone, type_ and one, type_)

        # With the source dead nobody could remove its registration without removing theirs.
        before = shown(unit)
        refused = destination.restore(document, source_dead=True)
        assert (refused.decision, refused.exit_status) == (Decision.SHARED_KEY, 1)
        assert refused.service_actions == ()
        assert "0x1122334455667788 is registered 3 times" in refused.sentence
        assert "give the source's device node" in refused.sentence
        assert shown(unit) == before

        moved_past_bystanders(destination.restore(document, source=one), type_)
        del everyone[one]
        everyone[two] = K
        holder = moved_to(two, unit, type_)
        configfs_shows(unit, everyone, holder, type_)
        for nexus in bystanders:
            assert nexus.direct.drain_unit_attentions() == []
            assert nexus.direct.write().status == (CONFLICT if type_ == 1 else 0)
        all_show(unit, everyone, holder, type_)
        tracked_is_true(destination, unit)
        assert one.direct.write().status == (0 if type_ is None else CONFLICT)
        assert destination.write().good


@pytest.mark.parametrize("type_", [1, 5, 7])
def test_bystanders_stay_where_no_nexus_can_be_named(lio, tmp_path, type_):
    unit = lio(4)
    one, two, *bystanders = unit.nexuses
    unnamed = {"full_status": False}
    with GuestHost(tmp_path, one, **unnamed) as source, GuestHost(tmp_path, two, **unnamed) as destination:
        source.claim(K, type_)
        document = source.checkpoint()
        # They come later: a guest with a shared key and no names would be suspect already on the source.
        for nexus in bystanders:
            assert nexus.direct.persistent_reserve_out(REGISTER, sa_key=K).good
        before = shown(unit)
        refused = destination.restore(document, source_dead=True)
        assert (refused.decision, refused.service_actions) == (Decision.SHARED_KEY, ()), refused.sentence
        assert shown(unit) == before
        moved_past_bystanders(destination.restore(document, source=one), type_)
        all_show(unit, {two: K, **dict.fromkeys(bystanders, K)}, moved_to(two, unit, type_), type_)
        assert [nexus.direct.drain_unit_attentions() for nexus in bystanders] == [[], []]


@pytest.mark.parametrize("type_", [None, 1, 3, 5, 6, 7, 8])
def test_a_guest_that_was_fenced_meanwhile_is_not_brought_back(lio, tmp_path, type_, dead):
    unit = lio(3)
    one, two, fencer = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, type_)
        document = source.checkpoint()
        configfs_shows(unit, {one: K}, type_ and one, type_)
        assert fencer.direct.persistent_reserve_out(REGISTER, sa_key=FENCER).good
        assert fencer.direct.persistent_reserve_out(PREEMPT, key=FENCER, sa_key=K, type_=type_ or 1).good
        before = shown(unit)
        configfs_shows(unit, {fencer: FENCER}, type_ and fencer, type_)

        watch = Watch()
        report = destination.restore(document, source=None if dead else one, source_dead=dead, watch=watch)

        assert (report.decision, report.exit_status) == (Decision.FENCED, 1)
        assert (report.service_actions, watch.changes) == ((), [])
        assert "guest db on naa.6" in report.sentence
        assert "FENCED" in report.sentence
        assert "The guest's registration was not replayed" in report.sentence
        assert "keys 0x00000000000fe4ce" in report.sentence
        assert "must resume as not registered" in report.sentence
        assert shown(unit) == before
        all_show(unit, {fencer: FENCER}, type_ and fencer, type_)
        # The guest learns it with its first command, and once.
        told = destination.write()
        assert told.status == 0x02
        assert told.decoded_sense.code == REGISTRATIONS_PREEMPTED
        assert destination.write().status == (0 if type_ is None else CONFLICT)
        tracked_is_true(destination, unit)


def test_a_cleared_unit_stays_cleared(lio, tmp_path, dead):
    unit = lio(3)
    one, two, fencer = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, 1)
        document = source.checkpoint()
        assert fencer.direct.persistent_reserve_out(REGISTER, sa_key=FENCER).good
        assert fencer.direct.persistent_reserve_out(CLEAR, key=FENCER).good
        before = shown(unit)
        report = destination.restore(document, source=None if dead else one, source_dead=dead)
        assert (report.decision, report.exit_status, report.service_actions) == (Decision.FENCED, 1, ())
        assert shown(unit) == before
        all_show(unit, {})
        assert destination.write().decoded_sense.code == RESERVATIONS_PREEMPTED
        assert destination.write().good


@pytest.mark.parametrize("type_", [1, 5])
def test_a_guest_that_is_fenced_between_two_steps_is_not_brought_back(lio, tmp_path, type_):
    """The worst moment: the source holds under a random key, so the fencer hits the destination only."""
    unit = lio(3)
    one, two, fencer = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, type_)
        document = source.checkpoint()
        assert fencer.direct.persistent_reserve_out(REGISTER, sa_key=FENCER).good
        fences = []

        def look():
            registered = unit.registered
            if not fences and registered.get(one.initiator) not in (None, K) and two.initiator in registered:
                fences.append(fencer.direct.persistent_reserve_out(PREEMPT, key=FENCER, sa_key=K, type_=type_))

        report = destination.restore(document, source=one, watch=Watch(look))
        assert [reply.good for reply in fences] == [True]
        assert (report.decision, report.exit_status) == (Decision.FENCED, 1), report.sentence
        fencer.direct.drain_unit_attentions()
        all_show(unit, {fencer: FENCER})
        assert destination.write().decoded_sense.code == REGISTRATIONS_PREEMPTED
        assert not destination.state.registered


def test_a_reservation_made_after_the_checkpoint_shows_that_it_is_old(lio, tmp_path):
    unit = lio(3)
    one, two, _ = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, None)
        document = source.checkpoint()
        assert source.pr_out(RESERVE, key=K, type_=1).good
        before = shown(unit)
        report = destination.restore(document, source_dead=True)
        assert (report.decision, report.exit_status, report.service_actions) == (Decision.OLDER, 1, ())
        assert shown(unit) == before


def test_nothing_is_sent_when_nobody_says_what_became_of_the_source(lio, tmp_path):
    unit = lio(3)
    one, two, _ = unit.nexuses
    with GuestHost(tmp_path, one) as source, GuestHost(tmp_path, two) as destination:
        source.claim(K, 3)
        document, before = source.checkpoint(), shown(unit)
        report = destination.restore(document)
        assert (report.decision, report.exit_status, report.service_actions) == (Decision.SOURCE_NEEDED, 1, ())
        assert shown(unit) == before
        # A destination that somebody uses already is not taken from him.
        assert two.direct.persistent_reserve_out(REGISTER_AND_IGNORE, sa_key=FENCER).good
        before = shown(unit)
        report = destination.restore(document, source=one)
        assert (report.decision, report.exit_status) == (Decision.DESTINATION_BUSY, 1)
        assert shown(unit) == before
