"""virtio-scsi requests (virtio 1.2 5.6.6): bytes on the ring, addressing, odd layouts, and the emulated unit inline."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.controller import F_T10_PI
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import SasTransportId
from tests.unit.plane.scene import (
    BAD_TARGET,
    CHECK,
    FAILURE,
    GOOD,
    NEXT,
    OK,
    RESPONSE,
    TEST_UNIT_READY,
    WRITE,
    RawRing,
    Scene,
    descriptor,
    header,
    read_10,
    write_10,
)

INQUIRY = bytes.fromhex("12 00 00 00 24 00")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Scene() as made:
        yield made


def test_a_good_response_byte_by_byte(scene: Scene) -> None:
    slot = scene.queue.submit(TEST_UNIT_READY)
    assert scene.queue.wait() == (slot, 108)
    assert scene.queue.response(slot)[4] == bytes(108)


def test_a_check_condition_byte_by_byte(scene: Scene) -> None:
    slot = scene.queue.submit(read_10(0xFFFFFFFF, 1), data_in=512)
    assert scene.queue.wait() == (slot, 108)
    sense = bytes.fromhex("F0 00 05 FF FF FF FF 0A 00 00 00 00 21 00 00 00 00 00")
    wanted = struct.pack("<IIHBB", 18, 512, 0, CHECK, OK) + sense.ljust(96, b"\0")
    assert scene.queue.response(slot)[4] == wanted


def test_data_travels_both_ways_and_used_length_counts_what_was_written(scene: Scene) -> None:
    data = bytes(range(256)) * 16
    scene.good(write_10(64, 8), data_out=data)
    slot = scene.queue.submit(read_10(64, 8), data_in=4096)
    assert scene.queue.wait() == (slot, RESPONSE + 4096)
    assert scene.queue.data_of(slot, 4096) == data


def test_an_underrun_is_good_with_a_residual(scene: Scene) -> None:
    response, status, _, data, residual = scene.execute(INQUIRY, data_in=255)
    assert (response, status, residual, len(data)) == (OK, GOOD, 255 - 36, 36)
    assert data[8:16] == b"PYPROXY "


def test_a_read_into_a_short_buffer_gets_the_beginning(scene: Scene) -> None:
    scene.good(write_10(0, 2), data_out=b"a" * 512 + b"b" * 512)
    assert scene.execute(read_10(0, 2), data_in=600) == (OK, GOOD, b"", b"a" * 512 + b"b" * 88, 0)


def test_a_read_into_a_long_buffer_leaves_the_rest_alone(scene: Scene) -> None:
    assert scene.execute(read_10(0, 1), data_in=1000)[4] == 488


@pytest.mark.parametrize(
    ("field", "response"),
    [
        ("01 00 40 00 00 00 00 00", OK),
        ("01 00 00 00 00 00 00 00", OK),
        ("01 00 00 01 00 00 00 00", OK),  # absent, but the target is there
        ("01 01 40 00 00 00 00 00", BAD_TARGET),
        ("01 FF 40 00 00 00 00 00", BAD_TARGET),
        ("C1 01 00 00 00 00 00 00", BAD_TARGET),
        ("00 00 40 00 00 00 00 00", BAD_TARGET),
        ("01 00 80 00 00 00 00 00", BAD_TARGET),
        ("01 00 C0 00 00 00 00 00", BAD_TARGET),
        ("01 00 01 00 00 00 00 00", BAD_TARGET),
        ("01 00 40 00 00 00 00 01", BAD_TARGET),
        ("01 00 40 00 01 00 00 00", BAD_TARGET),
    ],
)
def test_addressing(scene: Scene, field: str, response: int) -> None:
    raw = bytes.fromhex(field)
    slot = scene.queue.submit(TEST_UNIT_READY, publish=False)
    at = scene.queue.areas + 256 * slot + 64 - scene.memory.guest
    scene.memory.view()[at : at + 8] = raw
    scene.queue.show()
    scene.queue.wait()
    assert scene.queue.response(slot)[0] == response


def test_absent_luns_of_a_target_are_for_python(scene: Scene) -> None:
    before = len(scene.handler.executed)
    scene.execute(INQUIRY, data_in=96, lun=257)
    assert scene.handler.executed[before:] == [(0, 257, INQUIRY)]


def test_data_in_both_directions_is_a_failure(scene: Scene) -> None:
    slot = scene.queue.submit(read_10(0, 1), data_out=bytes(512), data_in=512)
    assert scene.queue.wait() == (slot, 108)
    response, status, sense, residual, _ = scene.queue.response(slot)
    assert (response, status, sense, residual) == (FAILURE, 0, b"", 1024)


def pieces(total: int, cuts: list[int]) -> list[tuple[int, int]]:
    """(start, length) of the parts between cuts."""
    edges = sorted({0, total, *(cut % total for cut in cuts)})
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


@settings(deadline=None, max_examples=150)
@given(
    readable=st.lists(st.integers(0, 600), max_size=12),
    writable=st.lists(st.integers(0, 1200), max_size=12),
    write=st.booleans(),
    shuffle=st.randoms(use_true_random=False),
)
def test_descriptor_boundaries_carry_no_meaning(
    readable: list[int], writable: list[int], write: bool, shuffle: object
) -> None:
    """The same request in any pieces, also of one byte, is the same request (virtio 1.2 2.7.4.1)."""
    data = bytes((7 * n) & 0xFF for n in range(512)) if write else b""
    out = header(write_10(5, 1) if write else read_10(5, 1)) + data
    scene = SHARED[0]
    ring = RAW[0]
    area = ring.scratch
    ring.put(area, out)
    ring.put(area + 0x2000, b"\xee" * 1024)
    room = RESPONSE if write else RESPONSE + 512
    parts = [(area + a, n, 0) for a, n in pieces(len(out), readable)]
    parts += [(area + 0x2000 + a, n, WRITE) for a, n in pieces(room, writable)]
    chain = [
        descriptor(address, length, flags | (NEXT if i + 1 < len(parts) else 0), i + 1)
        for i, (address, length, flags) in enumerate(parts)
    ]
    ring.table(0, *chain)
    ring.offer(0)
    assert ring.next_used() == (0, room)
    assert ring.get(area + 0x2000, 108) == bytes(108)
    if write:
        assert scene.unit.medium.read(scene.nexus.gate, scene.nexus.gate.generation, 5 * 512, 512) == data
    else:
        wanted = scene.unit.medium.read(scene.nexus.gate, scene.nexus.gate.generation, 5 * 512, 512)
        assert ring.get(area + 0x2000 + 108, 512) == wanted
    assert ring.get(area + 0x2000 + room, 64) == b"\xee" * 64


SHARED: list[Scene] = []
RAW: list[RawRing] = []


@pytest.fixture(scope="module", autouse=True)
def raw() -> Iterator[None]:
    with Scene(indirect=False) as made:
        SHARED.append(made)
        RAW.append(RawRing(made))
        yield
        SHARED.clear()
        RAW.clear()


def test_with_t10_pi_the_header_is_longer_and_protection_is_refused() -> None:
    with Scene(features=F_T10_PI, indirect=False) as scene:
        ring = RawRing(scene)
        area = ring.scratch
        plain = header(TEST_UNIT_READY)
        for protection, response in ((bytes(8), OK), (b"\x01" + bytes(7), FAILURE), (bytes(4) + b"\x08" + bytes(3), 9)):
            ring.put(area, plain[:19] + protection + plain[19:])
            ring.table(0, descriptor(area, 59, NEXT, 1), descriptor(area + 0x100, 108, WRITE))
            ring.offer(0)
            assert ring.next_used() == (0, 108)
            assert ring.get(area + 0x100 + 11, 1)[0] == response


# --- the same commands through the plane and straight to an emulated unit ---

KEY = bytes.fromhex("00000000 00c0ffee")
READS = (0x08, 0x28, 0xA8, 0x88)
WRITES = (0x0A, 0x2A, 0xAA, 0x8A)


def cdb_of(opcode: int, lba: int, blocks: int, flags: int, control: int) -> bytes:
    if opcode < 0x20:
        return bytes([opcode, *(lba & 0x1FFFFF).to_bytes(3), blocks & 0xFF, control])
    if opcode < 0x60:
        return bytes([opcode, flags]) + (lba & 0xFFFFFFFF).to_bytes(4) + b"\0" + blocks.to_bytes(2) + bytes([control])
    if opcode >= 0xA0:
        return bytes([opcode, flags]) + (lba & 0xFFFFFFFF).to_bytes(4) + blocks.to_bytes(4) + bytes([0, control])
    return bytes([opcode, flags]) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes([0, control])


COMMANDS = st.builds(
    cdb_of,
    st.sampled_from([*READS, *WRITES, 0x00, 0x35, 0x91, 0x2F, 0x93, 0x12, 0x03, 0x25, 0x1A, 0xC0, 0x5E, 0x04]),
    st.sampled_from([0, 1, 7, 100, 127, 128, 129, 1 << 21, 1 << 32, (1 << 64) - 1]),
    st.sampled_from([0, 1, 2, 3, 8, 28, 29, 200, 0xFFFF]),
    st.sampled_from([0, 0, 0, 0x08, 0x10, 0x18, 0x20, 0xE0]),
    st.sampled_from([0, 0, 0, 0, 4, 0x40]),
)
STATE = st.sampled_from(
    ["none", "none", "write protect", "write cache", "reserved WE", "reserved EA", "spc2", "attention", "stopped"]
)


def establish(unit: EmulatedUnit, state: str) -> None:
    """Bring a unit into a state by commands of another nexus, or of the nexus itself."""
    own = unit.nexus(SasTransportId(bytes.fromhex("5001405000000001")))
    other = unit.nexus(SasTransportId(bytes.fromhex("5001405000000002")))
    unit.reset()
    for nexus in (own, other):
        while nexus.attentions:
            nexus.execute(Command(TEST_UNIT_READY))
    if state == "write protect":
        page = bytes.fromhex("00000000 0a0a00100840 0000ffff0000")
        assert own.execute(Command(bytes.fromhex("15100000") + b"\x10\0", data_out=page)).good
    elif state == "write cache":
        page = bytes.fromhex("00000000 0812 04") + bytes(17)
        assert own.execute(Command(bytes.fromhex("15100000") + b"\x18\0", data_out=page)).good
    elif state.startswith("reserved"):
        kind = 1 if state.endswith("WE") else 3
        register = bytes.fromhex("5f060000000000001800")
        assert other.execute(Command(register, data_out=bytes(8) + KEY + bytes(8))).good
        reserve = bytes([0x5F, 1, kind]) + bytes.fromhex("00000000001800")
        assert other.execute(Command(reserve, data_out=KEY + bytes(16))).good
    elif state == "spc2":
        assert other.execute(Command(bytes.fromhex("160000000000"))).good
    elif state == "attention":
        unit.reset()
    elif state == "stopped":
        assert own.execute(Command(bytes.fromhex("1b0000000000"))).good


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[Scene, EmulatedUnit]]:
    with Scene(medium=65536) as scene:
        twin = EmulatedUnit(65536, power_on_attention=False, serial=scene.unit.serial)
        yield scene, twin
        twin.close()


@settings(deadline=None, max_examples=150)
@given(
    state=STATE,
    commands=st.lists(st.tuples(COMMANDS, st.sampled_from(["out", "in", "none"]), st.integers(0, 2048)), max_size=6),
)
def test_the_plane_answers_as_the_unit_does(
    twins: tuple[Scene, EmulatedUnit], state: str, commands: list[tuple[bytes, str, int]]
) -> None:
    scene, twin = twins
    nexus = twin.nexus(SasTransportId(bytes.fromhex("5001405000000001")))
    for unit in (scene.unit, twin):
        unit.reservations = type(unit.reservations)()
        establish(unit, state)
    for number, (cdb, direction, size) in enumerate(commands):
        out = bytes((number + n) & 0xFF for n in range(size)) if direction == "out" else b""
        room = size if direction == "in" else 0
        response, status, sense, data, residual = scene.execute(cdb, data_out=out, data_in=room)
        wanted = nexus.execute(Command(cdb, data_out=out, data_in=room))
        assert response == OK
        assert (status, sense, residual) == (wanted.status, wanted.sense, wanted.residual), cdb.hex()
        assert data == wanted.data
    mine = scene.unit.medium.read(scene.nexus.gate, scene.nexus.gate.generation, 0, 65536)
    assert mine == twin.medium.read(nexus.gate, nexus.gate.generation, 0, 65536)


def test_plain_reads_and_writes_never_reach_python() -> None:
    with Scene() as scene:
        for opcode in WRITES:
            scene.good(cdb_of(opcode, 9, 2, 0, 0), data_out=bytes([opcode]) * 1024)
            for reading in READS:
                assert scene.good(cdb_of(reading, 9, 2, 0, 0), data_in=1024) == bytes([opcode]) * 1024
        scene.good(TEST_UNIT_READY)
        scene.good(cdb_of(0x35, 0, 0, 0, 0))
        scene.good(cdb_of(0x91, 0, 0, 0, 0))
        scene.good(write_10(3, 1, flags=0x08), data_out=bytes(512))
        assert scene.handler.executed == []
        assert scene.controller.counts()["inline"] == 24


def test_many_commands_at_once_keep_their_data_apart() -> None:
    for block_size in (512, 4096):
        with Scene(block_size=block_size, data_size=4096, size=256) as scene:
            span = (8 << 20) // block_size
            for opcode in (0x2A, 0x8A):
                arguments = {"depth": 256, "block_size": block_size, "span": span, "verify": True}
                blocks = 4096 // block_size
                scene.queue.run(span // blocks, opcode=opcode, blocks=blocks, sequential=True, **arguments)
                scene.queue.run(20_000, opcode=opcode - 2, blocks=blocks, **arguments)
                scene.queue.run(2_000, opcode=opcode - 2, blocks=blocks, sequential=True, **arguments)
