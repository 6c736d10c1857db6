"""The iSCSI back end: a logical unit behind a session of libiscsi with an initiator name of the guest's own."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Final, Self

from pyproxy.device.base import execute_past_attentions
from pyproxy.device.engine import EngineDevice
from pyproxy.device.iscsi_keeper import Keeper
from pyproxy.device.iscsi_settings import (
    ChapSecrets,
    IscsiError,
    IscsiSettings,
    IscsiUrl,
    derive_isid,
    normal_name,
    parse_isid,
    problem_of,
    read_secrets,
)
from pyproxy.scsi.command import Command
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.transport_id import IscsiTransportId
from pyproxy.scsi.vpd import Association, DesignatorType, DeviceIdentification

if TYPE_CHECKING:
    from _fastpath.iscsi import IscsiEngine, IscsiPort

log = logging.getLogger(__name__)

_INQUIRY_SIZE: Final = 36
_NOT_CONNECTED_HERE: Final = 0b011
_LOGICAL_UNIT_NOT_SUPPORTED: Final = 0x25

_STAGES: Final = {
    1: (errno.EHOSTUNREACH, "no connection to the portal"),
    2: (errno.EACCES, "the target refused the login"),
    3: (errno.ETIMEDOUT, "connection and login were not done in time"),
    4: (errno.ENOTSUP, "the library cannot log in as configured"),
    5: (errno.ETIMEDOUT, "the logical unit did not answer INQUIRY after the login"),
    6: (errno.ENODEV, "another logical unit answers than before the session was lost"),
}
_REMEDIES: Final = {
    1: "look whether the target runs and the URL names its portal",
    3: "look at the target and the network, or raise connect_seconds",
    5: "look at the target",
    6: "map the old one back, or reload the daemon once the guest may have the new one",
}
_LOGIN_STATUS: Final = re.compile(r"Status: [^()]*\((\d+)\)")
_LOGIN_REMEDIES: Final = {
    0x0201: "check chap_user and chap_secret_file against the target's accounts",
    0x0202: "let the initiator's name in on the target",
    0x0203: "check the target's name in the URL; 'iscsi-ls iscsi://PORTAL' (libiscsi-bin) lists what is there",
    0x0206: "the target takes no more sessions; end others or raise its limit",
    0x0301: "the target is not in service now",
    0x0302: "the target has no room for another session now",
}
"""What to do about a login status (RFC 7143 11.13.5)."""

_COMMAND_REMEDIES: Final = {
    errno.EHOSTUNREACH: "the session is lost and could not be made again yet; look at the log, the target and the "
    "network",
    errno.ECONNRESET: "the session was lost while it was in flight",
    errno.ETIMEDOUT: "the target did not end it in time",
    errno.ENOMEM: "there is no memory for it now; the command may be repeated",
}


class IscsiDevice(EngineDevice):
    """A logical unit as the I_T nexus (initiator name, ISID, target port) sees it. Use ``open``.

    Any number of threads may execute commands at once, and one worker through ``port``. A thread of the device keeps
    the session alive and makes a lost one again, as the same nexus; what was in flight ends with TransportError and an
    unknown fate, later commands wait for the new session as long as the settings say.
    """

    def __init__(self, name: str, engine: IscsiEngine, initiator: IscsiTransportId, keeper: Keeper) -> None:
        super().__init__(name, engine, _COMMAND_REMEDIES)
        self._sessions = engine
        self._initiator = initiator
        self._keeper = keeper

    @classmethod
    def open(
        cls,
        settings: IscsiSettings,
        *,
        host: str,
        guest: str,
        lun: int,
        on_nexus_lost: Callable[[str], None] | None = None,
    ) -> Self:
        """Log in for unit ``lun`` of ``guest`` on ``host``, which the ISID is derived from where none is set.

        ``on_nexus_lost`` is called with a sentence each time the session is lost, before it is made again, from a
        thread of the device: what is known of the guest's registration is suspect from then on. Raises IscsiError.
        """
        problem = problem_of(settings)
        if problem is not None:
            raise IscsiError(errno.EINVAL, f"guest {guest} LUN {lun}: {problem}")
        url = IscsiUrl.parse(settings.url)
        module = _extension()
        if settings.data_digest and not module.has_data_digest():
            raise IscsiError(
                errno.ENOTSUP,
                f"{url}: data_digest needs a libiscsi newer than 1.19, the one here has header digests only; leave it "
                "out, or install a newer library",
            )
        isid = parse_isid(settings.isid) if settings.isid is not None else derive_isid(host, guest, lun)
        initiator = IscsiTransportId(normal_name(settings.initiator), isid)
        engine: IscsiEngine = module.IscsiEngine(
            url.target,
            initiator.name,
            isid,
            url.lun,
            label=str(url),
            depth=settings.depth,
            header_digest=settings.header_digest,
            data_digest=settings.data_digest,
            nop_interval_ms=settings.nop_interval * 1000,
            nop_timeout_ms=settings.nop_timeout * 1000,
            abort_ms=settings.abort_seconds * 1000,
            patience_ms=settings.reconnect_seconds * 1000,
        )

        def connect() -> None:
            _connect(engine, url, settings, initiator, read_secrets(settings))

        keeper = Keeper(engine, str(url), connect, on_nexus_lost)
        try:
            connect()
            opened = cls(str(url), engine, initiator, keeper)
            opened._check_unit(url)
        except BaseException:
            engine.close()
            raise
        keeper.start()
        return opened

    @property
    def initiator(self) -> IscsiTransportId:
        """How READ FULL STATUS names the initiator port of this nexus."""
        return self._initiator

    @property
    def rtpi(self) -> int | None:
        """The relative target port identifier the nexus ends at, where VPD page 83h tells it."""
        return relative_target_port(self._sessions.identity_page)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """(sessions made, sessions lost, commands aborted, commands in flight)."""
        return self._sessions.counts

    def port(self) -> IscsiPort:
        """Return the asynchronous side, for the one worker that polls; RuntimeError the second time."""
        return self._sessions.port()

    def disconnect(self) -> None:
        """Drop the connection without logging out, as if it were lost; what is in flight ends with an unknown fate."""
        self._sessions.disconnect()

    def close(self) -> None:
        """Wait for commands that are running, then log out; safe to repeat."""
        super().close()
        self._keeper.join()

    def _check_unit(self, url: IscsiUrl) -> None:
        """Raise IscsiError where the target has no such logical unit; the login does not tell."""
        page = self._sessions.identity_page
        if page and page[0] >> 5 != _NOT_CONNECTED_HERE:
            return
        result = execute_past_attentions(
            self, Command(bytes([0x12, 0, 0, 0, _INQUIRY_SIZE, 0]), data_in=_INQUIRY_SIZE, timeout_ms=10_000)
        )
        sense = result.decoded_sense
        absent = sense is not None and sense.asc == _LOGICAL_UNIT_NOT_SUPPORTED
        if absent or (result.good and result.data and result.data[0] >> 5 == _NOT_CONNECTED_HERE):
            raise IscsiError(
                errno.ENODEV,
                f"{url}: the target has no logical unit {url.lun} for initiator {self._initiator.name}; check the LUN, "
                f"'iscsi-ls -s iscsi://{url.portal}' (libiscsi-bin) lists them",
            )


def relative_target_port(page: bytes) -> int | None:
    """Return the relative target port identifier of a VPD page 83h, or None (SPC-4 7.8.6.7)."""
    try:
        designators = DeviceIdentification.decode(page).designators
    except DecodeError:
        return None
    for one in designators:
        named = (one.association, one.type) == (Association.TARGET_PORT, DesignatorType.RELATIVE_TARGET_PORT)
        if named and len(one.value) == 4:
            return int.from_bytes(one.value[2:]) or None
    return None


def _extension() -> ModuleType:
    """Return the compiled session; raises IscsiError that says how to get it."""
    try:
        from _fastpath import iscsi
    except ModuleNotFoundError as error:
        raise IscsiError(
            errno.ENOTSUP,
            "iscsi units need libiscsi, and this installation was built without its headers; install Debian's "
            "libiscsi-dev, then install pyproxy again",
        ) from error
    except ImportError as error:
        raise IscsiError(
            errno.ENOTSUP,
            f"iscsi units need libiscsi, which cannot be loaded ({error}); install Debian's libiscsi7, or libiscsi-dev "
            "and then pyproxy again",
        ) from error
    return iscsi


def _connect(
    engine: IscsiEngine, url: IscsiUrl, settings: IscsiSettings, initiator: IscsiTransportId, secrets: ChapSecrets
) -> None:
    """Make the session; raises IscsiError."""
    failed = engine.connect(
        url.portal,
        settings.connect_seconds * 1000,
        user=secrets.user,
        secret=secrets.secret,
        target_user=secrets.target_user,
        target_secret=secrets.target_secret,
    )
    if failed is None:
        return
    stage, words = failed
    number, what = _STAGES[stage]
    remedy = _REMEDIES.get(stage)
    status = _LOGIN_STATUS.search(words)
    if stage == 2 and status is not None:
        remedy = _LOGIN_REMEDIES.get(int(status[1]))
    elif stage == 2 and settings.chap_user is not None:
        remedy = "check the CHAP users and secrets on both sides"
    raise IscsiError(
        number,
        f"{url} as {initiator.name}: {what}"
        + (f" ({' '.join(words.split())})" if words else "")
        + (f"; {remedy}" if remedy else ""),
    )
