"""Persistent reservations of two machines on one disk, which here are two controllers of one, by sg_persist."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.vm.disk_host import SHARED_SERIAL

A, B = 0xAAAA, 0xBBBB
ILLEGAL_REQUEST = 5
"""sg3-utils' exit status."""
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


def on_tgt(disk) -> bool:
    return disk.serial != SHARED_SERIAL


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


def registered(nexuses):
    """Both, registered with A and B."""
    for disk, key in zip(nexuses, (A, B), strict=True):
        assert out(disk, "--register", f"--param-sark={key:x}") == 0
    return nexuses


def wipe(disk) -> None:
    assert out(disk, "--register-ignore", "--param-sark=77") == 0
    assert out(disk, "--clear", "--param-rk=77") == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (1, "Write Exclusive"),
        (3, "Exclusive Access"),
        (5, "Write Exclusive, registrants only"),
        (6, "Exclusive Access, registrants only"),
        (7, "Write Exclusive, all registrants"),
        (8, "Exclusive Access, all registrants"),
    ],
)
def test_one_holds_and_the_other_is_kept_out(nexuses, kind, name):
    one, two = nexuses
    assert out(one, "--register", f"--param-sark={A:x}") == 0
    assert out(one, "--reserve", f"--param-rk={A:x}", f"--prout-type={kind}") == 0
    assert keys(two) == [A]
    assert reserved(one) == name
    assert write(one) == 0
    assert write(two) == 24
    assert out(two, "--register", f"--param-sark={B:x}") == 0
    assert keys(one) == [A, B]
    assert write(two) == (0 if kind >= 5 else 24)
    assert out(one, "--release", f"--param-rk={A:x}", f"--prout-type={kind}") == 0
    assert reserved(one) is None
    assert write(two) == 0


def test_preempt_and_clear(nexuses):
    one, two = registered(nexuses)
    assert out(one, "--reserve", f"--param-rk={A:x}", "--prout-type=1") == 0
    assert out(two, "--preempt", f"--param-rk={B:x}", f"--param-sark={A:x}", "--prout-type=1") == 0
    assert keys(two) == [B]
    assert write(one) == 24
    assert write(two) == 0
    assert out(two, "--clear", f"--param-rk={B:x}") == 0
    assert keys(one) == []
    assert write(one) == 0


def test_preempt_and_abort(nexuses):
    one, two = registered(nexuses)
    assert out(one, "--reserve", f"--param-rk={A:x}", "--prout-type=5") == 0
    preempted = out(two, "--preempt-abort", f"--param-rk={B:x}", f"--param-sark={A:x}", "--prout-type=5")
    if on_tgt(one):
        assert preempted == ILLEGAL_REQUEST, "tgt knows PREEMPT alone"
        return
    assert preempted == 0
    assert keys(two) == [B]
    assert reserved(two) == "Write Exclusive, registrants only"
    assert write(one) == 24
    assert write(two) == 0


def test_every_registration_is_told_with_who_holds(nexuses):
    one, two = registered(nexuses)
    assert out(two, "--reserve", f"--param-rk={B:x}", "--prout-type=6") == 0
    if on_tgt(one):
        assert persist(one, "--in", "--read-full-status")[0] == ILLEGAL_REQUEST, "tgt has no READ FULL STATUS"
        return
    told = read(one, "--read-full-status")
    assert sorted(re.findall(r"Key=0x([0-9a-f]+)", told)) == [f"{A:x}", f"{B:x}"]
    holders = re.findall(r"Key=0x([0-9a-f]+)(?:(?!Key=).)*?<< Reservation holder >>", told, re.DOTALL)
    assert holders == [f"{B:x}"]
    assert len(set(re.findall(r"Relative port address: 0x([0-9a-f]+)", told))) >= 1


def test_keys_are_changed_and_given_back(nexuses):
    one, _ = nexuses
    assert out(one, "--register", f"--param-sark={A:x}") == 0
    assert out(one, "--register", f"--param-rk={B:x}", f"--param-sark={A:x}") == 24, "not the key"
    assert out(one, "--register", f"--param-rk={A:x}", f"--param-sark={B:x}") == 0
    assert keys(one) == [B]
    assert out(one, "--register-ignore", f"--param-sark={A:x}") == 0
    assert keys(one) == [A]
    assert out(one, "--register", f"--param-rk={A:x}", "--param-sark=0") == 0
    assert keys(one) == []


def test_aptpl(disks):
    """The emulated unit in a file keeps reservations over a power loss; tgt does not, and says so."""
    shared, remote = disks.shared[0], disks.remote[0]
    assert out(shared, "--register-ignore", f"--param-sark={A:x}", "--param-aptpl") == 0
    told = read(shared, "--report-capabilities")
    assert re.search(r"\(PTPL_A\): 1$", told, re.MULTILINE), told
    wipe(shared)
    assert out(remote, "--register-ignore", f"--param-sark={A:x}", "--param-aptpl") != 0
    wipe(remote)


@pytest.mark.parametrize(
    "options",
    [
        ("--register-ignore", f"--param-sark={A:x}", "--param-alltgpt"),
        ("--register-ignore", f"--param-sark={A:x}", "--transport-id=sas,5001405000000009"),
        ("--replace-lost", f"--param-rk={A:x}", f"--param-sark={B:x}", "--prout-type=1"),
    ],
)
def test_what_no_other_host_could_take_over_is_refused(nexuses, options):
    """As it is with QEMU's migrate-pr: the capability is not announced, and the command changes nothing."""
    one, two = nexuses
    before = keys(two)
    assert out(one, *options) != 0
    assert keys(two) == before


def test_what_cannot_move_with_the_guest_is_not_announced_and_refused(nexuses):
    one, _ = nexuses
    told = read(one, "--report-capabilities")
    assert re.search(r"\(SIP_C\): 0$", told, re.MULTILINE), told
    assert re.search(r"\(ATP_C\): 0$", told, re.MULTILINE), told
    assert out(one, "--register-move", "--param-rk=1", "--param-sark=2", "--relative-target-port=1") != 0
