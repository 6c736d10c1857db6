"""What a nexus starts from: what the store has of it, and the name it is configured with."""

from __future__ import annotations

import logging
from dataclasses import replace

from pyproxy.reservation.attention import decode_attentions
from pyproxy.reservation.durable import StoredNexus
from pyproxy.reservation.state import NexusState, StateDocumentError, Suspicion, decode_state
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import TransportId

log = logging.getLogger(__name__)


def remembered(
    name: str, record: StoredNexus | None, initiator: TransportId | None, rtpi: int | None
) -> tuple[NexusState, tuple[Sense, ...]]:
    """Return the state to start from and what the guest has still to be told.

    ``initiator`` and ``rtpi`` are configured. Where the nexus was registered under another name one of the two is
    wrong: taking the wrong one would fence the guest, or hide that it was fenced. Then its key alone counts, and stays
    in doubt until the guest registers again. Raises StateDocumentError.
    """
    state: NexusState = NexusState()
    attentions: tuple[Sense, ...] = ()
    if record is not None:
        state = replace(decode_state(record.state) if record.state else state, epoch=record.epoch)
        attentions = _attentions(record.attentions)
    if initiator is None:
        return state, attentions
    if _misnamed(state, initiator, rtpi):
        log.warning(
            "%s: its registration was listed under %s, target port %s; configured is %s, target port %s: correct the "
            "configuration, or have the guest register again",
            name,
            state.transport_id,
            state.rtpi,
            initiator,
            "any" if rtpi is None else rtpi,
        )
        return replace(state, transport_id=None, rtpi=None).suspected(Suspicion.AMBIGUOUS_KEY), attentions
    known = state.rtpi if state.transport_id == initiator else None
    return replace(state, transport_id=initiator, rtpi=rtpi if rtpi is not None else known), attentions


def _misnamed(state: NexusState, initiator: TransportId, rtpi: int | None) -> bool:
    if not state.registered or state.transport_id is None:
        return False
    return state.transport_id != initiator or (None not in (rtpi, state.rtpi) and rtpi != state.rtpi)


def _attentions(document: bytes) -> tuple[Sense, ...]:
    try:
        return decode_attentions(document)
    except ValueError as error:
        raise StateDocumentError(f"stored unit attentions cannot be read: {error}") from None
