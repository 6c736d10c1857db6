"""Where LIO and the emulated unit answer differently, and why the emulated unit is the one that is right.

Each entry names what LIO (kernel 6.1) does, the clause the emulated unit follows, and how the comparison recognises
the case. The first entry that applies is counted; one that never applies fails the comparison, as does a
disagreement that no entry recognises. How often each was met is in ``tests/vm/reference/lio-differences.json``.
"""

from __future__ import annotations

from tests.vm.rig.differential.comparison import Difference, Observation
from tests.vm.rig.differential.steps import CLEAR, PREEMPT, PREEMPT_AND_ABORT, RELEASE, RESERVE

NOT_READY = (0x2, 0x08, 0x00)
INVALID_FIELD_IN_CDB = (0x5, 0x24, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = (0x5, 0x26, 0x00)
PARAMETER_LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
INVALID_RELEASE = (0x5, 0x26, 0x04)
PREEMPTS = (PREEMPT, PREEMPT_AND_ABORT)
VALID_TYPES = (1, 3, 5, 6, 7, 8)


def _unregistered(seen: Observation) -> bool:
    return seen.step.nexus not in seen.before.keys


def _wrong_key(seen: Observation) -> bool:
    return seen.step.keys[0] != seen.before.keys.get(seen.step.nexus)


def _not_ready_for_unregistered(seen: Observation) -> bool:
    return (
        seen.step.is_out(RESERVE, RELEASE, CLEAR, *PREEMPTS)
        and _unregistered(seen)
        and seen.before.holder is None
        and seen.lio.code == NOT_READY
        and seen.emulated.conflict
    )


def _type_first(seen: Observation) -> bool:
    return (
        seen.step.is_out(RESERVE, *PREEMPTS)
        and seen.step.type not in VALID_TYPES
        and seen.lio.code == INVALID_FIELD_IN_CDB
        and (seen.emulated.conflict or seen.emulated.code == INVALID_FIELD_IN_PARAMETER_LIST)
    )


def _type_where_ignored(seen: Observation) -> bool:
    return (
        seen.step.is_out(*PREEMPTS)
        and seen.step.type not in VALID_TYPES
        and seen.lio.code == INVALID_FIELD_IN_CDB
        and seen.emulated.good
    )


def _scope_in_parameter_list(seen: Observation) -> bool:
    return (
        seen.step.is_out(RESERVE, *PREEMPTS)
        and seen.step.scope != 0
        and seen.lio.code == INVALID_FIELD_IN_PARAMETER_LIST
        and (seen.emulated.conflict or seen.emulated.code == INVALID_FIELD_IN_CDB)
    )


def _capabilities(seen: Observation) -> tuple[int, int] | None:
    """Byte 3 of both replies to REPORT CAPABILITIES when nothing but ALLOW COMMANDS and PTPL_A differs."""
    lio, emulated = seen.lio.data, seen.emulated.data
    if not (seen.step.is_in(2) and len(lio) == len(emulated) >= 4):
        return None
    same = (*lio[:3], lio[3] & 0x8E, *lio[4:]) == (*emulated[:3], emulated[3] & 0x8E, *emulated[4:])
    allow_differs_as_listed = lio[3] & 0x70 == 0x10 and emulated[3] & 0x70 == 0x30
    return (lio[3], emulated[3]) if same and allow_differs_as_listed else None


def _aptpl_in_force(seen: Observation) -> bool:
    found = _capabilities(seen)
    if found is None or found[0] & 1 == found[1] & 1:
        return False
    return (bool(found[0] & 1), bool(found[1] & 1)) == seen.aptpl


def _allow_commands(seen: Observation) -> bool:
    found = _capabilities(seen)
    return found is not None and found[0] & 1 == found[1] & 1


def _full_status_length(seen: Observation) -> bool:
    lio, emulated = seen.lio.data, seen.emulated.data
    return (
        seen.step.is_in(3)
        and 4 <= len(lio) <= len(emulated)
        and seen.step.allocation_length < 8 + int.from_bytes(emulated[:4], "big")
        and int.from_bytes(lio[:4], "big") < int.from_bytes(emulated[:4], "big")
        and lio[4:] == emulated[4 : len(lio)]
    )


def _cut_short(seen: Observation) -> bool:
    lio, emulated = seen.lio.data, seen.emulated.data
    if seen.step.is_in(0):
        whole = 4 + (seen.step.allocation_length - 8) // 8 * 8
    elif seen.step.is_in(1):
        whole = 4
    else:
        return False
    return len(lio) == len(emulated) > whole and lio[:whole] == emulated[:whole] and not any(lio[whole:])


def _preempt_of_key_0(seen: Observation) -> bool:
    return (
        seen.step.is_out(*PREEMPTS)
        and seen.step.keys[1] == 0
        and seen.before.holder is None
        and seen.lio.code == INVALID_FIELD_IN_PARAMETER_LIST
        and seen.emulated.conflict
    )


def _release_with_wrong_key(seen: Observation) -> bool:
    return (
        seen.step.is_out(RELEASE)
        and not _unregistered(seen)
        and _wrong_key(seen)
        and not seen.before.holds(seen.step.nexus)
        and seen.lio.good
        and seen.emulated.conflict
    )


def _release_of_another_type(seen: Observation) -> bool:
    return (
        seen.step.is_out(RELEASE)
        and seen.before.holds(seen.step.nexus)
        and (seen.step.type != seen.before.type or seen.step.scope != 0)
        and seen.lio.conflict
        and seen.emulated.code == INVALID_RELEASE
    )


def _spc2_of_registrant(seen: Observation) -> bool:
    return (
        seen.step.opcode in (0x16, 0x17)
        and seen.before.type in (5, 6, 7, 8)
        and not _unregistered(seen)
        and seen.before.holder != seen.step.nexus
        and seen.lio.conflict
        and seen.emulated.good
    )


def _unknown_action(seen: Observation) -> bool:
    return (
        seen.step.opcode == 0x5F
        and seen.step.action > 7
        and seen.before.holder is not None
        and seen.lio.conflict
        and seen.emulated.code == INVALID_FIELD_IN_CDB
    )


def _preempts_all_registrants(seen: Observation) -> bool:
    return (
        seen.step.is_out(*PREEMPTS)
        and seen.before.type in (7, 8)
        and not _unregistered(seen)
        and not _wrong_key(seen)
        and seen.lio.good
        and seen.emulated.good
    )


def _caller_kept(seen: Observation) -> bool:
    return _preempts_all_registrants(seen) and seen.step.keys[1] == seen.before.keys[seen.step.nexus]


def _all_registrants_replaced(seen: Observation) -> bool:
    if not _preempts_all_registrants(seen) or seen.before.holder is None:
        return False
    nominal = seen.step.keys[1] == seen.before.keys[seen.before.holder]
    return nominal and seen.step.type != seen.before.type


def _read_capacity(seen: Observation) -> bool:
    return seen.step.opcode == 0x25 and seen.before.type in (3, 6, 8) and seen.lio.conflict and seen.emulated.good


def _synchronize_cache(seen: Observation) -> bool:
    return seen.step.opcode == 0x35 and seen.before.type in (1, 5, 7) and seen.lio.good and seen.emulated.conflict


def _mode_sense(seen: Observation) -> bool:
    return (
        seen.step.opcode == 0x1A
        and seen.before.type == 3
        and not _unregistered(seen)
        and seen.lio.good
        and seen.emulated.conflict
    )


def _list_length_first(seen: Observation) -> bool:
    return (
        seen.step.opcode == 0x5F
        and seen.step.list_length != 24
        and seen.lio.code == PARAMETER_LIST_LENGTH_ERROR
        and seen.emulated.conflict
    )


def _spc2_exempt(seen: Observation) -> bool:
    return (
        seen.step.opcode in (0x03, 0xA0)
        and seen.before.spc2 is not None
        and seen.before.spc2 != seen.step.nexus
        and seen.lio.conflict
        and seen.emulated.good
    )


DIFFERENCES = [
    Difference(
        "not-ready-for-unregistered",
        "RESERVE, RELEASE, CLEAR and PREEMPT of an unregistered nexus while nobody holds: NOT READY 02/08/00",
        "SPC-4 6.16.1: the I_T nexus is not registered, so RESERVATION CONFLICT",
        _not_ready_for_unregistered,
    ),
    Difference(
        "type-first",
        "RESERVE and PREEMPT with a TYPE that cannot be created are 05/24/00, whatever else is wrong with them",
        "SPC-4 6.16.1 and 5.13.3: a RESERVATION CONFLICT comes first; 5.13.11.4.2: TYPE counts only with a known key",
        _type_first,
    ),
    Difference(
        "type-where-ignored",
        "PREEMPT with a TYPE that cannot be created is 05/24/00 even where it only removes registrations",
        "SPC-4 5.13.11.4.2: TYPE is ignored unless the reservation itself is preempted",
        _type_where_ignored,
        diverges=True,
    ),
    Difference(
        "scope-in-parameter-list",
        "an obsolete SCOPE is 05/26/00 INVALID FIELD IN PARAMETER LIST",
        "SPC-4 4.5.2.4 (sense key specific data): SCOPE is a field of the CDB, so 05/24/00 INVALID FIELD IN CDB",
        _scope_in_parameter_list,
    ),
    Difference(
        "allow-commands",
        "REPORT CAPABILITIES gives ALLOW COMMANDS 001b",
        "SPC-4 6.15.4, table 239: 011b is what the emulated unit's access rules amount to",
        _allow_commands,
    ),
    Difference(
        "aptpl-in-force",
        "CLEAR ends APTPL, and a REGISTER that has nothing to do does not change it (PTPL_A)",
        "SPC-4 5.13.5: the APTPL bit of the last valid REGISTER or REGISTER AND IGNORE EXISTING KEY counts",
        _aptpl_in_force,
    ),
    Difference(
        "full-status-length",
        "READ FULL STATUS counts in ADDITIONAL LENGTH only the descriptors that fit the allocation length",
        "SPC-4 6.15.5 with 4.2.5.6: truncation changes no length field, and cuts where the allocation length ends",
        _full_status_length,
    ),
    Difference(
        "cut-short",
        "READ KEYS and READ RESERVATION leave out (zeros) what does not fit the allocation length as a whole",
        "SPC-4 4.2.5.6: as many bytes as the allocation length gives are transferred",
        _cut_short,
    ),
    Difference(
        "preempt-of-key-0",
        "PREEMPT with SERVICE ACTION RESERVATION KEY 0 while nobody holds: 05/26/00",
        "SPC-4 5.13.11.4.2: no nexus is registered with the key, so RESERVATION CONFLICT",
        _preempt_of_key_0,
    ),
    Difference(
        "release-with-wrong-key",
        "RELEASE by a registered nexus that does not hold is GOOD whatever its RESERVATION KEY",
        "SPC-4 6.16.3: a RESERVATION KEY other than the nexus' own is a RESERVATION CONFLICT",
        _release_with_wrong_key,
    ),
    Difference(
        "release-of-another-type",
        "RELEASE by the holder with another TYPE or SCOPE: RESERVATION CONFLICT",
        "SPC-4 5.13.11.2.2: 05/26/04 INVALID RELEASE OF PERSISTENT RESERVATION",
        _release_of_another_type,
    ),
    Difference(
        "spc2-of-registrant",
        "RESERVE(6) and RELEASE(6) of a registrant that is not the (nominal) holder: RESERVATION CONFLICT",
        "SPC-4 5.13.3 (CRH=1): GOOD without effect for a registrant of a registrants only or all registrants type",
        _spc2_of_registrant,
    ),
    Difference(
        "unknown-action-behind-reservation",
        "a reserved PERSISTENT RESERVE OUT service action while another nexus holds: RESERVATION CONFLICT",
        "SPC-4 4.5.2 and 6.16.2: an unsupported service action is 05/24/00 INVALID FIELD IN CDB",
        _unknown_action,
    ),
    Difference(
        "preempting-caller-kept",
        "PREEMPT of the caller's own key under an all registrants reservation leaves the caller registered",
        "SPC-4 5.13.11.4.3: all registrations with the key are removed, that of the caller too",
        _caller_kept,
        diverges=True,
        silent=True,
    ),
    Difference(
        "all-registrants-replaced",
        "PREEMPT of the key of whoever made an all registrants reservation changes its type",
        "SPC-4 5.13.11.4.3: registrations are removed, the reservation stays as it is",
        _all_registrants_replaced,
        diverges=True,
        silent=True,
    ),
    Difference(
        "read-capacity",
        "READ CAPACITY(10) of a nexus that is not privileged conflicts with the exclusive access types",
        "SBC-4 4.17, table 13: READ CAPACITY(10) is always allowed",
        _read_capacity,
    ),
    Difference(
        "synchronize-cache",
        "SYNCHRONIZE CACHE(10), having no data, passes the write exclusive types",
        "SBC-4 4.17, table 13: RESERVATION CONFLICT, as for writes",
        _synchronize_cache,
    ),
    Difference(
        "mode-sense",
        "MODE SENSE(6) of a registrant passes another nexus' Exclusive Access",
        "SPC-4 5.13.3, table 65: RESERVATION CONFLICT; only a registrants only or all registrants type lets it pass",
        _mode_sense,
    ),
    Difference(
        "list-length-first",
        "RESERVE with a wrong PARAMETER LIST LENGTH while another nexus holds: 05/1A/00",
        "SPC-4 5.13.3, table 66: RESERVE conflicts with another's reservation, whatever its parameter list",
        _list_length_first,
    ),
    Difference(
        "spc2-exempt",
        "REPORT LUNS and REQUEST SENSE conflict with another nexus' RESERVE(6)",
        "SPC-2 5.5.1, table 10: INQUIRY, REPORT LUNS and REQUEST SENSE are processed",
        _spc2_exempt,
    ),
]
