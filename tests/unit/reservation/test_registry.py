"""Two guests on one nexus of one logical unit are refused; a unit's lock is the same for all."""

from __future__ import annotations

import pytest

from pyproxy.reservation.registry import NexusInUseError, UnitRegistry


def test_second_guest_on_one_nexus_and_unit_is_refused() -> None:
    registry = UnitRegistry()
    claim = registry.claim("naa.6001", "host0 port 1", "alpha", 0)
    with pytest.raises(NexusInUseError, match=r"guest beta LUN 3.*naa\.6001.*guest alpha LUN 0.*host0 port 1"):
        registry.claim("naa.6001", "host0 port 1", "beta", 3)
    claim.release()
    claim.release()
    with registry.claim("naa.6001", "host0 port 1", "beta", 3):
        claim.release()  # a stale release takes nothing from the new holder
        with pytest.raises(NexusInUseError):
            registry.claim("naa.6001", "host0 port 1", "alpha", 0)
    registry.claim("naa.6001", "host0 port 1", "alpha", 0)


def test_the_same_guest_may_not_reach_a_unit_twice_by_one_nexus() -> None:
    registry = UnitRegistry()
    registry.claim("naa.6001", "host0 port 1", "alpha", 0)
    with pytest.raises(NexusInUseError):
        registry.claim("naa.6001", "host0 port 1", "alpha", 1)


def test_the_same_guest_may_not_reach_a_unit_by_two_nexuses() -> None:
    """What it has registered is kept under the guest and the unit: one would overwrite the other's."""
    registry = UnitRegistry()
    claim = registry.claim("naa.6001", "host0 port 1", "alpha", 0)
    with pytest.raises(NexusInUseError, match="is LUN 0 of this guest already"):
        registry.claim("naa.6001", "host1 port 1", "alpha", 1)
    claim.release()
    registry.claim("naa.6001", "host1 port 1", "alpha", 1)


def test_other_units_and_other_nexuses_are_free() -> None:
    registry = UnitRegistry()
    registry.claim("naa.6001", "host0 port 1", "alpha", 0)
    registry.claim("naa.6002", "host0 port 1", "beta", 0)
    registry.claim("naa.6001", "host1 port 1", "beta", 1)


def test_one_lock_per_unit() -> None:
    registry = UnitRegistry()
    assert registry.lock("naa.6001") is registry.lock("naa.6001")
    assert registry.lock("naa.6001") is not registry.lock("naa.6002")
