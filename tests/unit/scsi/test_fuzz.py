"""Bytes from a hostile guest or a lying device raise DecodeError or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi import (
    capacity,
    identity,
    inquiry,
    pr_cdb,
    pr_in,
    pr_out,
    report_luns,
    rsoc,
    transport_id,
    vpd,
)
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.sense import decode_sense

from . import test_capacity, test_inquiry, test_pr_cdb, test_pr_in, test_pr_out, test_report_luns, test_rsoc, test_vpd
from .checks import hex_bytes

DECODERS: list[Callable[[Any], object]] = [
    pr_cdb.PrIn.decode,
    pr_cdb.PrOut.decode,
    pr_out.ParameterList.decode,
    pr_out.ParameterList.decode_basic,
    pr_out.MoveParameterList.decode,
    pr_in.ReadKeys.decode,
    pr_in.ReadReservation.decode,
    pr_in.ReportCapabilities.decode,
    pr_in.FullStatus.decode,
    transport_id.decode_transport_id,
    transport_id.decode_reported_transport_id,
    inquiry.StandardInquiry.decode,
    vpd.SupportedPages.decode,
    vpd.UnitSerialNumber.decode,
    vpd.DeviceIdentification.decode,
    vpd.BlockLimits.decode,
    vpd.BlockDeviceCharacteristics.decode,
    vpd.LogicalBlockProvisioning.decode,
    capacity.ReadCapacity10.decode,
    capacity.ReadCapacity16.decode,
    report_luns.ReportLuns.decode,
    report_luns.lun_to_int,
    rsoc.SupportedOpcodes.decode,
    rsoc.SupportedOpcode.decode,
    rsoc.CommandTimeouts.decode,
    identity.LogicalUnitIdentity.from_vpd83,
    decode_sense,
]
WRITERS: list[Any] = [
    pr_in.ReadKeys,
    pr_in.ReadReservation,
    pr_in.ReportCapabilities,
    pr_in.FullStatus,
    pr_out.ParameterList,
    pr_out.MoveParameterList,
    vpd.DeviceIdentification,
    vpd.BlockLimits,
    vpd.LogicalBlockProvisioning,
    rsoc.SupportedOpcodes,
    rsoc.SupportedOpcode,
    inquiry.StandardInquiry,
    report_luns.ReportLuns,
    capacity.ReadCapacity16,
]
KNOWN_GOOD = [
    hex_bytes(wire)
    for module_cases in (
        test_pr_cdb.CASES,
        test_pr_out.BASIC + test_pr_out.NAMED + test_pr_out.MOVE,
        test_pr_in.CASES,
        test_vpd.CASES,
        test_capacity.CASES,
        test_report_luns.CASES,
        test_rsoc.CASES,
        [(test_inquiry.LONG, test_inquiry.LONG_WIRE)],
    )
    for _, wire in module_cases
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A well-formed structure with some bytes changed, cut or added: reaches further in than noise does."""
    raw = bytearray(draw(st.sampled_from(KNOWN_GOOD)))
    for position, value in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)):
        raw[position % len(raw)] = value
    cut = draw(st.integers(0, len(raw)))
    return bytes(raw[:cut] if draw(st.booleans()) else raw) + draw(st.binary(max_size=8))


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: getattr(decode, "__qualname__", str(decode)))
@given(data=st.binary(max_size=200) | damaged())
def test_nothing_but_decode_error(decode: Callable[[Any], object], data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data)


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: getattr(decode, "__qualname__", str(decode)))
def test_every_length_of_all_ones_and_all_zeros(decode: Callable[[Any], object]) -> None:
    """FFh everywhere makes every length field as large as it gets."""
    for size in range(120):
        for byte in (b"\x00", b"\xff"):
            with contextlib.suppress(DecodeError):
                decode(byte * size)


@given(data=damaged())
def test_what_was_read_can_be_written_again(data: bytes) -> None:
    """A value that decodes also encodes, so that nothing a device says can break a checkpoint or a report."""
    for codec in WRITERS:
        try:
            value = codec.decode(data)
        except DecodeError:
            continue
        value.encode()
