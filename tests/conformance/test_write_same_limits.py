"""WRITE SAME (10) and (16) on a unit with more blocks than one command may write (SBC-4 5.49, 6.6.4)."""

from __future__ import annotations

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.transport_id import TransportId
from tests.conformance.counterparts import for_lengths
from tests.conformance.initiator import GOOD, INVALID_FIELD_IN_CDB
from tests.conformance.test_write_same import UNMAP, ZEROS, write_same
from tests.unit.emulated.initiator import Initiator


@for_lengths("WriteSame", "ZeroBlocks", 10, 16)
def test_length_0_on_a_unit_longer_than_the_maximum(length: int) -> None:
    unit = EmulatedUnit(1 << 30)
    direct = Initiator(unit.nexus(TransportId.parse("naa.5001405000000001")))
    most = int.from_bytes(direct.fetch("1201b000ff00")[36:44])
    assert 0 < most < unit.blocks
    for beyond, answer in ((1, INVALID_FIELD_IN_CDB), (0, GOOD), (-1, GOOD)):
        cdb_hex = write_same(length, unit.blocks - most - beyond, 0, UNMAP).hex()
        assert direct.says(cdb_hex, ZEROS) == answer
    assert direct.says(write_same(length, 0, 0).hex(), ZEROS) == INVALID_FIELD_IN_CDB
    unit.close()
