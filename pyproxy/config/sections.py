"""The tables of the configuration file as frozen structs.

Every field's ``Meta`` carries its description and what is allowed; errors and ``docs/configuration.md`` are made
from them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from msgspec import Meta, Struct, structs

from pyproxy.device.iscsi_settings import IscsiSettings
from pyproxy.scsi.transport_id import TransportId

DEFAULT_UNIT_SIZE: Final = 1 << 30
DEFAULT_GUEST: Final = "guest"
SOCKET_PATH_BYTES: Final = 107
GUEST_SOCKET_PATH_BYTES: Final = 103
"""What a Unix socket's path may have, less what the name has while the socket is being made."""

_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)?")
_SIZE_FACTORS: Final[Mapping[str | None, int]] = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_LARGEST_UNIT = 1 << 50


class Size(int):
    """A number of bytes, written as an integer or with a unit: "512MiB", "1GiB", "2TB"."""

    @classmethod
    def parse(cls, value: object) -> Size:
        """Read a configuration value; raises ValueError."""
        if isinstance(value, int) and not isinstance(value, bool):
            size = value
        elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            size = int(match[1]) * _SIZE_FACTORS[match[2]]
        else:
            raise ValueError("not a size")
        if not 0 < size <= _LARGEST_UNIT:
            raise ValueError("outside 1 byte to 1 PiB")
        return cls(size)


_HOST_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
_HOST_NAME: Final = "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit"
_ONE_OF = "exactly one of device, emulated and iscsi"


def _described(description: str, allowed: str, *, default: str | None = None) -> Meta:
    return Meta(description=description, extra={"allowed": allowed, "default": default})


class EmulatedSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An emulated logical unit in place of a device node."""

    size: Annotated[Size, _described("Capacity.", 'bytes, or a size such as "512MiB", a multiple of block_size')] = (
        Size(DEFAULT_UNIT_SIZE)
    )
    path: Annotated[
        Path | None,
        _described(
            "Sparse file that keeps the blocks and APTPL reservations; without it the unit lives in memory.",
            "an absolute path to a file",
            default="memory",
        ),
    ] = None
    block_size: Annotated[Literal[512, 4096], _described("Logical block length in bytes.", "512 or 4096")] = 512
    serial: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,20}\Z")] | None,
        _described(
            "Unit serial number (VPD 80h); the unit's world-wide name is derived from it.",
            "1 to 20 letters, digits, '.', '_' or '-'",
            default="kept with the file; in memory, derived from the host's name, the guest and the LUN",
        ),
    ] = None


class IscsiSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A logical unit of an iSCSI target, by a session of the guest's own."""

    url: Annotated[
        str,
        _described("The unit.", '"iscsi://HOST[:PORT]/TARGET/LUN", without user and secret'),
    ]
    initiator: Annotated[
        str,
        _described(
            "iSCSI name of this host's initiator for the guest: guests with names of their own are different "
            "initiators to the target, also those on one host.",
            'an iSCSI name such as "iqn.2024-01.org.example:host-a.web"',
        ),
    ]
    isid: Annotated[
        str | None,
        _described("ISID, the initiator session identifier.", "12 hex digits", default="of host, guest and LUN"),
    ] = None
    chap_user: Annotated[str | None, _described("User of CHAP.", "a text", default="no CHAP")] = None
    chap_secret_file: Annotated[
        Path | None,
        _described(
            "File with the secret of CHAP, one line, that nobody but its owner may read.",
            "an absolute path; needs chap_user",
            default="none",
        ),
    ] = None
    chap_target_user: Annotated[
        str | None, _described("User the target must prove to be.", "a text; needs chap_user", default="none")
    ] = None
    chap_target_secret_file: Annotated[
        Path | None,
        _described("File with the target's secret.", "an absolute path; needs chap_target_user", default="none"),
    ] = None
    header_digest: Annotated[bool, _described("CRC32C of every header.", "true or false")] = False
    data_digest: Annotated[bool, _described("CRC32C of all data, where the library has it.", "true or false")] = False
    depth: Annotated[int, Meta(ge=1, le=128), _described("Commands in flight at most.", "an integer, 1 to 128")] = 32
    connect_seconds: Annotated[
        int, Meta(ge=1, le=3600), _described("What connection and login may take.", "an integer, 1 to 3600")
    ] = 15
    reconnect_seconds: Annotated[
        int,
        Meta(ge=0, le=3600),
        _described("How long commands are kept waiting for a lost session.", "an integer, 0 to 3600"),
    ] = 30
    abort_seconds: Annotated[
        int,
        Meta(ge=1, le=3600),
        _described(
            "How long the target may take to abort a command that ran out of time before the session is given up.",
            "an integer, 1 to 3600",
        ),
    ] = 5
    nop_interval: Annotated[
        int,
        Meta(ge=0, le=3600),
        _described("Seconds after which a silent target is sent NOP-Out; 0 for never.", "an integer, 0 to 3600"),
    ] = 5
    nop_timeout: Annotated[
        int,
        Meta(ge=1, le=3600),
        _described("Seconds after which a silent target is taken for dead.", "an integer, 1 to 3600"),
    ] = 10


class UnitSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One logical unit of a guest."""

    lun: Annotated[
        int,
        Meta(ge=0, le=16383),
        _described("Logical unit number in the guest, unique whatever the target.", "an integer, 0 to 16383"),
    ]
    target: Annotated[
        int,
        Meta(ge=0, le=255),
        _described("Target of the guest's vhost_user controller that the unit belongs to.", "an integer, 0 to 255"),
    ] = 0
    device: Annotated[
        Path | None,
        _described(
            "Device node passed through: /dev/sgN, /dev/sdX, /dev/bsg/H:C:T:L or a link under /dev/disk.",
            f"an absolute path; {_ONE_OF}",
            default="none",
        ),
    ] = None
    emulated: Annotated[
        EmulatedSection | None,
        _described("An emulated unit instead of a device.", f"a table; {_ONE_OF}", default="none"),
    ] = None
    iscsi: Annotated[
        IscsiSection | None,
        _described("A unit of an iSCSI target instead of a device.", f"a table; {_ONE_OF}", default="none"),
    ] = None
    initiator: Annotated[
        TransportId | None,
        _described(
            "TransportID of the I_T nexus this host uses, where the target does not tell it.",
            'a TransportID such as "naa.5001405000000001", "sas:5001405000000001", "fc:2100001b32000001" or '
            '"iqn.2024-01.org.example:host-a,i,0x00023d000001"',
            default="found by READ FULL STATUS",
        ),
    ] = None
    rtpi: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        _described("Relative target port identifier the nexus ends at.", "an integer, 1 to 65535", default="any"),
    ] = None
    adopt: Annotated[
        bool,
        _described(
            "When the daemon starts, take a registration into the tracked state that was made without it (as "
            "`pyproxy adopt` does).",
            "true or false; true needs migrate_pr",
        ),
    ] = False
    timeout: Annotated[
        int,
        Meta(ge=1, le=86400),
        _described("Seconds a command of the guest may take that names no time itself.", "an integer, 1 to 86400"),
    ] = 60
    threads: Annotated[
        int, Meta(ge=1, le=64), _described("Threads that submit to the device.", "an integer, 1 to 64")
    ] = 4
    engine: Annotated[
        Literal["auto", "sync", "async", "bsg"],
        _described("How SG_IO commands are submitted.", '"auto", "sync", "async" or "bsg"'),
    ] = "auto"


_Account: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)] | Annotated[int, Meta(ge=0, le=0xFFFFFFFE)]
_ACCOUNT = "a name or a number"


def _socket(description: str, default: str) -> Meta:
    allowed = f"an absolute path of at most {GUEST_SOCKET_PATH_BYTES} bytes"
    return _described(description, allowed, default=f"runtime_dir/NAME-{default}.sock, NAME being the guest's")


class SocketSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A socket by which a guest's commands come in."""

    socket: Annotated[Path | None, _socket("Path of the socket (mode 0660).", "?")] = None
    group: Annotated[
        _Account | None,
        _described(
            "Group that owns the socket and whose members may connect; QEMU's own.",
            _ACCOUNT,
            default="that of pyproxy's process, whose members may not",
        ),
    ] = None
    users: Annotated[
        tuple[_Account, ...],
        _described("Users that may connect besides root and the user pyproxy runs as.", f"a list, each {_ACCOUNT}"),
    ] = ()


