"""What an earlier run left in the store that opening the units does not settle by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from pyproxy.config import Config
from pyproxy.daemon.documents import StrayIntents, TakeoverStatus
from pyproxy.store.base import Intent, Journal


def takeovers(journals: Iterable[Journal]) -> list[TakeoverStatus]:
    """Return the takeovers that were begun and not ended; the same restore again continues each."""
    return [
        TakeoverStatus(
            id=journal.takeover_id,
            guest=journal.guest,
            unit=journal.unit,
            procedure=journal.plan,
            started=f"{journal.started}Z",
            steps=len(journal.steps),
        )
        for journal in journals
    ]


def stray_intents(
    intents: Iterable[Intent], config: Config, units: Mapping[str, Collection[str]]
) -> list[StrayIntents]:
    """Return the open intents that no configured unit resolves.

    ``units`` are the identity names of each guest's units that are open; what belongs to a guest with one that is not
    open may be that one's.
    """
    found: Counter[tuple[str, str]] = Counter()
    for intent in intents:
        guest = config.find_guest(intent.guest)
        known = units.get(intent.guest, ())
        if guest is None or (intent.unit not in known and len(known) == len(guest.unit)):
            found[intent.guest, intent.unit] += 1
    return [StrayIntents(guest=guest, unit=unit, open_intents=number) for (guest, unit), number in found.items()]
