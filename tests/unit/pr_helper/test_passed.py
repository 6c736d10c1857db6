"""What a passed descriptor is: told by its file and a sysfs tree made for the test."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.node import NodeError
from pyproxy.device.passed import PassedNode
from pyproxy.scsi.command import Command
from tests.unit.pr_helper.exchange import open_descriptors


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A machine on which /dev/null is /dev/sg7 and /dev/zero a bsg node, both of 4:0:1:0."""
    device = tmp_path / "devices" / "host4" / "4:0:1:0"
    device.mkdir(parents=True)
    (device / "type").write_text("0\n", encoding="ascii")
    classes = {kind: tmp_path / "class" / kind for kind in ("scsi_generic", "bsg", "scsi")}
    for each in classes.values():
        each.mkdir(parents=True)
    (device / "subsystem").symlink_to(classes["scsi"])
    (tmp_path / "dev" / "char").mkdir(parents=True)
    for kind, name, path in (("scsi_generic", "sg7", "/dev/null"), ("bsg", "b", "/dev/zero")):
        entry = device / kind / name
        entry.mkdir(parents=True)
        (entry / "subsystem").symlink_to(classes[kind])
        (entry / "device").symlink_to(device)
        number = Path(path).stat().st_rdev
        (tmp_path / "dev" / "char" / f"{os.major(number)}:{os.minor(number)}").symlink_to(entry)
    return tmp_path


@pytest.fixture
def null():
    descriptor = os.open("/dev/null", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_a_generic_node(sysfs, null):
    node = PassedNode.open(null, sysfs=sysfs)
    assert (node.number, node.is_block, node.address) == (Path("/dev/null").stat().st_rdev, False, "4:0:1:0")
    assert node.device.name == "/dev/null"


def test_commands_run_on_the_descriptor_itself(sysfs, null):
    device = PassedNode.open(null, sysfs=sysfs).device
    before = open_descriptors()
    with pytest.raises(TransportError, match="command 00h was not answered") as caught:
        device.execute(Command(bytes(6)))
    assert (caught.value.errno, caught.value.fate_unknown) == (errno.ENOTTY, False)
    assert open_descriptors() == before
    device.close()
    os.fstat(null)
    with pytest.raises(TransportError, match="the engine is closed"):
        device.execute(Command(bytes(6)))


def test_the_watch_ends_with_the_device(sysfs, null):
    watch = PassedNode.open(null, sysfs=sysfs).watch()
    assert os.pread(watch, 1, 0) == b"0"
    os.close(watch)


def test_a_device_that_goes_meanwhile_cannot_be_watched(sysfs, null):
    node = PassedNode.open(null, sysfs=sysfs)
    shutil.rmtree(sysfs / "devices")
    with pytest.raises(NodeError, match="/dev/null: the device is gone; attach it again"):
        node.watch()


def test_a_bsg_node_is_refused(sysfs):
    descriptor = os.open("/dev/zero", os.O_RDWR)
    with pytest.raises(NodeError, match="is a bsg node, which takes SG_IO in a form of its own") as caught:
        PassedNode.open(descriptor, sysfs=sysfs)
    os.close(descriptor)
    assert caught.value.errno == errno.EINVAL


def test_a_closed_descriptor():
    with pytest.raises(NodeError, match="descriptor 987654: Bad file descriptor"):
        PassedNode.open(987654)