class PrHelperSection(SocketSection, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A socket on which the guest's PERSISTENT RESERVE commands come in as they do at qemu-pr-helper."""

    socket: Annotated[
        Path | None,
        _socket(
            "Path of the socket (mode 0660), for QEMU's pr-manager-helper; a socket of the guest's name that the "
            "service manager passes is used instead.",
            "pr",
        ),
    ] = None


class VhostUserSection(SocketSection, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A virtio-scsi controller that QEMU connects to with vhost-user-scsi-pci: the guest's whole disks."""

    socket: Annotated[Path | None, _socket("Path of the socket (mode 0660), for QEMU's chardev.", "vhost")] = None
    connect: Annotated[
        bool,
        _described("QEMU listens on the socket (server=on) and pyproxy connects, again and again.", "true or false"),
    ] = False
    queues: Annotated[
        int,
        Meta(ge=1, le=64),
        _described("Request queues at most; a guest takes one for each of its processors.", "an integer, 1 to 64"),
    ] = 16
    poll_us: Annotated[
        int,
        Meta(ge=0, le=10000),
        _described(
            "Microseconds that a worker without work goes on looking before it sleeps.", "an integer, 0 to 10000"
        ),
    ] = 50


class GuestSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest and the logical units it is given."""

    name: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
        _described(
            "What the guest is called here, in checkpoints and in messages.",
            "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit",
        ),
    ]
    migrate_pr: Annotated[
        bool,
        _described(
            "Track the guest's reservations so that they can move with it; off passes PERSISTENT RESERVE verbatim.",
            "true or false",
        ),
    ] = True
    rawio: Annotated[
        bool,
        _described(
            "Let through what the command policy refuses: firmware download, FORMAT UNIT, SANITIZE, vendor commands.",
            "true or false",
        ),
    ] = False
    pr_helper: Annotated[
        PrHelperSection | None,
        _described("A socket in place of qemu-pr-helper's.", "a table, which may be empty", default="none"),
    ] = None
    vhost_user: Annotated[
        VhostUserSection | None,
        _described("A controller with the guest's disks.", "a table, which may be empty", default="none"),
    ] = None
    unit: Annotated[
        tuple[UnitSection, ...], Meta(min_length=1), _described("Logical units.", "one or more [[guest.unit]] tables")
    ]


class DaemonSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the daemon keeps its things."""

    host_name: Annotated[
        str,
        Meta(pattern=_HOST_NAME_PATTERN),
        _described("This host in checkpoints and messages.", _HOST_NAME, default="the machine's host name"),
    ]
    runtime_dir: Annotated[
        Path,
        _described(
            "Private directory of the sockets (mode 0700).",
            "an absolute path",
            default="$XDG_RUNTIME_DIR/pyproxy, or /run/pyproxy",
        ),
    ]
    state_dir: Annotated[
        Path,
        _described(
            "Directory of the reservation state; must survive a reboot of the host.",
            "an absolute path",
            default="/var/lib/pyproxy; with no configuration file, runtime_dir/state",
        ),
    ]
    control_socket: Annotated[
        Path,
        _described(
            "Unix socket of the control API (mode 0660).",
            "an absolute path of at most 107 bytes",
            default="runtime_dir/control.sock",
        ),
    ]
    poll_seconds: Annotated[
        int,
        Meta(ge=0, le=86400),
        _described(
            "Seconds between two looks at every unit's registrations and reservation, for what other initiators change "
            "without notice; 0 for none.",
            "an integer, 0 to 86400",
        ),
    ] = 30
    log_format: Annotated[
        Literal["auto", "json", "human"],
        _described(
            "How the log on standard error is written: one JSON object on each line, or lines for people; auto is "
            "human on a terminal, else json.",
            '"auto", "json" or "human"',
        ),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _described("The least that is logged.", '"debug", "info", "warning" or "error"'),
    ] = "info"


_ENDPOINT = "ADDRESS:PORT ([ADDRESS]:PORT for IPv6), or the absolute path of a Unix socket"


class MigrationSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How this daemon and its peers reach each other, to move guests between hosts."""

    listen: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255)] | None,
        _described("Where peers connect to.", _ENDPOINT, default="nowhere: guests can leave, none can come"),
    ] = None
    certificate: Annotated[
        Path | None, _described("This daemon's certificate, with its intermediates (PEM).", "a path")
    ] = None
    key: Annotated[Path | None, _described("The key of the certificate (PEM), closed to others.", "a path")] = None
    ca: Annotated[
        Path | None, _described("The certificates of the authority that signs the peers' (PEM).", "a path")
    ] = None
    drain_seconds: Annotated[
        int,
        Meta(ge=1, le=600),
        _described("Seconds that a guest's commands may take to end at a handover.", "an integer, 1 to 600"),
    ] = 30
    hold_seconds: Annotated[
        int,
        Meta(ge=1, le=600),
        _described(
            "Seconds that a guest which has stopped for a handover is held until the destination has its claims.",
            "an integer, 1 to 600",
        ),
    ] = 60


class MetricsSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where Prometheus reads the daemon's metrics."""

    listen: Annotated[
        str,
        Meta(min_length=1, max_length=255),
        _described("Where /metrics is served.", "ADDRESS:PORT ([ADDRESS]:PORT for IPv6)"),
    ]
    certificate: Annotated[
        Path | None,
        _described("Serve over TLS with this certificate and its intermediates (PEM).", "a path", default="no TLS"),
    ] = None
    key: Annotated[Path | None, _described("The key of the certificate (PEM).", "a path")] = None
    client_ca: Annotated[
        Path | None,
        _described(
            "Answer only clients with a certificate of this authority (PEM).", "a path", default="answer everybody"
        ),
    ] = None
    detail: Annotated[
        bool,
        _described(
            "Latency by class of command and in three times as many buckets: 110 series for a unit instead of 40.",
            "true or false",
        ),
    ] = False
    page: Annotated[
        bool, _described("Serve the status page too, at /, to whoever may read the metrics.", "true or false")
    ] = True


class PeerSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A daemon that guests may go to and come from."""

    name: Annotated[
        str,
        Meta(pattern=_HOST_NAME_PATTERN),
        _described("Its host_name, which is a DNS name in its certificate.", _HOST_NAME),
    ]
    address: Annotated[str, Meta(min_length=1, max_length=255), _described("Where it listens.", _ENDPOINT)]


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration, validated."""

    daemon: Annotated[DaemonSection, _described("The daemon.", "a [daemon] table", default="all defaults")]
    guest: Annotated[
        tuple[GuestSection, ...], Meta(min_length=1), _described("Guests.", "one or more [[guest]] tables")
    ]
    migration: Annotated[
        MigrationSection | None,
        _described("Moving guests between hosts.", "a [migration] table", default="guests stay on this host"),
    ] = None
    metrics: Annotated[
        MetricsSection | None,
        _described("Metrics for Prometheus.", "a [metrics] table", default="none are served"),
    ] = None
    peer: Annotated[
        tuple[PeerSection, ...], _described("Other daemons.", "[[peer]] tables, names unique", default="none")
    ] = ()
    source: str = "built-in defaults"

    def find_guest(self, name: str) -> GuestSection | None:
        """Return the guest called ``name``, or None."""
        return next((guest for guest in self.guest if guest.name == name), None)

    def units(self) -> Iterator[tuple[GuestSection, UnitSection]]:
        """Yield every unit with its guest, in the file's order."""
        for guest in self.guest:
            for unit in guest.unit:
                yield guest, unit


def socket_path(config: Config, guest: GuestSection, section: SocketSection) -> Path:
    """Return the path of the socket that ``section`` of a guest describes."""
    if section.socket is not None:
        return section.socket
    kind = "vhost" if isinstance(section, VhostUserSection) else "pr"
    return config.daemon.runtime_dir / f"{guest.name}-{kind}.sock"


class Endpoint(NamedTuple):
    """Where a daemon listens: ``path`` of a Unix socket, or None and ``host`` (a name or an address) and ``port``."""

    host: str
    port: int
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read what stands in the configuration; raises ValueError."""
        if text.startswith("/"):
            if "\0" in text or len(os.fsencode(text)) > SOCKET_PATH_BYTES:
                raise ValueError(f"not a socket's path of at most {SOCKET_PATH_BYTES} bytes")
            return cls("", 0, Path(text))
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
        if match is None or not 0 < int(match[3]) <= 65535:
            raise ValueError("not an address and a port")
        return cls(match[1] or match[2], int(match[3]), None)


def iscsi_settings(section: IscsiSection) -> IscsiSettings:
    """Return what the back end takes."""
    return IscsiSettings(**structs.asdict(section))


def emulated_serial(config: Config, guest: GuestSection, unit: UnitSection) -> str | None:
    """Return the serial number of an emulated unit: as configured, None (the file keeps one) for one in a file.

    One in memory has the same for the same host, guest and LUN.
    """
    if unit.emulated is not None and (unit.emulated.serial is not None or unit.emulated.path is not None):
        return unit.emulated.serial
    seed = f"{config.daemon.host_name}/{guest.name}/{unit.lun}".encode()
    return hashlib.sha256(seed).hexdigest()[:16]
