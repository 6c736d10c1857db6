"""Real devices for the tests that run in the virtual machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.vm.rig import scsi_debug as scsi_debug_module
from tests.vm.rig.iscsi_nexuses import IscsiUnit, create_iscsi_unit
from tests.vm.rig.lio import LoopUnit, create_unit
from tests.vm.rig.nodes import Nodes


class LioRig:
    """Makes LIO units: ``lio(3)`` is the run's one with three nexuses, wiped; ``lio.fresh(3)`` a test's own."""

    def __init__(self, shared: dict[tuple[int, str], LoopUnit]) -> None:
        self._shared = shared
        self._own: list[LoopUnit] = []

    def __call__(self, nexuses: int = 2, protocol: str = "sas") -> LoopUnit:
        """A unit without registrations, reservations or unit attentions; protocol is sas, iscsi or fc."""
        unit = self._shared.get((nexuses, protocol))
        if unit is None:
            unit = self._shared[nexuses, protocol] = create_unit(nexuses, protocol)
        unit.reset()
        return unit

    def fresh(self, nexuses: int = 2, protocol: str = "sas", size_mib: int = 16) -> LoopUnit:
        """A unit for one test, which may break it; removed when the test ends."""
        unit = create_unit(nexuses, protocol, size_mib)
        self._own.append(unit)
        unit.reset()
        return unit

    def remove_own(self) -> None:
        while self._own:
            self._own.pop().remove()


@pytest.fixture(scope="session")
def _shared_lio_units() -> Iterator[dict[tuple[int, str], LoopUnit]]:
    units: dict[tuple[int, str], LoopUnit] = {}
    yield units
    for unit in units.values():
        unit.remove()


@pytest.fixture
def lio(_shared_lio_units: dict[tuple[int, str], LoopUnit]) -> Iterator[LioRig]:
    rig = LioRig(_shared_lio_units)
    yield rig
    rig.remove_own()


@pytest.fixture(scope="module")
def _iscsi_unit() -> Iterator[IscsiUnit]:
    unit = create_iscsi_unit(3)
    yield unit
    unit.remove()


@pytest.fixture
def iscsi_lio(_iscsi_unit: IscsiUnit) -> IscsiUnit:
    """A wiped unit behind three iSCSI sessions, each with an initiator name of its own."""
    _iscsi_unit.reset()
    return _iscsi_unit


@pytest.fixture
def scsi_debug() -> Iterator[Callable[..., list[Nodes]]]:
    """``scsi_debug(dev_size_mb=64, delay=0)`` loads the module and gives its disks' nodes; unloaded afterwards."""
    loaded = False

    def load(**parameters: object) -> list[Nodes]:
        nonlocal loaded
        loaded = True
        return scsi_debug_module.load(**parameters)

    yield load
    if loaded:
        scsi_debug_module.unload()
