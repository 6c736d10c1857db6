"""Two initiator names are two I_T nexuses to a target that nobody here wrote (tgt)."""

from __future__ import annotations

import struct

import pytest

from pyproxy.device.base import read_identity
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import IscsiTransportId
from tests.iscsi.commands import (
    BLOCK,
    CONFLICT,
    PREEMPT,
    REGISTER,
    RESERVE,
    TEST_UNIT_READY,
    attention,
    keys,
    pr_out,
    read,
    write,
)
from tests.iscsi.conftest import Open, eventually
from tests.rig.iscsi_proxy import LOGIN, SCSI_COMMAND, IscsiProxy
from tests.rig.tgt import TgtTarget

KEY_A, KEY_B = 0xA1A1A1A1A1A1A1A1, 0xB2B2B2B2B2B2B2B2


def test_target_sees_the_configured_names(target: TgtTarget, open_device: Open) -> None:
    open_device("a")
    open_device("b")
    assert sorted(target.sessions()) == ["iqn.2026-01.org.example:host-a", "iqn.2026-01.org.example:host-b"]


def test_registrations_are_of_each_nexus(open_device: Open) -> None:
    first, second = open_device("a"), open_device("b")
    assert first.execute(pr_out(REGISTER, sa_key=KEY_A)).good
    assert second.execute(pr_out(RESERVE, key=KEY_A, kind=1)).status == CONFLICT
    assert second.execute(pr_out(REGISTER, sa_key=KEY_B)).good
    assert sorted(keys(first)) == sorted(keys(second)) == [KEY_A, KEY_B]


def test_exclusive_access_keeps_the_other_nexus_out(open_device: Open) -> None:
    first, second = open_device("a"), open_device("b")
    assert first.execute(pr_out(REGISTER, sa_key=KEY_A)).good
    assert first.execute(pr_out(RESERVE, key=KEY_A, kind=3)).good
    assert first.execute(write(0, b"a" * BLOCK)).good
    refused = second.execute(write(0, b"b" * BLOCK))
    assert (refused.status, refused.sense, refused.conflict) == (CONFLICT, b"", True)
    assert second.execute(read(0, 1)).conflict
    assert first.execute(read(0, 1)).data == b"a" * BLOCK


def test_preempt_moves_the_reservation_and_tells_the_loser(open_device: Open) -> None:
    first, second = open_device("a"), open_device("b")
    for device, key in ((first, KEY_A), (second, KEY_B)):
        assert device.execute(pr_out(REGISTER, sa_key=key)).good
    assert first.execute(pr_out(RESERVE, key=KEY_A, kind=5)).good
    assert second.execute(pr_out(PREEMPT, key=KEY_B, sa_key=KEY_A, kind=5)).good
    assert keys(second) == [KEY_B]
    assert attention(first.execute(TEST_UNIT_READY)) == "2a/03"  # tgt's; the standard has 2A/05
    assert first.execute(write(0, bytes(BLOCK))).conflict
    assert second.execute(write(0, bytes(BLOCK))).good


def test_login_eats_no_unit_attention(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device("a", portal=proxy.portal, drain=False)
    sent = [pdu.cdb[0] for pdu in proxy.sent if pdu.opcode == SCSI_COMMAND]
    assert set(sent) == {0x12}, "nothing but INQUIRY, which reports no unit attention"
    assert attention(device.execute(TEST_UNIT_READY)) == "29/00"
    assert device.execute(TEST_UNIT_READY).good


def test_sense_arrives_byte_for_byte(open_device: Open) -> None:
    result = open_device("a").execute(read(1 << 20, 1))  # beyond 16 MiB
    assert result.status == 0x02
    assert result.sense[:14] == bytes.fromhex("70 00 05 00 00 00 00 0a 00 00 00 00 21 00")
    assert (result.data, result.residual) == (b"", BLOCK)


def test_initiator_is_what_went_over_the_wire(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device("a", portal=proxy.portal)
    logins = [pdu for pdu in proxy.sent if pdu.opcode == LOGIN]
    texts = [part for pdu in logins for part in pdu.rest.split(b"\0")]
    assert b"InitiatorName=" + device.initiator.name.encode() in texts
    assert {pdu.isid for pdu in logins} == {device.initiator.isid}
    assert device.initiator == IscsiTransportId("iqn.2026-01.org.example:host-a", device.initiator.isid)
    # SPC-4 7.6.4.6, format 01b: name, ",i,0x", ISID, NUL.
    isid = device.initiator.isid
    assert isid is not None
    text = f"iqn.2026-01.org.example:host-a,i,0x{isid.hex()}".encode() + b"\0"
    size = -(-len(text) // 4) * 4
    assert device.initiator.encode() == b"\x45\0" + struct.pack(">H", size) + text.ljust(size, b"\0")


@pytest.mark.parametrize("isid", ["00023d000001", "401234560001", "80aabbccddee"])
def test_configured_isid_of_each_type(proxy: IscsiProxy, open_device: Open, isid: str) -> None:
    open_device("a", portal=proxy.portal, isid=isid)
    assert {pdu.isid.hex() for pdu in proxy.sent if pdu.opcode == LOGIN} == {isid}


def test_identity_is_the_same_through_every_nexus(open_device: Open) -> None:
    assert read_identity(open_device("a")).matches(read_identity(open_device("b")))


def test_target_port_is_not_made_up(open_device: Open) -> None:
    assert open_device("a").rtpi is None  # tgt's page 83h has no relative target port identifier


def test_close_logs_out(target: TgtTarget, open_device: Open) -> None:
    device = open_device("a")
    device.close()
    device.close()
    assert target.sessions() == []


def test_reserve_ends_with_the_nexus(open_device: Open) -> None:
    """RESERVE (6) of SPC-2 is gone with the session (SPC-2 5.5.1), whether logged out or lost."""
    reserve = Command(bytes.fromhex("16 00 00 00 00 00"))
    second = open_device("b")
    for part in (IscsiDevice.close, IscsiDevice.disconnect):
        first = open_device("a", reconnect_seconds=0)
        assert first.execute(reserve).good
        assert second.execute(reserve).conflict
        part(first)
        eventually(lambda: not second.execute(reserve).conflict, "the end of the other's RESERVE")
        assert second.execute(Command(bytes.fromhex("17 00 00 00 00 00"))).good
        first.close()
