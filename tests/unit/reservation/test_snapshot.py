"""Reading one consistent view of registrations and reservation from replies as devices give them."""

from __future__ import annotations

import pytest

from pyproxy.reservation.snapshot import (
    Snapshot,
    SnapshotError,
    SnapshotFailure,
    drive,
    read_reservation,
    read_snapshot,
)
from pyproxy.scsi.command import Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.sense import Sense
from tests.unit.reservation.script import (
    BUSY,
    CAPABILITIES,
    CONFLICT,
    FULL_STATUS,
    LOST,
    READ_KEYS,
    READ_RESERVATION,
    TIMEOUT,
    UNSUPPORTED,
    ScriptedDevice,
    capabilities,
    check,
    full,
    keys,
    registration,
    reservation,
    view,
)

A, B = "5001405000000001", "5001405000000002"


def snapshot_of(*lines: object) -> tuple[Snapshot, ScriptedDevice]:
    device = ScriptedDevice(*lines)  # type: ignore[arg-type]
    result = drive(read_snapshot(), device)
    assert device.finished
    return result, device


def failure_of(*lines: object) -> SnapshotError:
    device = ScriptedDevice(*lines)  # type: ignore[arg-type]
    with pytest.raises(SnapshotError) as caught:
        drive(read_snapshot(), device)
    assert device.finished
    return caught.value


