"""What sg3-utils, which nobody here wrote, reads in the bytes our encoders produce."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.scsi import sense as sense_module
from pyproxy.scsi.additional_sense import ADDITIONAL_SENSE_NAMES
from pyproxy.scsi.inquiry import StandardInquiry
from pyproxy.scsi.report_luns import int_to_lun
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.vpd import (
    BlockDeviceCharacteristics,
    BlockLimits,
    Designator,
    DeviceIdentification,
    LogicalBlockProvisioning,
    SupportedPages,
    UnitSerialNumber,
)

from .conftest import Tool


def read(tool: Tool, sense: Sense, *, descriptor: bool = False) -> list[str]:
    return [line.strip() for line in tool("sg_decode_sense", sense.encode(descriptor).hex(), "--nospace").splitlines()]


KEYS = {
    0x0: "No Sense",
    0x1: "Recovered Error",
    0x2: "Not Ready",
    0x3: "Medium Error",
    0x4: "Hardware Error",
    0x5: "Illegal Request",
    0x6: "Unit Attention",
    0x7: "Data Protect",
    0x8: "Blank Check",
    0xB: "Aborted Command",
    0xE: "Miscompare",
}


@pytest.mark.parametrize("name", sorted(name for name, value in vars(sense_module).items() if isinstance(value, Sense)))
@pytest.mark.parametrize("descriptor", [False, True], ids=["fixed", "descriptor"])
def test_every_sense_constant(sg3_utils: Tool, name: str, descriptor: bool) -> None:
    value = getattr(sense_module, name)
    lines = read(sg3_utils, value, descriptor=descriptor)
    form = "Descriptor" if descriptor else "Fixed"
    assert lines[0] == f"{form} format, current; Sense key: {KEYS[value.key]}"
    assert lines[1].removeprefix("Additional sense: ").upper() == str(value).partition(" ")[2]


def test_every_additional_sense_name(sg3_utils: Tool) -> None:
    differing = {}
    for (asc, ascq), name in ADDITIONAL_SENSE_NAMES.items():
        said = read(sg3_utils, Sense(0x6, asc, ascq))[1].removeprefix("Additional sense: ")
        if said.upper() != name:
            differing[f"{asc:02X}/{ascq:02X}"] = (name, said)
    assert differing == {}


def test_sense_fields(sg3_utils: Tool) -> None:
    assert "<<<deferred>>>" in read(sg3_utils, Sense(4, 0x44, 0, deferred=True))[0]
    assert "Info fld=0x1234 [4660]" in read(sg3_utils, Sense(3, 0x11, 0, information=0x1234))
    long = Sense(3, 0x11, 0, information=0x100000005)
    assert "Descriptor type: Information: 0x0000000100000005" in read(sg3_utils, long, descriptor=True)
    in_list = Sense(5, 0x26, 0).with_field_pointer(20, 3)
    assert "Sense Key Specific: Error in Data parameters: byte 20 bit 3" in read(sg3_utils, in_list)
    assert "Error in Data parameters: byte 20 bit 3" in read(sg3_utils, in_list, descriptor=True)
    in_cdb = Sense(5, 0x24, 0).with_field_pointer(1, in_cdb=True)
    assert "Sense Key Specific: Error in Command: byte 1" in read(sg3_utils, in_cdb)


def test_standard_inquiry(sg3_utils: Tool, tmp_path: Path) -> None:
    value = StandardInquiry(
        removable=True, tpgs=1, third_party_copy=True, protect=True, encserv=True, multip=True,
        vendor="PYPROXY", product="EMULATED", revision="0001", version_descriptors=(0x0460,),
    )  # fmt: skip
    (tmp_path / "inquiry").write_bytes(value.encode())
    said = " ".join(sg3_utils("sg_inq", "--raw", f"--inhex={tmp_path / 'inquiry'}").split())
    for expected in (
        "PQual=0 PDT=0 RMB=1", "version=0x06 [SPC-4]", "NormACA=0 HiSUP=1 Resp_data_format=2",
        "SCCS=0 ACC=0 TPGS=1 3PC=1 Protect=1", "EncServ=1 MultiP=1", "CmdQue=1", "length=96 (0x60)",
        "Vendor identification: PYPROXY", "Product identification: EMULATED", "Product revision level: 0001",
    ):  # fmt: skip
        assert expected in said


def vpd(tool: Tool, directory: Path, page: bytes) -> list[str]:
    (directory / "page").write_bytes(page)
    said = tool("sg_vpd", "--raw", f"--inhex={directory / 'page'}", f"--page={page[1]:#x}")
    return [" ".join(line.split()) for line in said.splitlines()]


def assert_says(said: list[str], expected: list[str]) -> None:
    """All of the lines, in this order; versions of sg3-utils differ in what they say between them."""
    lines = iter(said)
    missing = [line for line in expected if line not in lines]
    assert not missing, said


def test_supported_pages(sg3_utils: Tool, tmp_path: Path) -> None:
    said = vpd(sg3_utils, tmp_path, SupportedPages((0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2)).encode())
    assert_says(
        said,
        [
            "Supported VPD pages [sv]",
            "Unit serial number [sn]",
            "Device identification [di]",
            "Block limits (SBC) [bl]",
            "Block device characteristics (SBC) [bdc]",
            "Logical block provisioning (SBC) [lbpv]",
        ],
    )


def test_unit_serial_number(sg3_utils: Tool, tmp_path: Path) -> None:
    assert "Unit serial number: 0123abcd" in vpd(sg3_utils, tmp_path, UnitSerialNumber("0123abcd").encode())


def test_device_identification(sg3_utils: Tool, tmp_path: Path) -> None:
    page = DeviceIdentification(
        (
            Designator(0, 1, 2, b"LIO-ORG block0:abc"),
            Designator(0, 3, 1, bytes.fromhex("6001405aabbccddeeff0011223344556")),
            Designator(0, 8, 3, b"iqn.2026-01.org.example:disk\0\0\0\0"),
            Designator(0, 2, 1, bytes.fromhex("0011223344556677")),
            Designator(1, 4, 1, b"\0\0\0\1", protocol=6),
        )
    )
    said = vpd(sg3_utils, tmp_path, page.encode())
    assert_says(
        said,
        [
            "Addressed logical unit:",
            "designator type: T10 vendor identification, code set: ASCII",
            "vendor id: LIO-ORG",
            "vendor specific: block0:abc",
            "designator type: NAA, code set: Binary",
            "0x6001405aabbccddeeff0011223344556",
            "designator type: SCSI name string, code set: UTF-8",
            "SCSI name string:",
            "iqn.2026-01.org.example:disk",
            "designator type: EUI-64 based, code set: Binary",
            "0x0011223344556677",
            "Target port:",
            "designator type: Relative target port, code set: Binary",
            "Relative target port: 0x1",
        ],
    )


def test_block_limits(sg3_utils: Tool, tmp_path: Path) -> None:
    page = BlockLimits(True, 1, 8, 65535, 128, 9, 1048576, 16, 2, 3, 65536, 4, 5, 6, 7, 11)
    said = vpd(sg3_utils, tmp_path, page.encode())
    assert_says(
        said,
        [
            "Write same non-zero (WSNZ): 1",
            "Maximum compare and write length: 1 blocks",
            "Optimal transfer length granularity: 8 blocks",
            "Maximum transfer length: 65535 blocks",
            "Optimal transfer length: 128 blocks",
            "Maximum prefetch transfer length: 9 blocks",
            "Maximum unmap LBA count: 1048576",
            "Maximum unmap block descriptor count: 16",
            "Optimal unmap granularity: 2 blocks",
            "Unmap granularity alignment valid: true",
            "Unmap granularity alignment: 3",
            "Maximum write same length: 0x10000 blocks",
            "Maximum atomic transfer length: 4 blocks",
            "Atomic alignment: 5",
            "Atomic transfer length granularity: 6",
            "Maximum atomic transfer length with atomic boundary: 7 blocks",
            "Maximum atomic boundary size: 11 blocks",
        ],
    )


def test_block_device_characteristics(sg3_utils: Tool, tmp_path: Path) -> None:
    said = vpd(sg3_utils, tmp_path, BlockDeviceCharacteristics(1, 0, 1, 2, 5, 1, True, True).encode())
    for expected in (
        "Non-rotating medium (e.g. solid state)", "WABEREQ=1", "WACEREQ=2", "ZONED=1 [host-aware]", "FUAB=1", "VBULS=1",
    ):  # fmt: skip
        assert expected in said
    said = vpd(sg3_utils, tmp_path, BlockDeviceCharacteristics(7200).encode())
    assert "Nominal rotation rate: 7200 rpm" in said


def test_logical_block_provisioning(sg3_utils: Tool, tmp_path: Path) -> None:
    page = LogicalBlockProvisioning(9, True, True, True, 1, True, 3, 2, 4)
    said = vpd(sg3_utils, tmp_path, page.encode())
    assert_says(
        said,
        [
            "Unmap command supported (LBPU): 1",
            "Write same (16) with unmap bit supported (LBPWS): 1",
            "Write same (10) with unmap bit supported (LBPWS10): 1",
            "Logical block provisioning read zeros (LBPRZ): 1",
            "Anchored LBAs supported (ANC_SUP): 1",
            "Threshold exponent: 9",
            "Descriptor present (DP): 0",
            "Minimum percentage: 3",
            "Provisioning type: 2 (thin provisioned)",
            "Threshold percentage: 4",
        ],
    )


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (5, "Peripheral device addressing: lun=5"),
        (291, "Flat space addressing: lun=291"),
        (16384, "Extended flat space addressing: lun=16384"),
    ],
)
def test_luns(sg3_utils: Tool, number: int, said: str) -> None:
    assert said in sg3_utils("sg_luns", f"--test={int_to_lun(number).hex()}")
