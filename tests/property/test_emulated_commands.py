"""Whatever a guest sends, the unit answers: any CDB, any buffers, in any state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.command import Command
from tests.unit.emulated.initiator import Initiator, initiators

SIZE = 1 << 20
KNOWN = bytes.fromhex(
    "000308 0a12151617 1a1b1d 25282a2e2f3435 4142 555657 5a5e5f 88898a8e8f9091 939ea0a3 a8aaaeaf".replace(" ", "")
)
STATUSES = (0x00, 0x02, 0x18)

lengths = st.sampled_from([0, 1, 8, 24, 28, 512, 513, 1024, 4096])
random_cdbs = st.binary(max_size=40)
# Mostly zeros with a few bits set get further into a command than noise does.
likely_cdbs = st.builds(
    lambda opcode, places: bytes([opcode, *(places.get(at, 0) for at in range(1, 16))]),
    st.sampled_from(list(KNOWN)),
    st.dictionaries(st.integers(1, 15), st.integers(0, 255), max_size=4),
)


@pytest.fixture(scope="module", params=["memory", "file"])
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Initiator]]:
    path: Path | None = tmp_path_factory.mktemp("unit") / "disk.img" if request.param == "file" else None
    unit = EmulatedUnit(SIZE, path=path)
    yield initiators(unit, 3)
    unit.close()


@settings(max_examples=1500, deadline=None)
@given(
    who=st.integers(0, 2),
    cdb=st.one_of(random_cdbs, likely_cdbs, likely_cdbs),
    data_out=st.one_of(st.binary(max_size=64), st.builds(bytes, lengths)),
    data_in=lengths,
    scattered=st.booleans(),
)
def test_any_command_is_answered(
    every: list[Initiator], who: int, cdb: bytes, data_out: bytes, data_in: int, scattered: bool
) -> None:
    into = [bytearray(data_in // 2), bytearray(data_in - data_in // 2)] if scattered else data_in
    half = len(data_out) // 2
    out = [data_out[:half], memoryview(data_out)[half:]] if scattered else data_out
    result = every[who].nexus.execute(Command(cdb, data_out=out, data_in=into))
    assert result.status in STATUSES
    assert result.host_status == 0
    assert (result.status == 0x02) == bool(result.sense)
    assert result.status != 0x02 or result.decoded_sense is not None
    assert 0 <= result.residual <= max(data_in, len(data_out))
    assert len(result.data) <= (0 if scattered else data_in)
    assert every[who].nexus.gate.in_flight == 0