def test_everything_in_one_round() -> None:
    listed = [registration(0x11, A, holder=5), registration(0x22, B, rtpi=2)]
    result, device = snapshot_of(*view(7, [0x11, 0x22], (0x11, 5), listed, persistent=True))
    assert result.generation == 7
    assert result.keys == (0x11, 0x22)
    assert (result.reservation_key, result.reservation_type) == (0x11, PrType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    assert result.full is not None
    assert [one.holder for one in result.full] == [True, False]
    assert result.ptpl_active is True
    assert result.unit_attentions == ()
    assert [command.cdb.hex() for command in device.seen] == [
        "5e020000000000000800",
        "5e000000000000200000",
        "5e010000000000001800",
        "5e030000000000200000",
    ]


def test_nothing_registered_and_no_full_status() -> None:
    result, _ = snapshot_of(*view(0, []))
    assert result == Snapshot(0, (), full=None, ptpl_active=False)
    assert result.reservation_type is None


def test_capabilities_are_optional() -> None:
    result, _ = snapshot_of((CAPABILITIES, UNSUPPORTED), *view(0, [])[1:])
    assert result.ptpl_active is None


def test_parts_can_be_left_out() -> None:
    device = ScriptedDevice((READ_KEYS, keys(1, 5)), (READ_RESERVATION, reservation(1)))
    assert drive(read_snapshot(full_status=False, capabilities=False), device).keys == (5,)


@pytest.mark.parametrize("seen", [(3, 4, 4), (3, 3, 4), (4, 3, 4)])
def test_generation_that_changes_between_reads_is_read_again(seen: tuple[int, int, int]) -> None:
    listed = [registration(1, A), registration(2, B)]
    result, _ = snapshot_of(
        (CAPABILITIES, capabilities()),
        (READ_KEYS, keys(seen[0], 1)),
        (READ_RESERVATION, reservation(seen[1])),
        (FULL_STATUS, full(seen[2], *listed)),
        (READ_KEYS, keys(4, 1, 2)),
        (READ_RESERVATION, reservation(4)),
        (FULL_STATUS, full(4, *listed)),
    )
    assert result.generation == 4
    assert result.keys == (1, 2)


def test_generation_that_never_settles_is_an_error() -> None:
    lines: list[object] = [(CAPABILITIES, capabilities())]
    for generation in (1, 3, 5):
        lines += [
            (READ_KEYS, keys(generation, 1)),
            (READ_RESERVATION, reservation(generation + 1)),
            (FULL_STATUS, UNSUPPORTED),
        ]
    error = failure_of(*lines)
    assert error.reason is SnapshotFailure.CHANGING
    assert "3 rounds" in str(error)


def test_reservation_that_appears_between_reads_does_not_count_but_is_noticed() -> None:
    # RESERVE does not change PRGENERATION: the holder shows up only in READ FULL STATUS.
    result, _ = snapshot_of(
        *view(3, [1], None, [registration(1, A, holder=1)]),
        *view(3, [1], (1, 1), [registration(1, A, holder=1)])[1:],
    )
    assert result.reservation_type is PrType.WRITE_EXCLUSIVE


def test_full_status_that_stops_early_is_not_used() -> None:
    # LIO ends the list at the first registration whose TransportID it cannot format.
    lines = view(3, [1, 2], None, [registration(1, A)])
    result, _ = snapshot_of(*lines, *lines[1:], *lines[1:])
    assert result.full is None
    assert result.keys == (1, 2)


def test_empty_full_status_falls_back_to_keys() -> None:
    lines = view(3, [1], (1, 3), [])
    result, _ = snapshot_of(*lines, *lines[1:], *lines[1:])
    assert result.full is None
    assert result.reservation_type is PrType.EXCLUSIVE_ACCESS


def test_one_descriptor_may_stand_for_all_target_ports() -> None:
    result, _ = snapshot_of(*view(3, [1, 1, 1], None, [registration(1, A, all_tg_pt=True)]))
    assert result.full is not None
    assert result.full[0].all_tg_pt


def test_full_status_with_a_descriptor_that_overruns_is_not_used() -> None:
    broken = bytearray(registration(1, A))
    broken[20:24] = b"\xff\xff\xff\xff"
    result, _ = snapshot_of(*view(3, [1], None, [bytes(broken)]))
    assert result.full is None


def test_allocation_grows_to_what_is_announced() -> None:
    many = list(range(1, 2001))
    result, device = snapshot_of(
        (CAPABILITIES, capabilities()),
        (READ_KEYS, keys(1, *many)),
        (READ_KEYS, keys(1, *many)),
        (READ_RESERVATION, reservation(1)),
        (FULL_STATUS, UNSUPPORTED),
    )
    assert result.keys == tuple(many)
    assert device.seen[2].cdb[7:9] > device.seen[1].cdb[7:9]


def test_list_that_fills_the_buffer_is_read_larger_even_if_it_announces_no_more() -> None:
    # SPDK and LIO 4.x announce a length cut to the allocation length.
    many = list(range(1, 1501))
    result, _ = snapshot_of(
        (CAPABILITIES, capabilities()),
        (READ_KEYS, keys(1, *many[:1023], announced=8 * 1023)),
        (READ_KEYS, keys(1, *many)),
        (READ_RESERVATION, reservation(1)),
        (FULL_STATUS, UNSUPPORTED),
    )
    assert len(result.keys) == 1500


def test_more_keys_than_can_be_read_is_an_error() -> None:
    too_many = keys(1, *range(1, 9000))
    error = failure_of((CAPABILITIES, capabilities()), *[(READ_KEYS, too_many)] * 2)
    assert error.reason is SnapshotFailure.TOO_MANY_KEYS


def test_full_status_grows_and_asks_for_more_than_announced() -> None:
    # SCST leaves out a descriptor that would exactly fill the buffer.
    listed = [registration(key, f"50014050{key:08x}") for key in range(1, 201)]
    reply = full(1, *listed)
    result, device = snapshot_of(
        (CAPABILITIES, capabilities()),
        (READ_KEYS, keys(1, *range(1, 201))),
        (READ_RESERVATION, reservation(1)),
        (FULL_STATUS, reply),
        (FULL_STATUS, reply),
    )
    assert result.full is not None
    assert len(result.full) == 200
    assert int.from_bytes(device.seen[-1].cdb[7:9]) > 8 + 200 * 48


def test_full_status_larger_than_can_be_read_is_not_used() -> None:
    listed = [registration(key, f"50014050{key:08x}") for key in range(1, 1501)]
    reply = full(1, *listed)
    many = keys(1, *range(1, 1501))
    result, _ = snapshot_of(
        (CAPABILITIES, capabilities()),
        (READ_KEYS, many),
        (READ_KEYS, many),
        (READ_RESERVATION, reservation(1)),
        *[(FULL_STATUS, reply)] * 2,
    )
    assert result.full is None


def test_unit_attentions_are_retried_and_kept() -> None:
    plain = view(3, [1])
    result, _ = snapshot_of(
        (CAPABILITIES, check(6, 0x29, 0x00)),
        plain[0],
        (READ_KEYS, check(6, 0x2A, 0x05, descriptor=True)),
        *plain[1:],
    )
    assert result.unit_attentions == (Sense(6, 0x29, 0x00), Sense(6, 0x2A, 0x05))
    assert result.keys == (1,)


def test_deferred_error_belongs_to_another_command_and_is_kept() -> None:
    plain = view(3, [1])
    result, _ = snapshot_of(plain[0], (READ_KEYS, check(3, 0x0C, 0x00, deferred=True)), *plain[1:])
    assert result.unit_attentions == (Sense(3, 0x0C, 0x00, deferred=True),)


def test_device_that_only_reports_unit_attentions_is_given_up() -> None:
    error = failure_of(*[(CAPABILITIES, check(6, 0x29, code)) for code in range(10)])
    assert error.reason is SnapshotFailure.UNIT_ATTENTIONS
    assert len(error.unit_attentions) == 10


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (CONFLICT, SnapshotFailure.CONFLICT),
        (BUSY, SnapshotFailure.NOT_READY),
        (TIMEOUT, SnapshotFailure.TRANSPORT),
        (LOST, SnapshotFailure.TRANSPORT),
        (check(5, 0x20, 0x00), SnapshotFailure.REFUSED),
        (check(2, 0x04, 0x01), SnapshotFailure.NOT_READY),
        (check(7, 0x44, 0x01), SnapshotFailure.INFORMATION_LOST),
        (Result(0x02, b""), SnapshotFailure.NOT_READY),
        (Result(0, data=b""), SnapshotFailure.MALFORMED),
        (Result(0, data=bytes(7)), SnapshotFailure.MALFORMED),
    ],
)
def test_what_read_keys_can_fail_with(answer: Result | OSError, reason: SnapshotFailure) -> None:
    error = failure_of((CAPABILITIES, check(6, 0x2A, 0x03)), (CAPABILITIES, capabilities()), (READ_KEYS, answer))
    assert error.reason is reason
    assert "READ KEYS" in str(error)
    # A unit attention the reads received before is the guest's and must come out with the error.
    assert error.unit_attentions == (Sense(6, 0x2A, 0x03),)


def test_a_cut_reservation_does_not_pass_for_none() -> None:
    cut_reply = Result(0, data=bytes.fromhex("00000001 00000010 0000000000000001"))
    error = failure_of((CAPABILITIES, capabilities()), (READ_KEYS, keys(1, 1)), (READ_RESERVATION, cut_reply))
    assert error.reason is SnapshotFailure.MALFORMED


def test_reservation_alone() -> None:
    device = ScriptedDevice((READ_RESERVATION, check(6, 0x2A, 0x04)), (READ_RESERVATION, reservation(9, 0, 8)))
    reply, attentions = drive(read_reservation(), device)
    assert (reply.generation, reply.type) == (9, PrType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
    assert attentions == (Sense(6, 0x2A, 0x04),)


def test_all_registrants_is_told_by_type_even_if_a_key_is_reported() -> None:
    # SCST and openvmm report a key for all-registrants types.
    result, _ = snapshot_of(*view(1, [1], (1, 7)))
    assert result.all_registrants
