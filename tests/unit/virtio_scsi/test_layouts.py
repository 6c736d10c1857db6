"""Structures of virtio-scsi as literal bytes, and against the kernel's own header."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.driver import scsi as driver
from pyproxy.frontend.virtio_scsi import event as events
from pyproxy.frontend.virtio_scsi.config_space import ControllerConfig
from pyproxy.frontend.virtio_scsi.control import (
    ControlType,
    NotificationRequest,
    TaskManagement,
    TaskManagementRequest,
    decode_control,
)
from pyproxy.frontend.virtio_scsi.event import Announcer, Event, EventKind, ResetReason
from pyproxy.frontend.virtio_scsi.lun import WELL_KNOWN, Address, decode_lun, encode_event_lun, encode_lun
from pyproxy.frontend.virtio_scsi.response import Response

LUN = bytes.fromhex("01 05 41 2c 00 00 00 00")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address(0, 0), "01 00 40 00 00 00 00 00"),
        (Address(5, 3), "01 05 40 03 00 00 00 00"),
        (Address(255, 255), "01 ff 40 ff 00 00 00 00"),
        (Address(5, 300), "01 05 41 2c 00 00 00 00"),
        (Address(0, 16383), "01 00 7f ff 00 00 00 00"),
        (WELL_KNOWN, "c1 01 00 00 00 00 00 00"),
    ],
)
def test_lun_fields(address, text):
    assert encode_lun(address) == bytes.fromhex(text)
    assert decode_lun(bytes.fromhex(text)) == address


def test_peripheral_addressing_is_understood():
    assert decode_lun(bytes.fromhex("01 05 00 ff 00 00 00 00")) == Address(5, 255)


@pytest.mark.parametrize(
    "text",
    [
        "00 00 40 00 00 00 00 00",
        "02 00 40 00 00 00 00 00",
        "01 00 01 00 00 00 00 00",
        "01 00 80 00 00 00 00 00",
        "01 00 c1 01 00 00 00 00",
        "01 00 40 00 40 00 00 00",
        "01 00 40 00 00 00 00 01",
        "c1 00 00 00 00 00 00 00",
        "c1 01 00 00 00 00 00 01",
    ],
)
def test_lun_fields_that_lead_nowhere(text):
    assert decode_lun(bytes.fromhex(text)) is None


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8))
def test_any_lun_field(field):
    address = decode_lun(field)
    if address is not None:
        assert encode_lun(address)[0:2] == field[0:2]
        assert decode_lun(encode_lun(address)) == address


@pytest.mark.parametrize("address", [Address(-1, 0), Address(256, 0), Address(0, -1), Address(0, 16384)])
def test_addresses_that_do_not_fit(address):
    with pytest.raises(ValueError, match="expected 0 to"):
        encode_lun(address)
    with pytest.raises(ValueError, match="expected 0 to"):
        encode_event_lun(address)


def test_a_lun_field_of_another_size():
    with pytest.raises(ValueError, match="8 bytes"):
        decode_lun(bytes(7))


def test_luns_in_events_are_as_linux_reads_them():
    """Linux takes bytes 2 and 3 as they are, so a LUN below 256 has no 40h."""
    assert encode_event_lun(Address(5, 3)) == bytes.fromhex("01 05 00 03 00 00 00 00")
    assert encode_event_lun(Address(5, 300)) == bytes.fromhex("01 05 41 2c 00 00 00 00")


CONTROL = [
    (TaskManagementRequest(0, LUN, 0x1122334455667788), "00000000 00000000 01 05 41 2c 00 00 00 00 8877665544332211"),
    (TaskManagementRequest(5, LUN, 0), "00000000 05000000 01 05 41 2c 00 00 00 00 0000000000000000"),
    (TaskManagementRequest(0xFFFFFFFF, LUN, 0), "00000000 ffffffff 01 05 41 2c 00 00 00 00 0000000000000000"),
    (NotificationRequest(False, LUN, 0x7E), "01000000 01 05 41 2c 00 00 00 00 7e000000"),
    (NotificationRequest(True, LUN, 0x7E), "02000000 01 05 41 2c 00 00 00 00 7e000000"),
]


@pytest.mark.parametrize(("request_", "text"), CONTROL)
def test_control_requests(request_, text):
    data = bytes.fromhex(text)
    assert request_.encode() == data
    assert decode_control(data) == request_
    assert decode_control(data + b"\xff\xff") == request_
    for cut in range(len(data)):
        assert decode_control(data[:cut]) is None


def test_control_answers():
    assert CONTROL[0][0].answer(Response.FUNCTION_REJECTED) == b"\x0b"
    assert CONTROL[3][0].answer(Response.BAD_TARGET) == bytes.fromhex("00000000 03")


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_control_request(data):
    decoded = decode_control(data)
    if decoded is not None:
        assert data.startswith(decoded.encode())


def test_unknown_control_types():
    assert decode_control(bytes.fromhex("03000000") + bytes(20)) is None


def test_events():
    event = Event(EventKind.TRANSPORT_RESET, bytes.fromhex("0105000300000000"), ResetReason.REMOVED)
    data = bytes.fromhex("01000000 01 05 00 03 00 00 00 00 02000000")
    assert event.encode() == data
    assert Event.decode(data) == event
    missed = Event(EventKind.NO_EVENT, bytes(8), 0, missed=True)
    assert missed.encode().hex() == "00000080" + 24 * "0"
    assert Event.decode(missed.encode()) == missed
    with pytest.raises(ValueError, match="16 bytes"):
        Event.decode(data[:-1])


def test_announcing_is_gated_by_what_the_guest_negotiated():
    sent: list[str] = []
    features = 0
    announcer = Announcer(lambda event: sent.append(event.hex()) or True, lambda: features)
    place = Address(2, 1)
    assert not announcer.added(place)
    assert not announcer.parameter_changed(place, 0x2A, 0x09)
    features = 1 << 1
    assert announcer.added(place)
    assert announcer.removed(place)
    assert not announcer.parameter_changed(place, 0x2A, 0x09)
    features = 1 << 2
    assert announcer.parameter_changed(place, 0x2A, 0x09)
    assert not announcer.added(place)
    assert sent == [
        "01000000010200010000000001000000",
        "01000000010200010000000002000000",
        "0300000001020001000000002a090000",
    ]
    assert not Announcer(lambda _: False, lambda: features).parameter_changed(place, 0x2A, 0x09)


CONFIG = bytes.fromhex("02000000 7e000000 ffff0000 80000000 10000000 60000000 20000000 0000 ff00 ff3f0000")


def test_the_configuration_space_as_qemu_has_it():
    config = ControllerConfig(num_queues=2)
    assert config.encode() == CONFIG
    assert ControllerConfig.decode(CONFIG) == config
    for wrong in (CONFIG[:-1], CONFIG + b"\0"):
        with pytest.raises(ValueError, match="36 bytes"):
            ControllerConfig.decode(wrong)
    with pytest.raises(ValueError, match="does not fit"):
        ControllerConfig(max_target=1 << 16).encode()


def test_writing_the_configuration_space():
    config = ControllerConfig()
    assert config.written(20, bytes.fromhex("60000000 20000000")) == config
    for offset, text in ((20, "12000000"), (24, "10000000"), (0, "05"), (8, "00")):
        with pytest.raises(ValueError, match="changes what is fixed"):
            config.written(offset, bytes.fromhex(text))
    for offset, size in ((-1, 1), (36, 1), (0, 37)):
        with pytest.raises(ValueError, match="outside"):
            config.written(offset, bytes(size))


PROGRAM = r"""
#include <stdio.h>
#include <stddef.h>
#include <linux/virtio_scsi.h>
#define N(x) printf("%llu ", (unsigned long long)(x))
int main(void)
{
    N(sizeof(struct virtio_scsi_cmd_req)); N(offsetof(struct virtio_scsi_cmd_req, tag));
    N(offsetof(struct virtio_scsi_cmd_req, task_attr)); N(offsetof(struct virtio_scsi_cmd_req, cdb));
    N(sizeof(struct virtio_scsi_cmd_resp)); N(offsetof(struct virtio_scsi_cmd_resp, resid));
    N(offsetof(struct virtio_scsi_cmd_resp, status)); N(offsetof(struct virtio_scsi_cmd_resp, response));
    N(offsetof(struct virtio_scsi_cmd_resp, sense));
    N(sizeof(struct virtio_scsi_ctrl_tmf_req)); N(offsetof(struct virtio_scsi_ctrl_tmf_req, lun));
    N(offsetof(struct virtio_scsi_ctrl_tmf_req, tag)); N(sizeof(struct virtio_scsi_ctrl_tmf_resp));
    N(sizeof(struct virtio_scsi_ctrl_an_req)); N(offsetof(struct virtio_scsi_ctrl_an_req, event_requested));
    N(sizeof(struct virtio_scsi_ctrl_an_resp)); N(offsetof(struct virtio_scsi_ctrl_an_resp, response));
    N(sizeof(struct virtio_scsi_event)); N(offsetof(struct virtio_scsi_event, lun));
    N(offsetof(struct virtio_scsi_event, reason));
    N(sizeof(struct virtio_scsi_config)); N(offsetof(struct virtio_scsi_config, sense_size));
    N(offsetof(struct virtio_scsi_config, max_lun));
    N(VIRTIO_SCSI_T_TMF); N(VIRTIO_SCSI_T_AN_QUERY); N(VIRTIO_SCSI_T_AN_SUBSCRIBE);
    N(VIRTIO_SCSI_T_TMF_ABORT_TASK); N(VIRTIO_SCSI_T_TMF_ABORT_TASK_SET); N(VIRTIO_SCSI_T_TMF_CLEAR_ACA);
    N(VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET); N(VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET);
    N(VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET); N(VIRTIO_SCSI_T_TMF_QUERY_TASK); N(VIRTIO_SCSI_T_TMF_QUERY_TASK_SET);
    N(VIRTIO_SCSI_S_OK); N(VIRTIO_SCSI_S_OVERRUN); N(VIRTIO_SCSI_S_ABORTED); N(VIRTIO_SCSI_S_BAD_TARGET);
    N(VIRTIO_SCSI_S_RESET); N(VIRTIO_SCSI_S_BUSY); N(VIRTIO_SCSI_S_TRANSPORT_FAILURE);
    N(VIRTIO_SCSI_S_TARGET_FAILURE); N(VIRTIO_SCSI_S_NEXUS_FAILURE); N(VIRTIO_SCSI_S_FAILURE);
    N(VIRTIO_SCSI_S_FUNCTION_SUCCEEDED); N(VIRTIO_SCSI_S_FUNCTION_REJECTED); N(VIRTIO_SCSI_S_INCORRECT_LUN);
    N(VIRTIO_SCSI_T_NO_EVENT); N(VIRTIO_SCSI_T_TRANSPORT_RESET); N(VIRTIO_SCSI_T_ASYNC_NOTIFY);
    N(VIRTIO_SCSI_T_PARAM_CHANGE); N(VIRTIO_SCSI_T_EVENTS_MISSED);
    N(VIRTIO_SCSI_EVT_RESET_HARD); N(VIRTIO_SCSI_EVT_RESET_RESCAN); N(VIRTIO_SCSI_EVT_RESET_REMOVED);
    return 0;
}
"""


def test_against_the_kernels_header(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    (tmp_path / "layout.c").write_text(PROGRAM, encoding="ascii")
    subprocess.run([compiler, "-o", tmp_path / "layout", tmp_path / "layout.c"], check=True)
    printed = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    assert [int(word) for word in printed.split()] == [
        *(51, 8, 16, 19),
        *(108, 4, 10, 11, 12),
        *(24, 8, 16, 1),
        *(16, 12),
        *(5, 4),
        *(16, 4, 12),
        *(36, 20, 32),
        *ControlType,
        *TaskManagement,
        *Response,
        *EventKind,
        events.EVENTS_MISSED,
        *ResetReason,
    ]
    assert struct.calcsize("<8sQBBB32s") == 51
    assert driver.RESPONSE_SIZE == 108
