"""Short names of PERSISTENT RESERVE commands and of how commands end, for whoever counts them."""

from __future__ import annotations

from typing import Final

from pyproxy.scsi.command import Result
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT, PrInAction, PrOutAction, SenseKey, Status

_OUT: Final = {action.value: action.name.lower() for action in PrOutAction}
_IN: Final = {action.value: action.name.lower() for action in PrInAction}


def action_name(cdb: bytes) -> str:
    """Return the service action of a PERSISTENT RESERVE command, "reserved" for one the standard does not have."""
    if len(cdb) < 2:
        return "reserved"
    return (_OUT if cdb[0] == PERSISTENT_RESERVE_OUT else _IN).get(cdb[1] & 0x1F, "reserved")


def ending(result: Result) -> str:
    """Return how a command ended: good, conflict, unit_attention, check_condition, status, transport."""
    if result.good:
        return "good"
    if result.conflict:
        return "conflict"
    if result.host_status:
        return "transport"
    if result.status != Status.CHECK_CONDITION:
        return "status"
    sense = result.decoded_sense
    return "unit_attention" if sense is not None and sense.key == SenseKey.UNIT_ATTENTION else "check_condition"
