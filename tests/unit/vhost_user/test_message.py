"""Every message as literal bytes (little-endian machine): whole, truncated, with trailing bytes, out of bounds."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.features import OFFERED, OFFERED_PROTOCOL
from pyproxy.frontend.vhost_user.message import (
    ConfigAccess,
    Header,
    InflightArea,
    LogArea,
    MemoryRegion,
    Message,
    MessageError,
    Request,
    VringAddress,
    VringDescriptor,
    VringState,
)

REGION = MemoryRegion(0x1_0000_0000, 0x1000_0000, 0x7F75_53FF_F000, 0x2000)
REGION_BYTES = "00 00 00 00 01 00 00 00  00 00 00 10 00 00 00 00  00 f0 ff 53 75 7f 00 00  00 20 00 00 00 00 00 00"
LOW = MemoryRegion(0, 0xA0000, 0x1000, 0)
LOW_BYTES = "00 00 00 00 00 00 00 00  00 00 0a 00 00 00 00 00  00 10 00 00 00 00 00 00  00 00 00 00 00 00 00 00"

CASES = [
    (VringState(2, 128), VringState.decode, "02 00 00 00 80 00 00 00"),
    (
        VringAddress(2, 1, 0x7F7563FDC000, 0x7F7563FDD000, 0x7F7563FDC800, 0xFFDE0),
        VringAddress.decode,
        (
            "02 00 00 00 01 00 00 00  00 c0 fd 63 75 7f 00 00  00 d0 fd 63 75 7f 00 00"
            "00 c8 fd 63 75 7f 00 00  e0 fd 0f 00 00 00 00 00"
        ),
    ),
    (VringDescriptor(3, True), VringDescriptor.decode, "03 00 00 00 00 00 00 00"),
    (VringDescriptor(3, False), VringDescriptor.decode, "03 01 00 00 00 00 00 00"),
    (LogArea(8192, 4096), LogArea.decode, "00 20 00 00 00 00 00 00  00 10 00 00 00 00 00 00"),
    (
        InflightArea(0x2100, 0x1000, 4, 128),
        InflightArea.decode,
        "00 21 00 00 00 00 00 00  00 10 00 00 00 00 00 00  04 00 80 00 00 00 00 00",
    ),
    (
        ConfigAccess(20, 1, bytes.fromhex("60000000")),
        ConfigAccess.decode,
        "14 00 00 00 04 00 00 00 01 00 00 00  60 00 00 00",
    ),
]


@pytest.mark.parametrize(("value", "decode", "text"), CASES)
def test_payloads(value, decode, text):
    data = bytes.fromhex(text)
    assert value.encode() == data
    assert decode(data) == value
    for cut in range(len(data)):
        with pytest.raises(MessageError):
            decode(data[:cut])
    with pytest.raises(MessageError):
        decode(data + b"\0")


def test_memory_tables():
    data = bytes.fromhex("02 00 00 00 00 00 00 00" + LOW_BYTES + REGION_BYTES)
    assert wire.encode_memory_table([LOW, REGION]) == data
    assert wire.decode_memory_table(data) == (LOW, REGION)
    for cut in range(len(data)):
        with pytest.raises(MessageError):
            wire.decode_memory_table(data[:cut])
    with pytest.raises(MessageError):
        wire.decode_memory_table(data + b"\0")
    assert wire.decode_memory_table(bytes(8)) == ()
    with pytest.raises(MessageError, match="a memory table of 9 regions, at most 8 are taken"):
        wire.decode_memory_table(bytes.fromhex("09 00 00 00 00 00 00 00") + bytes(9 * 32))
    with pytest.raises(MessageError, match="4294967295 regions"):
        wire.decode_memory_table(bytes.fromhex("ff ff ff ff 00 00 00 00") + bytes(8 * 32))
    with pytest.raises(ValueError, match="at most 8"):
        wire.encode_memory_table([LOW] * 9)


def test_a_single_region():
    data = bytes(8) + bytes.fromhex(REGION_BYTES)
    assert wire.encode_single_region(REGION) == data
    assert wire.decode_single_region(data) == REGION
    for wrong in (data[:-1], data + b"\0", data[8:]):
        with pytest.raises(MessageError, match="a single memory region has 40 bytes"):
            wire.decode_single_region(wrong)


def test_numbers_and_nothing():
    assert wire.encode_u64(0x1_4000_0000) == bytes.fromhex("00 00 00 40 01 00 00 00")
    assert wire.decode_u64(bytes.fromhex("00 00 00 40 01 00 00 00")) == 0x1_4000_0000
    for wrong in (bytes(7), bytes(9), b""):
        with pytest.raises(MessageError):
            wire.decode_u64(wrong)
    wire.decode_empty(b"")
    with pytest.raises(MessageError):
        wire.decode_empty(b"\0")


@pytest.mark.parametrize("text", ["00 02 00 00 00 00 00 00", "00 00 01 00 00 00 00 00", "00 00 00 00 00 00 00 80"])
def test_unknown_bits_beside_a_ring_number(text):
    with pytest.raises(MessageError, match="unknown bits in ring number"):
        VringDescriptor.decode(bytes.fromhex(text))


def test_configuration_payloads_stay_within_256_bytes():
    assert ConfigAccess.decode(bytes.fromhex("00 00 00 00 00 01 00 00 00 00 00 00") + bytes(256)).data == bytes(256)
    for text, size in (
        ("00 00 00 00 01 01 00 00 00 00 00 00", 257),
        ("01 00 00 00 00 01 00 00 00 00 00 00", 256),
        ("ff ff ff ff 01 00 00 00 00 00 00 00", 1),
        ("00 00 00 00 ff ff ff ff 00 00 00 00", 0),
    ):
        with pytest.raises(MessageError):
            ConfigAccess.decode(bytes.fromhex(text) + bytes(size))
    with pytest.raises(ValueError, match="at most 256"):
        ConfigAccess(0, 0, bytes(257)).encode()


def test_headers():
    assert Header.decode(bytes.fromhex("05 00 00 00 09 00 00 00 28 00 00 00")) == Header(5, 0x9, 40)
    assert Header.decode(bytes.fromhex("05 00 00 00 09 00 00 00 28 00 00 00")).needs_reply
    assert Header.decode(bytes.fromhex("0b 00 00 00 05 00 00 00 08 00 00 00")).is_reply
    assert Header.decode(bytes.fromhex("0c 01 00 00 01 00 00 00 0c 01 00 00")).size == 268
    for text, why in (
        ("05 00 00 00 00 00 00 00 28 00 00 00", "version 0"),
        ("05 00 00 00 02 00 00 00 28 00 00 00", "version 2"),
        ("05 00 00 00 11 00 00 00 28 00 00 00", "unknown flags 0x11"),
        ("05 00 00 00 01 00 00 80 28 00 00 00", "unknown flags 0x80000001"),
        ("05 00 00 00 01 00 00 00 0d 01 00 00", "SET_MEM_TABLE: a payload of 269 bytes, at most 268 are taken"),
        ("63 00 00 00 01 00 00 00 ff ff ff ff", "request 99: a payload of 4294967295 bytes"),
    ):
        with pytest.raises(MessageError, match=why):
            Header.decode(bytes.fromhex(text))
    with pytest.raises(MessageError):
        Header.decode(bytes(11))


def test_whole_messages():
    asked = Message(Request.SET_VRING_ENABLE, VringState(1, 1).encode(), (), needs_reply=True)
    assert asked.encode().hex(" ") == "12 00 00 00 09 00 00 00 08 00 00 00 01 00 00 00 01 00 00 00"
    # A reply has exactly these flags whatever the request had: QEMU compares them for equality.
    assert asked.encode_reply().hex(" ") == "12 00 00 00 05 00 00 00 08 00 00 00 01 00 00 00 01 00 00 00"
    assert Message(Request.SET_OWNER).encode().hex(" ") == "03 00 00 00 01 00 00 00 00 00 00 00"
    with pytest.raises(ValueError, match="at most 268"):
        Message(Request.SET_CONFIG, bytes(269)).encode()


def test_values_that_do_not_fit():
    for value in (
        VringState(-1, 0),
        VringState(0, 1 << 32),
        InflightArea(0, 0, 1 << 16, 1),
        MemoryRegion(1 << 64, 0, 0, 0),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            value.encode()
    with pytest.raises(ValueError, match="does not fit 8 bits"):
        VringDescriptor(256, True).encode()


def test_what_is_offered():
    """Reference: MQ 0, LOG_SHMFD 1, REPLY_ACK 3, INFLIGHT_SHMFD 12, RESET_DEVICE 13, CONFIGURE_MEM_SLOTS 15."""
    assert OFFERED_PROTOCOL == 0xB00B
    # HOTPLUG 1, LOG_ALL 26, ANY_LAYOUT 27, INDIRECT_DESC 28, EVENT_IDX 29, PROTOCOL_FEATURES 30, VERSION_1 32.
    assert OFFERED == 0x1_7C00_0002


u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.builds(VringAddress, u32, u32, u64, u64, u64, u64))
def test_round_trip_of_addresses(value):
    assert VringAddress.decode(value.encode()) == value


@settings(deadline=None)
@given(st.lists(st.builds(MemoryRegion, u64, u64, u64, u64), max_size=8))
def test_round_trip_of_tables(regions):
    assert wire.decode_memory_table(wire.encode_memory_table(regions)) == tuple(regions)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_decoders_raise_nothing_else(data):
    for decode in (
        wire.decode_memory_table,
        wire.decode_single_region,
        wire.decode_u64,
        wire.decode_empty,
        Header.decode,
        *(case[1] for case in CASES),
    ):
        with contextlib.suppress(MessageError):
            decode(data)


HEADER_PROGRAM = r"""
#include <stdio.h>
#include <stddef.h>
#include <linux/vhost.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>
#define SHOW(x) printf("%s %llu\n", #x, (unsigned long long)(x))
int main(void)
{
    SHOW(sizeof(struct vhost_vring_state));
    SHOW(offsetof(struct vhost_vring_state, num));
    SHOW(sizeof(struct vhost_vring_addr));
    SHOW(offsetof(struct vhost_vring_addr, desc_user_addr));
    SHOW(offsetof(struct vhost_vring_addr, used_user_addr));
    SHOW(offsetof(struct vhost_vring_addr, avail_user_addr));
    SHOW(offsetof(struct vhost_vring_addr, log_guest_addr));
    SHOW(1ULL << VHOST_VRING_F_LOG);
    SHOW(VHOST_F_LOG_ALL);
    SHOW(VIRTIO_F_VERSION_1);
    SHOW(VIRTIO_F_ANY_LAYOUT);
    SHOW(VIRTIO_RING_F_INDIRECT_DESC);
    SHOW(VIRTIO_RING_F_EVENT_IDX);
    SHOW(VIRTIO_SCSI_F_HOTPLUG);
    SHOW(VIRTIO_SCSI_F_CHANGE);
    SHOW(VIRTIO_F_ACCESS_PLATFORM);
    SHOW(VIRTIO_F_RING_PACKED);
    return 0;
}
"""

FROM_KERNEL = {
    "sizeof(struct vhost_vring_state)": 8,
    "offsetof(struct vhost_vring_state, num)": 4,
    "sizeof(struct vhost_vring_addr)": 40,
    "offsetof(struct vhost_vring_addr, desc_user_addr)": 8,
    "offsetof(struct vhost_vring_addr, used_user_addr)": 16,
    "offsetof(struct vhost_vring_addr, avail_user_addr)": 24,
    "offsetof(struct vhost_vring_addr, log_guest_addr)": 32,
    "1ULL << VHOST_VRING_F_LOG": wire.LOG_USED_RING,
    "VHOST_F_LOG_ALL": 26,
    "VIRTIO_F_VERSION_1": 32,
    "VIRTIO_F_ANY_LAYOUT": 27,
    "VIRTIO_RING_F_INDIRECT_DESC": 28,
    "VIRTIO_RING_F_EVENT_IDX": 29,
    "VIRTIO_SCSI_F_HOTPLUG": 1,
    "VIRTIO_SCSI_F_CHANGE": 2,
    "VIRTIO_F_ACCESS_PLATFORM": 33,
    "VIRTIO_F_RING_PACKED": 34,
}


def test_against_the_kernels_headers(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    source = tmp_path / "layout.c"
    source.write_text(HEADER_PROGRAM, encoding="ascii")
    subprocess.run([compiler, "-o", tmp_path / "layout", source], check=True)
    printed = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    found = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in printed.splitlines()}
    # The preprocessor spells macros out, so names that are macros are compared by what they stand in order for.
    assert list(found.values()) == list(FROM_KERNEL.values())
