"""The rig itself: what the other tests rely on LIO, scsi_debug and udev to do."""

import struct

import pytest

from pyproxy.scsi.transport_id import decode_transport_id
from tests.vm.rig import scsi_debug as scsi_debug_module


def full_status(nexus):
    """READ FULL STATUS as (TransportID, relative target port) of each registration."""
    data = nexus.direct.persistent_reserve_in(3).data
    found, offset = [], 8
    while offset < 8 + struct.unpack_from(">I", data, 4)[0]:
        rtpi, length = struct.unpack_from(">HI", data, offset + 18)
        transport_id, _ = decode_transport_id(data, offset + 24)
        found.append((transport_id, rtpi))
        offset += 24 + length
    return found


@pytest.mark.parametrize("protocol", ["sas", "iscsi", "fc"])
def test_lio_nexuses_reach_one_logical_unit(lio, protocol):
    unit = lio(2, protocol)
    first, second = unit.nexuses
    assert first.direct.write(7, b"\x5a" * 512).good
    assert second.direct.read(7).data == b"\x5a" * 512
    assert {first.relative_target_port, second.relative_target_port} == {1, 2}
    for nexus in unit.nexuses:
        assert nexus.sg.is_char_device()
        assert nexus.sd.is_block_device()
        assert nexus.bsg.is_char_device()


def test_udev_names_the_disk_by_its_designator(lio):
    nexus = lio(2).nexuses[0]
    names = [link.name for link in nexus.nodes.by_id]
    # Both nexuses lead to one unit, so the link points to either node.
    assert names == [] or any(name.startswith("wwn-0x6001405") for name in names)
    assert any(link.name.startswith("wwn-0x6001405") for each in lio(2).nexuses for link in each.nodes.by_id)


def test_configfs_tells_who_is_registered_and_who_holds(lio):
    unit = lio(3)
    first, second, _ = unit.nexuses
    assert (unit.holder, unit.registered, unit.reservation_type) == (None, {}, None)
    assert first.direct.persistent_reserve_out(0, sa_key=0x11).good
    assert second.direct.persistent_reserve_out(0, sa_key=0x22).good
    assert first.direct.persistent_reserve_out(1, key=0x11, type_=1).good
    assert unit.holder == first.initiator
    assert unit.registered == {first.initiator: 0x11, second.initiator: 0x22}
    assert unit.reservation_type == "Write Exclusive Access"
    assert first.direct.keys() == [0x11, 0x22]
    assert second.direct.reservation() == (0x11, 1)
    assert second.direct.write().status == 0x18
    unit.reset()
    assert (unit.holder, unit.registered, unit.reservation_type) == (None, {}, None)


@pytest.mark.parametrize("protocol", ["sas", "iscsi"])
def test_full_status_lists_each_nexus_with_its_transport_id(lio, protocol):
    unit = lio(2, protocol)
    for key, nexus in enumerate(unit.nexuses, start=1):
        assert nexus.direct.persistent_reserve_out(0, sa_key=key).good
    found = dict(full_status(unit.nexuses[0]))
    assert found == {nexus.transport_id: nexus.relative_target_port for nexus in unit.nexuses}


def test_iscsi_sessions_are_nexuses_of_one_unit(iscsi_lio):
    for key, nexus in enumerate(iscsi_lio.nexuses, start=1):
        assert nexus.direct.persistent_reserve_out(0, sa_key=key).good
    first, second, third = iscsi_lio.nexuses
    assert first.direct.persistent_reserve_out(1, key=1, type_=5).good
    assert iscsi_lio.registered == {first.initiator: 1, second.initiator: 2, third.initiator: 3}
    assert iscsi_lio.holder == first.initiator
    assert {descriptor for descriptor, _ in full_status(first)} == {each.transport_id for each in iscsi_lio.nexuses}


def test_preempt_and_abort_ends_behind_iscsi(iscsi_lio):
    first, second, _ = iscsi_lio.nexuses
    assert first.direct.persistent_reserve_out(0, sa_key=1).good
    assert second.direct.persistent_reserve_out(0, sa_key=2).good
    assert first.direct.persistent_reserve_out(1, key=1, type_=1).good
    assert second.direct.persistent_reserve_out(5, key=2, sa_key=1, type_=1).good
    assert iscsi_lio.registered == {second.initiator: 2}
    assert iscsi_lio.holder == second.initiator


def test_a_path_goes_offline_and_comes_back(lio):
    first, second = lio(2).nexuses
    first.offline()
    assert first.direct.execute(bytes(6)).host_status == 0x0E
    assert second.direct.execute(bytes(6)).good
    first.online()
    assert first.direct.drain_unit_attentions() == [(6, 0x29, 0x07)]
    assert second.direct.drain_unit_attentions() == []


def test_a_nexus_is_unplugged_and_plugged(lio):
    first, second = lio.fresh(2).nexuses
    node = first.sg
    first.unplug()
    assert not node.exists()
    assert second.direct.execute(bytes(6)).good
    first.plug()
    first.direct.drain_unit_attentions()
    assert first.direct.execute(bytes(6)).good


def test_scsi_debug_has_disks_but_no_persistent_reservations(scsi_debug):
    from tests.vm.rig.sg_direct import SgNode

    disks = scsi_debug(dev_size_mb=8, add_host=2, per_host_store=1, delay=0)
    assert len(disks) == 2
    for disk in disks:
        node = SgNode(disk.sg)
        node.drain_unit_attentions()
        assert node.persistent_reserve_in(0).key_asc_ascq == (5, 0x20, 0)
        node.close()
    scsi_debug_module.set_parameter("delay", 1)
