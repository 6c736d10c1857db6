"""What sg_persist registered and reserved before pyproxy ran is adopted on LIO and on tgt, or reported as ambiguous."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess

import pytest

from pyproxy.reservation.adopt import Decision
from pyproxy.reservation.state import Suspicion
from tests.vm.rig.nodes import wait_for
from tests.vm.rig.operated import OperatedHost
from tests.vm.rig.takeover import GUEST, GuestHost, shown, tracked_is_true
from tests.vm.rig.tgt import create_tgt_unit
from tests.vm.rig.witness import all_show

K, F = 0x1111, 0x9999


def sg_persist(nexus, *words):
    """PERSISTENT RESERVE OUT by sg3-utils, as an operator or a cluster's agent makes it."""
    nexus.direct.drain_unit_attentions()
    done = subprocess.run(
        ["sg_persist", "--no-inquiry", "--out", *words, str(nexus.sg)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def register(nexus, key):
    sg_persist(nexus, "--register", f"--param-sark={key:x}")


def reserve(nexus, key, type_):
    sg_persist(nexus, "--reserve", f"--param-rk={key:x}", f"--prout-type={type_}")


def adopted(host, *words):
    """``pyproxy adopt``: its exit status and its document."""
    status, out, err = host.here("adopt", GUEST, 0, "--json", *words)
    assert out, err
    return status, json.loads(out)


@pytest.mark.parametrize("holder", ["ours", "sibling", "nobody"])
@pytest.mark.parametrize("type_", [1, 7])
def test_lio_lists_our_transport_id(iscsi_lio, tmp_path, holder, type_):
    """Even where the key is shared, READ FULL STATUS knows, so that the first read already brings the state level."""
    unit = iscsi_lio
    ours, sibling, other = unit.nexuses
    register(ours, K)
    register(sibling, K)
    register(other, F)
    by = {"ours": ours, "sibling": sibling, "nobody": None}[holder]
    if by is not None:
        reserve(by, K, type_)
    held = type_ if by is ours or (by is not None and type_ == 7) else None
    host = OperatedHost(tmp_path, "host-a", ours, named=True)
    before = shown(unit)

    status, document = adopted(host)

    assert status == 0
    assert document["decision"] == "already-tracked"
    assert (document["succeeded"], document["fresh"], document["probed"]) == (True, True, [])
    assert (document["key"], document["reservation_type"]) == (f"{K:#018x}", held)
    assert shown(unit) == before
    all_show(unit, {ours: K, sibling: K, other: F}, by, None if by is None else type_)
    tracked = host.status(host.here)
    assert (tracked["key"], tracked["reservation_type"], tracked["fresh"]) == (f"{K:#018x}", held, True)


def test_lio_does_not_list_our_transport_id(iscsi_lio, tmp_path):
    unit = iscsi_lio
    ours, sibling, _ = unit.nexuses
    register(sibling, K)
    host = OperatedHost(tmp_path, "host-a", ours, named=True)
    before = shown(unit)
    status, document = adopted(host)
    assert (status, document["decision"], document["key"]) == (0, "not-registered", None)
    assert shown(unit) == before


@pytest.mark.vm_timeout(600)
def test_a_daemon_with_adopt_takes_over_at_its_start_and_the_guest_goes_on(iscsi_lio, tmp_path):
    unit = iscsi_lio
    ours, sibling, _ = unit.nexuses
    register(ours, K)
    reserve(ours, K, 5)
    register(sibling, K)
    host = OperatedHost(tmp_path, "host-a", ours, named=True, adopt=True)
    before = shown(unit)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(host.stop, signal.SIGKILL)
        host.serve()
        wait_for(lambda: host.serving, "the daemon", timeout=300)
        assert shown(unit) == before
        tracked = host.status(host.here)
        assert (tracked["key"], tracked["reservation_type"], tracked["fresh"]) == (f"{K:#018x}", 5, True)
        guest = host.guest()
        release = bytes([0x5F, 2, 5, 0, 0, 0, 0, 0, 24, 0])
        assert guest.execute(release, data_out=K.to_bytes(8, "big") + bytes(16)).status == 0
        assert unit.holder is None
        tracked = host.status(host.here)
        assert (tracked["key"], tracked["reservation_type"], tracked["fresh"]) == (f"{K:#018x}", None, True)
        assert host.stop() == 0


def test_lio_tells_by_a_probe_where_our_name_is_not_known(iscsi_lio, tmp_path):
    unit = iscsi_lio
    ours, sibling, _ = unit.nexuses
    register(ours, K)
    register(sibling, F)
    reserve(ours, K, 3)
    before = shown(unit)
    with GuestHost(tmp_path, ours) as host:
        found = host.unit.adopt()
        assert found.decision is Decision.PROBED
        tracked_is_true(host, unit)
        # The one descriptor with that key tells the name for the next time.
        assert host.state.transport_id == ours.transport_id
    after = shown(unit)
    assert (after.registered, after.holder, after.type) == (before.registered, before.holder, before.type)


def test_a_holder_among_nexuses_with_one_key_is_not_guessed_on_lio(iscsi_lio, tmp_path):
    unit = iscsi_lio
    ours, sibling, _ = unit.nexuses
    register(ours, K)
    register(sibling, K)
    reserve(sibling, K, 1)
    before = shown(unit)
    host = OperatedHost(tmp_path, "host-a", ours)
    status, document = adopted(host)
    assert (status, document["decision"]) == (1, "ambiguous-holder")
    assert (document["succeeded"], document["fresh"], document["reservation_type"]) == (False, False, None)
    assert document["key"] == f"{K:#018x}"
    after = shown(unit)
    assert (after.registered, after.holder, after.type) == (before.registered, before.holder, before.type)


@pytest.fixture(scope="module")
def tgt(tmp_path_factory):
    made = create_tgt_unit(2, tmp_path_factory.mktemp("tgt"))
    yield made
    made.remove()


@pytest.fixture
def tgt_unit(tgt):
    tgt.reset()
    return tgt


def test_tgt_has_no_full_status(tgt_unit):
    assert tgt_unit.nexuses[0].direct.persistent_reserve_in(3).key_asc_ascq == (5, 0x24, 0)


@pytest.mark.parametrize("type_", [None, 1, 6, 8])
def test_tgt_confirms_the_key_to_its_nexus(tgt_unit, tmp_path, type_):
    ours, sibling = tgt_unit.nexuses
    register(sibling, F)
    register(ours, K)
    if type_ is not None:
        reserve(ours, K, type_)
    host = OperatedHost(tmp_path, "host-a", ours)
    status, document = adopted(host)
    assert (status, document["decision"], document["fresh"]) == (0, "proven-by-probe", True)
    assert (document["key"], document["reservation_type"]) == (f"{K:#018x}", type_)
    assert sorted(ours.direct.keys()) == [K, F]


def test_tgt_refuses_the_key_of_another_nexus(tgt_unit, tmp_path):
    ours, sibling = tgt_unit.nexuses
    register(sibling, F)
    reserve(sibling, F, 3)
    host = OperatedHost(tmp_path, "host-a", ours)
    status, document = adopted(host, "--key", hex(F))
    assert (status, document["decision"], document["key"]) == (1, "key-of-another-nexus", None)
    status, document = adopted(host)
    assert (status, document["decision"], document["key"]) == (0, "not-registered", None)
    assert ours.direct.keys() == [F]
    assert ours.direct.reservation() == (F, 3)


def test_a_holder_among_nexuses_with_one_key_is_not_guessed_on_tgt(tgt_unit, tmp_path):
    ours, sibling = tgt_unit.nexuses
    register(ours, K)
    register(sibling, K)
    reserve(ours, K, 1)
    with GuestHost(tmp_path, ours) as host:
        found = host.unit.adopt()
        assert found.decision is Decision.AMBIGUOUS_HOLDER
        assert not found.decision.certain
        assert Suspicion.AMBIGUOUS_HOLDER in host.state.suspect
    assert ours.direct.keys() == [K, K]
    assert ours.direct.reservation() == (K, 1)
