"""File systems and verified loads on disks that are pyproxy's: no error, no lost byte."""

from __future__ import annotations

import filecmp
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.vm.disk_host import QUEUES


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(params=["shared", "remote"])
def disk(request, disks):
    """The emulated unit, and tgt's by iSCSI."""
    return getattr(disks, request.param)[0]


def test_a_file_system_keeps_what_is_copied_to_it(disk, tmp_path):
    source, mounted = tmp_path / "source", tmp_path / "mounted"
    source.mkdir()
    mounted.mkdir()
    draw = random.Random(20260101)
    for number in range(40):
        directory = source / str(number % 4)
        directory.mkdir(exist_ok=True)
        (directory / f"file-{number}").write_bytes(draw.randbytes(draw.choice((0, 1, 511, 4096, 70_000, 1 << 20))))
    subprocess.run(["sfdisk", "--wipe=always", str(disk.sd)], input="start=2048, type=83\n", text=True, check=True)
    run("udevadm", "settle", "--timeout=120")
    partition = Path(f"{disk.sd}1")
    assert partition.is_block_device()
    run("mkfs.ext4", "-q", "-F", partition)
    run("mount", "-t", "ext4", partition, mounted)
    try:
        run("cp", "-r", f"{source}/.", mounted)
    finally:
        run("umount", mounted)
    run("fsck.ext4", "-f", "-n", partition)
    # What is read again comes from the disk.
    run("blockdev", "--flushbufs", disk.sd)
    run("mount", "-t", "ext4", "-o", "ro", partition, mounted)
    try:
        for directory, _, files in os.walk(source):
            relative = Path(directory).relative_to(source)
            same, other, failed = filecmp.cmpfiles(directory, mounted / relative, files, shallow=False)
            assert (sorted(same), other, failed) == (sorted(files), [], [])
    finally:
        run("umount", mounted)
    run("wipefs", "--all", "--force", disk.sd)


def fio(node: Path, directory: Path, *options: str) -> dict:
    words = ["fio", "--name=load", f"--filename={node}", "--direct=1", "--ioengine=libaio", "--output-format=json"]
    done = subprocess.run([*words, *options], capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.parametrize("pattern", ["randwrite", "write"])
def test_fio_finds_what_it_wrote(disk, tmp_path, pattern):
    """Every job has a part of the disk of its own; all write mixed sizes at depth 32 and read back with CRC32C."""
    found = fio(
        disk.sd,
        tmp_path,
        f"--rw={pattern}",
        "--bsrange=512-1m",
        "--bs_unaligned=0",
        "--iodepth=32",
        f"--numjobs={QUEUES}",
        "--size=24m",
        "--offset_increment=32m",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--randrepeat=1",
        "--group_reporting",
    )
    (job,) = found["jobs"]
    assert job["error"] == 0
    assert job["write"]["io_bytes"] == QUEUES * 24 << 20
    assert job["read"]["io_bytes"] >= QUEUES * 24 << 20


def test_fio_on_blocks_of_4096_bytes(disks, tmp_path):
    found = fio(
        disks.large.sd,
        tmp_path,
        "--rw=randrw",
        "--bsrange=4k-256k",
        "--iodepth=32",
        "--numjobs=2",
        "--size=16m",
        "--offset_increment=24m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--group_reporting",
    )
    assert found["jobs"][0]["error"] == 0


def test_trim_and_zeroes(disks, tmp_path):
    disk = disks.shared[0]
    run("dd", "if=/dev/urandom", f"of={disk.sd}", "bs=1M", "count=4", "oflag=direct")
    run("blkdiscard", "--offset", 0, "--length", 1 << 20, disk.sd)
    run("blkdiscard", "--zeroout", "--offset", 1 << 20, "--length", 1 << 20, disk.sd)
    run("blockdev", "--flushbufs", disk.sd)
    with disk.sd.open("rb") as stream:
        assert stream.read(2 << 20) == bytes(2 << 20)
        assert stream.read(1 << 20).count(0) < 1 << 14
