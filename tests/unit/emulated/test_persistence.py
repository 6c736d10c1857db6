"""APTPL and power loss (SPC-4 5.13.5), and the file that makes it true."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyproxy.device.emulated import EmulatedUnit, EmulatedUnitError
from pyproxy.scsi.transport_id import TransportId
from tests.unit.emulated.initiator import (
    CLEAR,
    CONFLICT,
    GOOD,
    IGNORE,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    Initiator,
    initiators,
)

MIB = 1 << 20
APTPL = 0x01


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def reopened(unit: EmulatedUnit) -> EmulatedUnit:
    """The unit after its process died: nothing is written at closing."""
    assert unit.path is not None
    unit.close()
    return EmulatedUnit(unit.blocks * unit.block_size, path=unit.path)


def test_without_aptpl_everything_is_lost(path: Path) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, *_ = initiators(unit)
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=1)
    unit.power_cycle()
    assert a.drain() == ["06/29/01"]
    assert (a.keys(), a.reservation(), a.generation()) == ([], None, 0)
    a.out(REGISTER, sa_key=1)
    a, *_ = initiators(reopened(unit))
    assert a.keys() == []


@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8])
def test_with_aptpl_everything_but_the_count_is_kept(path: Path, kind: int) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, b, _ = initiators(unit)
    assert a.out(REGISTER, sa_key=0x1122334455667788, flags=APTPL) == GOOD
    assert b.out(REGISTER, sa_key=2, flags=APTPL) == GOOD
    a.out(RESERVE, key=0x1122334455667788, kind=kind)
    unit.power_cycle()
    a.drain()
    assert a.generation() == 0
    unit = reopened(unit)
    a, b, c = initiators(unit)
    assert a.keys() == [2, 0x1122334455667788]
    assert a.reservation() == (0 if kind in (7, 8) else 0x1122334455667788, kind)
    assert a.generation() == 0
    assert a.write() == GOOD
    assert c.write() == CONFLICT
    assert a.fetch("5e02 0000000000 0008 00")[3] & 0x01
    unit.close()


@pytest.mark.parametrize(
    "text",
    [
        "naa.5001405000000001",
        "fc:2100000000000001",
        "iqn.2024-01.org.Example:a,i,0x800000000001",
        "iqn.2024-01.org.example:b",
    ],
)
def test_initiators_of_every_protocol_are_recognised(path: Path, text: str) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a = Initiator(unit.nexus(TransportId.parse(text), 5))
    a.out(REGISTER, sa_key=1, flags=APTPL)
    a.out(RESERVE, key=1, kind=3)
    unit = reopened(unit)
    assert Initiator(unit.nexus(TransportId.parse(text), 5)).write() == GOOD
    assert Initiator(unit.nexus(TransportId.parse(text), 6)).write() == CONFLICT
    unit.close()


def test_the_last_aptpl_counts_whoever_sends_it(path: Path) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, b, c = initiators(unit)
    a.out(REGISTER, sa_key=1, flags=APTPL)
    a.out(RESERVE, key=1, kind=1)
    b.out(REGISTER, sa_key=2)
    a, b, c = initiators(unit := reopened(unit))
    assert a.keys() == []
    a.out(REGISTER, sa_key=1)
    assert c.out(REGISTER, sa_key=0, flags=APTPL) == GOOD
    a, *_ = initiators(unit := reopened(unit))
    assert a.keys() == [1]
    unit.close()


def test_every_change_is_kept(path: Path) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, b, c = initiators(unit)
    a.out(REGISTER, sa_key=1, flags=APTPL)
    b.out(REGISTER, sa_key=2, flags=APTPL)
    a.out(RESERVE, key=1, kind=5)
    a.out(RELEASE, key=1, kind=5)
    a, b, c = initiators(unit := reopened(unit))
    assert (a.keys(), a.reservation()) == ([1, 2], None)
    a.out(RESERVE, key=1, kind=5)
    b.out(PREEMPT, key=2, sa_key=1, kind=6)
    a, b, c = initiators(unit := reopened(unit))
    assert (b.keys(), b.reservation()) == ([2], (2, 6))
    b.move(2, 3, c.nexus, unreg=True, aptpl=True)
    a, b, c = initiators(unit := reopened(unit))
    assert (c.keys(), c.reservation()) == ([3], (3, 6))
    c.out(CLEAR, key=3)
    a, b, c = initiators(unit := reopened(unit))
    assert (c.keys(), c.reservation()) == ([], None)
    unit.close()


def test_it_is_on_disk_before_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, *_ = initiators(unit)
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("fsync directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "fsync file")
        assert unit.reservations.registrations == {}
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    assert a.out(REGISTER, sa_key=1, flags=APTPL) == GOOD
    assert steps == ["fsync file", "rename", "fsync directory"]
    unit.close()


@pytest.mark.parametrize("failing", ["open", "write", "fsync"])
def test_a_failing_disk_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, b, _ = initiators(unit)
    a.out(REGISTER, sa_key=1, flags=APTPL)

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, failing, fail)
        assert b.out(REGISTER, sa_key=2, flags=APTPL) == "02 04/44/00"
        assert a.out(RESERVE, key=1, kind=1) == "02 04/44/00"
    assert (a.keys(), a.reservation(), a.generation()) == ([1], None, 1)
    assert b.drain() == []
    a, b, _ = initiators(unit := reopened(unit))
    assert a.keys() == [1]
    assert b.out(IGNORE, sa_key=2, flags=APTPL) == GOOD
    unit.close()


def test_a_directory_that_cannot_be_synchronised_does_not_leave_the_refused_state(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, b, _ = initiators(unit)
    a.out(REGISTER, sa_key=1, flags=APTPL)
    real_fsync = os.fsync
    failures = [5]

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir() and failures:
            raise OSError(failures.pop(), "Input/output error")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert b.out(REGISTER, sa_key=2, flags=APTPL) == "02 04/44/00"
    a, *_ = initiators(unit := reopened(unit))
    assert a.keys() == [1]
    unit.close()


def test_a_torn_write_is_never_read(path: Path) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, *_ = initiators(unit)
    a.out(REGISTER, sa_key=1, flags=APTPL)
    state = path.with_name("disk.img.state")
    # A crash in the middle of the next write leaves only the new file cut short.
    path.with_name("disk.img.state.new").write_bytes(state.read_bytes()[:50])
    a, *_ = initiators(unit := reopened(unit))
    assert a.keys() == [1]
    assert a.out(REGISTER, key=1, sa_key=5, flags=APTPL) == GOOD
    unit.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-20],
        lambda raw: raw.replace(b"0000000000000001", b"0000000000000002"),
        lambda raw: b"\xff" + raw,
        lambda raw: b"[]",
        lambda raw: b"{}",
        lambda raw: b" " * (17 << 20),
    ],
)
def test_a_damaged_state_file_is_refused_with_what_to_do(path: Path, damage: object) -> None:
    unit = EmulatedUnit(MIB, path=path)
    a, *_ = initiators(unit)
    a.out(REGISTER, sa_key=1, flags=APTPL)
    unit.close()
    state = path.with_name("disk.img.state")
    state.write_bytes(damage(state.read_bytes()))  # type: ignore[operator]
    with pytest.raises(EmulatedUnitError, match=r"disk\.img\.state is damaged .* remove it"):
        EmulatedUnit(MIB, path=path)
    state.unlink()
    EmulatedUnit(MIB, path=path).close()


def test_a_state_file_of_a_newer_format(path: Path) -> None:
    EmulatedUnit(MIB, path=path).close()
    state = path.with_name("disk.img.state")
    unit = json.loads(state.read_text())["unit"] | {"format": 2}
    digest = hashlib.sha256(json.dumps(unit, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    state.write_text(json.dumps({"unit": unit, "sha256": digest}))
    with pytest.raises(EmulatedUnitError, match="format 2, this program reads format 1"):
        EmulatedUnit(MIB, path=path)


def test_the_serial_number_stays(path: Path) -> None:
    first = EmulatedUnit(MIB, path=path)
    first.close()
    second = EmulatedUnit(MIB, path=path)
    assert second.serial == first.serial
    second.close()
    with pytest.raises(EmulatedUnitError, match="belongs to the unit with serial number"):
        EmulatedUnit(MIB, path=path, serial="ANOTHER")


def test_one_process_per_file(path: Path) -> None:
    unit = EmulatedUnit(MIB, path=path)
    with pytest.raises(EmulatedUnitError, match=r"disk\.img is in use by another process or unit"):
        EmulatedUnit(MIB, path=path)
    script = (
        "import sys; from pathlib import Path; from pyproxy.device.emulated import *\n"
        "try: EmulatedUnit(1 << 20, path=Path(sys.argv[1]))\n"
        "except EmulatedUnitError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "is in use by another process or unit; close that one" in done.stdout
    unit.close()
    EmulatedUnit(MIB, path=path).close()


def test_files_that_do_not_fit(path: Path, tmp_path: Path) -> None:
    path.write_bytes(bytes(2 * MIB))
    with pytest.raises(EmulatedUnitError, match="is 2097152 bytes long, more than the unit's 1048576"):
        EmulatedUnit(MIB, path=path)
    with pytest.raises(EmulatedUnitError, match="cannot open"):
        EmulatedUnit(MIB, path=tmp_path / "missing" / "disk.img")
    with pytest.raises(EmulatedUnitError, match=r"cannot open .*: Is a directory"):
        EmulatedUnit(MIB, path=tmp_path)
    with pytest.raises(EmulatedUnitError, match="not a regular file"):
        EmulatedUnit(MIB, path=Path("/dev/null"))


@pytest.mark.parametrize(("size", "block_size"), [(0, 512), (513, 512), (4096, 1024), (512, 4096), (-512, 512)])
def test_sizes_that_do_not_fit(size: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="must be a positive multiple of the block size"):
        EmulatedUnit(size, block_size=block_size)


@pytest.mark.parametrize("serial", ["", "x" * 129, "a\nb", "ä"])
def test_serial_numbers_that_do_not_fit(serial: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 128 printable ASCII characters"):
        EmulatedUnit(MIB, serial=serial)


def test_a_port_that_does_not_exist(path: Path) -> None:
    unit = EmulatedUnit(MIB, path=path)
    for rtpi in (0, 0x10000):
        with pytest.raises(ValueError, match="must be 1 to 65535"):
            unit.nexus(TransportId.parse("naa.5001405000000001"), rtpi)
    unit.close()
