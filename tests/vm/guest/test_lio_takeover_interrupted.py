"""The host that takes over dies in the midst of a restore, which is repeated after it came back."""

from __future__ import annotations

import contextlib

import pytest

from pyproxy.reservation.classify import Decision
from tests.vm.rig.takeover import CONFLICT, GuestHost, HostDiedError, Watch, shown, shut_out, tracked_is_true
from tests.vm.rig.witness import all_show, configfs_shows

K = 0x1122334455667788


def restore_twice(directory, unit, dies, *, type_, source_dead=False, named=True):
    """A restore during which the host dies, and the one after it; the watch of a single restore when ``dies`` is None.

    With a reservation the outsider is shut out at every moment, also while the host is down.
    """
    unit.reset()
    one, two, outsider = unit.nexuses
    arguments = {"source": None if source_dead else one, "source_dead": source_dead}
    known = {"full_status": named}
    with GuestHost(directory, one, **known) as source, GuestHost(directory, two, **known) as destination:
        source.claim(K, type_)
        document = source.checkpoint()
        with contextlib.nullcontext(Watch()) if type_ is None else shut_out(outsider) as watch:
            if dies is not None:
                watch.dies = dies
                with pytest.raises(HostDiedError):
                    destination.restore(document, watch=watch, **arguments)
                between = shown(unit)
                assert between.type == type_
                assert type_ is None or between.holder in (one.initiator, two.initiator)
                destination.close()
                watch.dies = None
            report = destination.restore(document, watch=watch, **arguments)
        assert report.decision is Decision.TAKEN_OVER or (dies and report.decision is Decision.ALREADY_DONE), (
            f"died at command {dies}: {report.sentence}"
        )
        assert report.attentions == ()
        configfs_shows(unit, {two: K}, type_ and two, type_)
        tracked_is_true(destination, unit)
        assert source_dead or one.direct.drain_unit_attentions() == []
        one.direct.drain_unit_attentions()
        assert one.direct.write().status == (0 if type_ is None else CONFLICT)
        assert destination.write().good
        return watch


def around_each_change(watch):
    """Before and after each PERSISTENT RESERVE OUT reached the device, and after its answer was recorded."""
    points = {(0, False)}
    for number, _, _ in watch.changes:
        points |= {(number, False), (number, True), (number + 1, False)}
    return sorted(points)


def test_the_host_may_die_at_every_command_of_p1(lio, tmp_path):
    unit = lio(3)
    count = restore_twice(tmp_path / "whole", unit, None, type_=1).count
    assert count > 15
    for number in range(count):
        restore_twice(tmp_path / str(number), unit, (number, True), type_=1)
    all_show(unit, {unit.nexuses[1]: K}, unit.nexuses[1], 1)


@pytest.mark.parametrize(
    ("type_", "named", "changes"),
    [(3, True, 3), (5, False, 3), (8, True, 2), (None, True, 2)],
    ids=["P1", "P1-unnamed", "P3-all-registrants", "P3-registered"],
)
def test_the_host_may_die_around_each_change(lio, tmp_path, type_, named, changes):
    unit = lio(3)
    watch = restore_twice(tmp_path / "whole", unit, None, type_=type_, named=named)
    assert len(watch.changes) >= changes
    for dies in around_each_change(watch):
        restore_twice(tmp_path / f"{dies}", unit, dies, type_=type_, named=named)
    all_show(unit, {unit.nexuses[1]: K}, type_ and unit.nexuses[1], type_)


def test_the_host_may_die_around_each_change_with_a_dead_source(iscsi_lio, tmp_path):
    unit = iscsi_lio
    watch = restore_twice(tmp_path / "whole", unit, None, type_=6, source_dead=True)
    assert len(watch.changes) >= 3
    for dies in around_each_change(watch):
        restore_twice(tmp_path / f"{dies}", unit, dies, type_=6, source_dead=True)
    all_show(unit, {unit.nexuses[1]: K}, unit.nexuses[1], 6)
