"""Persistent reservations of two machines on one disk, which here are two controllers of one, by sg_persist."""

from __future__ import annotations

import re
import subprocess

import pytest

A, B = 0xAAAA, 0xBBBB
WRITE_ONE_BLOCK = ["2a", "00", "00", "00", "10", "00", "00", "00", "01", "00"]


def persist(disk, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        ["sg_persist", "--no-inquiry", *options, str(disk.sg)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def out(disk, *options: str) -> int:
    """One PERSISTENT RESERVE OUT, again where a unit attention came instead (sg3-utils: 6)."""
    for _ in range(4):
        status, _ = persist(disk, "--out", *options)
        if status != 6:
            break
    return status


def read(disk, what: str) -> str:
    """What one PERSISTENT RESERVE IN says, past unit attentions."""
    for _ in range(4):
        status, told = persist(disk, "--in", what)
        if status != 6:
            break
    assert status == 0, told
    return told


def keys(disk) -> list[int]:
    told = read(disk, "--read-keys")
    return sorted(int(key, 16) for key in re.findall(r"^ +0x([0-9a-f]+)$", told, re.MULTILINE))


def reserved(disk) -> str | None:
    found = re.search(r"type: (.*)", read(disk, "--read-reservation"))
    return None if found is None else found[1].strip()


def write(disk) -> int:
    """sg3-utils' exit status of a WRITE(10) of zeroes; 24 is RESERVATION CONFLICT."""
    for _ in range(4):
        done = subprocess.run(
            ["sg_raw", "--send=512", "--infile=/dev/zero", str(disk.sg), *WRITE_ONE_BLOCK],
            capture_output=True,
            check=False,
        )
        if done.returncode != 6:
            break
    return done.returncode


@pytest.fixture(params=["shared", "remote"])
def nexuses(request, disks):
    one, two = getattr(disks, request.param)
    wipe(one)
    yield one, two
    wipe(one)


def wipe(disk) -> None:
    assert out(disk, "--register-ignore", "--param-sark=77") == 0
    assert out(disk, "--clear", "--param-rk=77") == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [(1, "Write Exclusive"), (3, "Exclusive Access"), (5, "registrants only"), (6, "registrants only")],
)
def test_one_holds_and_the_other_is_kept_out(nexuses, kind, name):
    one, two = nexuses
    assert out(one, "--register", f"--param-sark={A:x}") == 0
    assert out(one, "--reserve", f"--param-rk={A:x}", f"--prout-type={kind}") == 0
    assert keys(two) == [A]
    assert name in (reserved(one) or "")
    assert write(one) == 0
    assert write(two) == 24
    assert out(two, "--register", f"--param-sark={B:x}") == 0
    assert keys(one) == [A, B]
    assert write(two) == (0 if kind in (5, 6) else 24)
    assert out(one, "--release", f"--param-rk={A:x}", f"--prout-type={kind}") == 0
    assert reserved(one) is None
    assert write(two) == 0


def test_preempt_and_clear(nexuses):
    one, two = nexuses
    assert out(one, "--register", f"--param-sark={A:x}") == 0
    assert out(two, "--register", f"--param-sark={B:x}") == 0
    assert out(one, "--reserve", f"--param-rk={A:x}", "--prout-type=1") == 0
    assert out(two, "--preempt", f"--param-rk={B:x}", f"--param-sark={A:x}", "--prout-type=1") == 0
    assert keys(two) == [B]
    assert write(one) == 24
    assert write(two) == 0
    assert out(two, "--clear", f"--param-rk={B:x}") == 0
    assert keys(one) == []
    assert write(one) == 0


def test_what_cannot_move_with_the_guest_is_not_announced_and_refused(nexuses):
    one, _ = nexuses
    told = read(one, "--report-capabilities")
    assert re.search(r"\(SIP_C\): 0$", told, re.MULTILINE), told
    assert re.search(r"\(ATP_C\): 0$", told, re.MULTILINE), told
    assert out(one, "--register-move", "--param-rk=1", "--param-sark=2", "--relative-target-port=1") != 0
