"""What is not a SCSI node is refused before it is opened, with a message that says what it is and what to do."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.node import NodeError, NodeKind, identify_node
from pyproxy.device.sg import SgDevice
from tests.unit.device.sysfs import BSG, DM, NULL, SD, SD1, SG, make_tree, node_status


@pytest.mark.parametrize(
    ("number", "mode", "kind"),
    [
        (SG, stat.S_IFCHR, NodeKind.GENERIC),
        (SD, stat.S_IFBLK, NodeKind.BLOCK),
        (BSG, stat.S_IFCHR, NodeKind.BSG),
    ],
)
def test_the_three_kinds_of_node(tmp_path, number, mode, kind):
    device = make_tree(tmp_path)
    node = identify_node("x", node_status(number, mode), tmp_path)
    assert (node.kind, node.address, node.number) == (kind, "2:0:1:7", os.makedev(*number))
    assert node.device == device
    assert node.present


def test_a_node_whose_number_is_another_devices_is_not_present(tmp_path):
    make_tree(tmp_path)
    node = identify_node("x", node_status(SG), tmp_path)
    node.link.unlink()
    assert not node.present
    node.link.symlink_to(tmp_path / "devices")
    assert not node.present


@pytest.mark.parametrize(
    ("number", "mode", "message"),
    [
        (NULL, stat.S_IFCHR, "^/dev/x: is a char device but not a SCSI device; 'pyproxy devices' lists"),
        (SD1, stat.S_IFBLK, "^/dev/x: is a partition, and SCSI commands address the whole disk; use /dev/sdc$"),
        (DM, stat.S_IFBLK, "^/dev/x: is not a logical unit .* made of sdc, sdd: name one of these"),
        ((99, 1), stat.S_IFBLK, "^/dev/x: the kernel has no block device 99:1; it is gone, remove the stale node$"),
        (SG, stat.S_IFREG, "^/dev/x: is a regular file, not a SCSI device node"),
        (SG, stat.S_IFDIR, "^/dev/x: is a directory, not a SCSI device node"),
        (SG, stat.S_IFSOCK, "^/dev/x: is a socket, not a SCSI device node"),
    ],
)
def test_other_files_are_refused(tmp_path, number, mode, message):
    make_tree(tmp_path)
    with pytest.raises(NodeError, match=message) as caught:
        identify_node("/dev/x", node_status(number, mode), tmp_path)
    assert isinstance(caught.value, TransportError)
    assert not caught.value.fate_unknown


def test_a_scsi_device_that_is_no_logical_unit_is_refused(tmp_path):
    """bsg nodes of hosts and expanders have no peripheral device type."""
    device = make_tree(tmp_path)
    (device / "type").unlink()
    with pytest.raises(NodeError, match="is not a logical unit of a SCSI host"):
        identify_node("/dev/bsg/x", node_status(BSG), tmp_path)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(NodeError, match=r"missing: cannot be opened: .*; there is no such node; 'pyproxy devices'"):
        SgDevice.open(tmp_path / "missing")
    regular = tmp_path / "regular"
    regular.write_bytes(b"")
    with pytest.raises(NodeError, match=f"{regular}: is a regular file"):
        SgDevice.open(regular)
    with pytest.raises(NodeError, match=f"{tmp_path}: is a directory"):
        SgDevice.open(tmp_path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(NodeError, match="loop: cannot be opened"):
        SgDevice.open(loop)


def test_the_null_device_is_not_scsi(tmp_path):
    make_tree(tmp_path)
    with pytest.raises(NodeError, match="/dev/null: is a char device but not a SCSI device"):
        SgDevice.open("/dev/null", sysfs=tmp_path)


def test_a_driver_without_pass_through_is_refused(tmp_path):
    """Even where sysfs claims it to be an sg node."""
    make_tree(tmp_path)
    status = Path("/dev/null").stat()
    link = tmp_path / "dev" / "char" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "dev" / "char" / "21:3")
    for path_or_fd in ("/dev/null", os.open("/dev/null", os.O_RDWR)):
        with pytest.raises(NodeError, match="its driver does not pass SCSI commands through") as caught:
            SgDevice.open(path_or_fd, sysfs=tmp_path)
        assert caught.value.errno == errno.ENODEV
    os.close(path_or_fd)


def test_descriptors_that_are_no_nodes():
    reading, writing = os.pipe()
    with pytest.raises(NodeError, match=r"pipe:.*: is a pipe, not a SCSI device node"):
        SgDevice.open(reading)
    os.fstat(reading)  # still the caller's
    os.close(reading)
    os.close(writing)
    with pytest.raises(NodeError, match=f"descriptor {reading}: cannot be opened: Bad file descriptor"):
        SgDevice.open(reading)
    first, second = socket.socketpair()
    with first, second, pytest.raises(NodeError, match="is a socket, not a SCSI device node"):
        SgDevice.open(first.fileno())


def test_a_node_without_permission(tmp_path, monkeypatch):
    make_tree(tmp_path)
    status = Path("/dev/null").stat()
    link = tmp_path / "dev" / "char" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "dev" / "char" / "21:3")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NodeError, match="/dev/null: cannot be opened: Permission denied; run as a user who may read"):
        SgDevice.open("/dev/null", sysfs=tmp_path)
