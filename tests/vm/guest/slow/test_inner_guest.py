"""QEMU's own client at pyproxy's socket: a guest inside the virtual machine, its disk behind scsi-block.

inner guest: SG_IO on its /dev/sg0
     | virtio-scsi
QEMU (in the virtual machine) --- PERSISTENT RESERVE ---> pyproxy's socket
     | everything else                                         |
     +----------------> /dev/sdX of LIO, nexus 1 <-------------+
                        /dev/sdY of LIO, nexus 2: the other host
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.vm.inner.machine import BOOT_TIMEOUT, inner_guest
from tests.vm.rig.pr_helper import helper

KEY = 0x00C0FFEE00C0FFEE
READ_KEYS = bytes.fromhex("5e 00 00 00 00 00 00 00 40 00")
READ_RESERVATION = bytes.fromhex("5e 01 00 00 00 00 00 00 40 00")
REPORT_CAPABILITIES = bytes.fromhex("5e 02 00 00 00 00 00 00 08 00")
REGISTER = bytes.fromhex("5f 00 00 00 00 00 00 00 18 00")
RESERVE_WRITE_EXCLUSIVE = bytes.fromhex("5f 01 01 00 00 00 00 00 18 00")
RELEASE_WRITE_EXCLUSIVE = bytes.fromhex("5f 02 01 00 00 00 00 00 18 00")
REGISTER_AND_MOVE = bytes.fromhex("5f 07 00 00 00 00 00 00 18 00")
WRITE_BLOCK_5 = bytes.fromhex("2a 00 00 00 00 05 00 00 01 00")
READ_BLOCK_5 = bytes.fromhex("28 00 00 00 00 05 00 00 01 00")
TEST_UNIT_READY = bytes(6)
RESERVATION_CONFLICT = 0x18
BLOCK = bytes(range(256)) * 2


def register_list(key: int, service_action_key: int) -> bytes:
    return key.to_bytes(8, "big") + service_action_key.to_bytes(8, "big") + bytes(8)


@pytest.mark.vm_timeout(BOOT_TIMEOUT + 1800)
def test_a_guest_of_qemu_reserves_writes_and_outlives_a_restart(lio, tmp_path):
    unit = lio.fresh(2)
    nexus, other = unit.nexuses
    with ExitStack() as stack, ExitStack() as first_run:
        rig = first_run.enter_context(helper(tmp_path, nexus))
        guest = stack.enter_context(inner_guest(tmp_path, nexus.sd, rig.path))
        assert guest.drained(TEST_UNIT_READY).good
        tracked = rig.units[nexus.nodes.address]

        # Nothing is registered: PRGENERATION and an empty list.
        keys = guest.execute(READ_KEYS, data_in=64)
        generation = unit.generation
        assert keys.good
        assert keys.data[:8] == generation.to_bytes(4, "big") + bytes(4)
        assert tracked.state.key == 0

        registered = guest.execute(REGISTER, data_out=register_list(0, KEY))
        assert (registered.status, registered.sense) == (0, b"")
        assert tracked.state.key == KEY
        assert unit.registered == {nexus.initiator: KEY}
        keys = guest.execute(READ_KEYS, data_in=64)
        assert keys.good
        assert keys.data[:16] == (generation + 1).to_bytes(4, "big") + bytes([0, 0, 0, 8]) + KEY.to_bytes(8, "big")

        reserved = guest.execute(RESERVE_WRITE_EXCLUSIVE, data_out=register_list(KEY, 0))
        assert (reserved.status, reserved.sense) == (0, b"")
        assert (tracked.state.key, tracked.state.type) == (KEY, 1)
        assert unit.holder == nexus.initiator
        assert unit.reservation_type == "Write Exclusive Access"
        reservation = guest.execute(READ_RESERVATION, data_in=64)
        assert reservation.good
        assert reservation.data[4:24] == bytes([0, 0, 0, 16]) + KEY.to_bytes(8, "big") + bytes([0, 0, 0, 0, 0, 1, 0, 0])

        # LIO offers SIP_C and ATP_C; the guest is not told.
        offered = nexus.direct.persistent_reserve_in(2, 8).data
        capabilities = guest.execute(REPORT_CAPABILITIES, data_in=8)
        assert offered[2] & 0x0C == 0x0C
        assert capabilities.good
        assert capabilities.data == offered[:2] + bytes([offered[2] & 0xF3]) + offered[3:]

        # What pyproxy refuses arrives as sense data, through QEMU and the guest's kernel.
        moved = guest.execute(REGISTER_AND_MOVE, data_out=register_list(KEY, KEY))
        assert (moved.status, moved.key_asc_ascq) == (2, (5, 0x24, 0))

        # Data do not pass pyproxy. The guest writes under its reservation, the other host does not.
        assert guest.execute(WRITE_BLOCK_5, data_out=BLOCK).good
        assert guest.execute(READ_BLOCK_5, data_in=512).data == BLOCK
        assert other.direct.drained(lambda: other.direct.execute(READ_BLOCK_5, data_in=512)).data == BLOCK
        assert other.direct.execute(WRITE_BLOCK_5, data_out=bytes(512)).status == RESERVATION_CONFLICT

        assert guest.ask_monitor("query-pr-managers") == [{"id": "pr0", "connected": True}]
        assert rig.server.counts().connections == 1

        # pyproxy ends and starts again while the guest is idle; QEMU notices at the guest's next command.
        first_run.close()
        assert not rig.path.exists()
        assert guest.ask_monitor("query-pr-managers") == [{"id": "pr0", "connected": True}]
        restarted = stack.enter_context(helper(tmp_path, nexus))
        assert restarted.path == rig.path
        assert restarted.server.counts().accepted == 0
        keys = guest.execute(READ_KEYS, data_in=64)
        assert (keys.status, keys.sense) == (0, b"")
        assert keys.data[:16] == (generation + 1).to_bytes(4, "big") + bytes([0, 0, 0, 8]) + KEY.to_bytes(8, "big")
        assert restarted.server.counts().accepted == 1
        assert guest.ask_monitor("query-pr-managers") == [{"id": "pr0", "connected": True}]
        assert [event["data"] for event in guest.events if event["event"] == "PR_MANAGER_STATUS_CHANGED"] == [
            {"id": "pr0", "connected": False},
            {"id": "pr0", "connected": True},
        ]
        tracked = restarted.units[nexus.nodes.address]
        assert (tracked.state.key, tracked.state.type) == (KEY, 1)
        assert unit.holder == nexus.initiator

        released = guest.execute(RELEASE_WRITE_EXCLUSIVE, data_out=register_list(KEY, 0))
        assert (released.status, released.sense) == (0, b"")
        assert (tracked.state.key, tracked.state.type) == (KEY, None)
        assert unit.holder is None
        assert unit.registered == {nexus.initiator: KEY}
        assert guest.power_off() == 0
