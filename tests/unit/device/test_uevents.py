"""Uevents as the kernel sends them, as nobody should, and from senders that are not the kernel."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.device.uevents import LARGEST, UeventSocket, decode_uevent, from_kernel

DEVICE = "/devices/pseudo_0/adapter0/host2/target2:0:0/2:0:0:0"
CAPACITY = (
    f"change@{DEVICE}\0ACTION=change\0DEVPATH={DEVICE}\0SUBSYSTEM=scsi\0SDEV_UA=CAPACITY_DATA_HAS_CHANGED\0"
    "DEVTYPE=scsi_device\0DRIVER=sd\0MODALIAS=scsi:t-0x00\0SEQNUM=1234\0"
).encode()
RESIZE = (
    f"change@{DEVICE}/block/sda\0ACTION=change\0DEVPATH={DEVICE}/block/sda\0SUBSYSTEM=block\0RESIZE=1\0MAJOR=8\0"
    "MINOR=0\0DEVNAME=sda\0DEVTYPE=disk\0DISKSEQ=9\0SEQNUM=1235\0"
).encode()
LINK = b"add@/devices/virtual/net/veth0\0ACTION=add\0DEVPATH=/devices/virtual/net/veth0\0SUBSYSTEM=net\0SEQNUM=7\0"


def test_a_capacity_that_changed():
    event = decode_uevent(CAPACITY)
    assert event is not None
    assert (event.action, event.devpath, event.subsystem) == ("change", DEVICE, "scsi")
    assert (event.scsi_address, event.capacity_changed) == ("2:0:0:0", True)


def test_what_belongs_to_a_device_has_its_address():
    event = decode_uevent(RESIZE)
    assert event is not None
    assert (event.subsystem, event.scsi_address, event.capacity_changed) == ("block", "2:0:0:0", True)


def test_what_is_no_scsi_device():
    event = decode_uevent(LINK)
    assert event is not None
    assert (event.subsystem, event.scsi_address, event.capacity_changed) == ("net", None, False)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0",
        b"add@/devices/x",
        b"add@/devices/x\0",
        b"add@devices/x\0ACTION=add\0DEVPATH=devices/x\0",
        b"@/x\0ACTION=\0DEVPATH=/x\0",
        b"/x\0ACTION=add\0DEVPATH=/x\0",
        CAPACITY[:-1],
        CAPACITY[: CAPACITY.index(b"DEVPATH")],
        CAPACITY.replace(b"ACTION=change", b"ACTION=remove"),
        CAPACITY.replace(b"DEVPATH=/devices", b"DEVPATH=/other"),
        CAPACITY + b"=1\0",
        CAPACITY + b"nothing\0",
        CAPACITY + b"ACTION=remove\0",
        b"libudev\0" + bytes(32) + b"ACTION=add\0DEVPATH=/x\0",
    ],
)
def test_what_the_kernel_never_sends(datagram):
    assert decode_uevent(datagram) is None


@given(st.binary(max_size=LARGEST))
def test_any_bytes_are_read_or_refused(datagram):
    event = decode_uevent(datagram)
    assert event is None or event.devpath.startswith("/")


@given(st.integers(0, len(CAPACITY) - 1), st.integers(0, 255))
def test_a_byte_changed(position, value):
    event = decode_uevent(CAPACITY[:position] + bytes([value]) + CAPACITY[position + 1 :])
    assert event is None or event.properties["ACTION"] == event.action


@pytest.mark.parametrize("sender", [(os.getpid(), 1), (0, 2), (0, 0), (1, 0), None, ()])
def test_senders_that_are_not_the_kernel(sender):
    assert from_kernel((0, 1))
    assert not from_kernel(sender)


def test_a_message_of_another_process_is_not_taken():
    """Whoever may send to the socket's own port number is still not the kernel."""
    with UeventSocket() as receiving:
        port = socket.socket(fileno=os.dup(receiving.fileno()))
        with port, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as forger:
            forger.bind((0, 0))
            try:
                forger.sendto(CAPACITY, (port.getsockname()[0], 0))
            except PermissionError:
                return  # the kernel refused to carry it, as it does for users without privileges
            assert receiving.wait(60)
            events, lost = receiving.receive()
        assert CAPACITY.split(b"\0")[0].decode() not in [f"{event.action}@{event.devpath}" for event in events]
        assert not lost


def test_nothing_waits():
    with UeventSocket() as receiving:
        assert receiving.receive()[1] is False
