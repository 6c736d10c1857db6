"""The configuration: TOML read once into frozen structs, every mistake named by file, key and what is allowed.

Every field's ``Meta`` carries its description and what is allowed; errors and ``docs/configuration.md`` are made
from them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from pyproxy.scsi.transport_id import TransportId

SYSTEM_FILE: Final = Path("/etc/pyproxy/pyproxy.toml")
DEFAULT_UNIT_SIZE: Final = 1 << 30
DEFAULT_GUEST: Final = "guest"
PR_SOCKET_PATH_BYTES: Final = 103
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


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the dotted key with indices ("guest[0].unit[1].lun", empty for the whole file) and a sentence."""

    key: str
    message: str


class ConfigError(ValueError):
    """The configuration cannot be used; ``problems`` has every mistake found, the text one line for each."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        self.file = file
        self.problems = problems
        lines = (f"{file}: {p.key}: {p.message}" if p.key else f"{file}: {p.message}" for p in problems)
        super().__init__("\n".join(lines))


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


class UnitSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One logical unit of a guest."""

    lun: Annotated[int, Meta(ge=0, le=16383), _described("Logical unit number in the guest.", "an integer, 0 to 16383")]
    device: Annotated[
        Path | None,
        _described(
            "Device node passed through: /dev/sgN, /dev/sdX, /dev/bsg/H:C:T:L or a link under /dev/disk.",
            "an absolute path; exactly one of device and emulated",
            default="none",
        ),
    ] = None
    emulated: Annotated[
        EmulatedSection | None,
        _described(
            "An emulated unit instead of a device.", "a table; exactly one of device and emulated", default="none"
        ),
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


class PrHelperSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A socket on which the guest's PERSISTENT RESERVE commands come in as they do at qemu-pr-helper."""

    socket: Annotated[
        Path | None,
        _described(
            "Path of the socket (mode 0660), for QEMU's pr-manager-helper; a socket of the guest's name that the "
            "service manager passes is used instead.",
            f"an absolute path of at most {PR_SOCKET_PATH_BYTES} bytes",
            default="runtime_dir/NAME-pr.sock, NAME being the guest's",
        ),
    ] = None
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
    unit: Annotated[
        tuple[UnitSection, ...], Meta(min_length=1), _described("Logical units.", "one or more [[guest.unit]] tables")
    ]


class DaemonSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the daemon keeps its things."""

    host_name: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
        _described(
            "This host in checkpoints and messages.",
            "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit",
            default="the machine's host name",
        ),
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


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration, validated."""

    daemon: Annotated[DaemonSection, _described("The daemon.", "a [daemon] table", default="all defaults")]
    guest: Annotated[
        tuple[GuestSection, ...], Meta(min_length=1), _described("Guests.", "one or more [[guest]] tables")
    ]
    source: str = "built-in defaults"

    def find_guest(self, name: str) -> GuestSection | None:
        """Return the guest called ``name``, or None."""
        return next((guest for guest in self.guest if guest.name == name), None)

    def units(self) -> Iterator[tuple[GuestSection, UnitSection]]:
        """Yield every unit with its guest, in the file's order."""
        for guest in self.guest:
            for unit in guest.unit:
                yield guest, unit


def pr_socket_path(config: Config, guest: GuestSection) -> Path:
    """Return the path of a guest's helper socket, where it has one."""
    named = guest.pr_helper.socket if guest.pr_helper is not None else None
    return named if named is not None else config.daemon.runtime_dir / f"{guest.name}-pr.sock"


def emulated_serial(config: Config, guest: GuestSection, unit: UnitSection) -> str | None:
    """Return the serial number of an emulated unit: as configured, None (the file keeps one) for one in a file.

    One in memory has the same for the same host, guest and LUN.
    """
    if unit.emulated is not None and (unit.emulated.serial is not None or unit.emulated.path is not None):
        return unit.emulated.serial
    seed = f"{config.daemon.host_name}/{guest.name}/{unit.lun}".encode()
    return hashlib.sha256(seed).hexdigest()[:16]


def load(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration; raises ConfigError.

    ``path`` None takes $PYPROXY_CONFIG, then /etc/pyproxy/pyproxy.toml if it is there, then the built-in defaults.
    """
    if path is None and (named := environment.get("PYPROXY_CONFIG")):
        path = Path(named)
    if path is None and SYSTEM_FILE.exists():
        path = SYSTEM_FILE
    if path is None:
        return defaults(environment)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), (Problem("", f"cannot be read: {error.strerror}"),)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), (Problem("", f"is not UTF-8 text (byte {error.start})"),)) from error
    return parse(text, str(path), environment)


def parse(text: str, source: str, environment: Mapping[str, str] = os.environ) -> Config:
    """Validate TOML text that came from ``source``; raises ConfigError with every mistake found."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, (Problem("", f"is not valid TOML: {error}"),)) from error
    daemon = document.setdefault("daemon", {})
    if isinstance(daemon, dict):
        _fill_daemon(daemon, environment, state_dir="/var/lib/pyproxy")
    return _validated(document, source)


def defaults(environment: Mapping[str, str] = os.environ) -> Config:
    """One guest with one emulated unit of 1 GiB in memory, everything under the private runtime directory."""
    daemon: dict[str, Any] = {}
    _fill_daemon(daemon, environment, state_dir=None)
    document = {"daemon": daemon, "guest": [{"name": DEFAULT_GUEST, "unit": [{"lun": 0, "emulated": {}}]}]}
    return _validated(document, "built-in defaults")


def _fill_daemon(daemon: dict[str, Any], environment: Mapping[str, str], state_dir: str | None) -> None:
    if "runtime_dir" not in daemon:
        base = environment.get("XDG_RUNTIME_DIR")
        daemon["runtime_dir"] = f"{base}/pyproxy" if base else "/run/pyproxy"
    runtime_dir = daemon["runtime_dir"]
    if not isinstance(runtime_dir, str) or not runtime_dir.startswith("/"):
        runtime_dir = "/run/pyproxy"  # refused under its own key; the paths below it are not to blame
    if "host_name" not in daemon:
        daemon["host_name"] = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:64] or "localhost"
    if "state_dir" not in daemon:
        daemon["state_dir"] = state_dir or f"{runtime_dir}/state"
    if "control_socket" not in daemon:
        daemon["control_socket"] = f"{runtime_dir}/control.sock"


def _validated(document: dict[str, Any], source: str) -> Config:
    problems: list[Problem] = []
    config = _build(Config, document, "", problems, skip={"source"})
    if config is None or problems:
        raise ConfigError(source, tuple(problems))
    assert isinstance(config, Config)
    problems.extend(cross_checks(config))
    if problems:
        raise ConfigError(source, tuple(problems))
    return msgspec.structs.replace(config, source=source)


def _build(
    kind: type[Struct], table: object, key: str, problems: list[Problem], skip: frozenset[str] | set[str] = frozenset()
) -> Struct | None:
    """Convert one table, adding what is wrong with it to ``problems``; None when it cannot be used."""
    if not isinstance(table, dict):
        problems.append(Problem(key, f"must be a table, got {_shown(table)}"))
        return None
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind) if field.name not in skip}
    before = len(problems)
    problems.extend(Problem(_joined(key, name), _unknown(name, list(fields))) for name in table if name not in fields)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in table:
            if field.required:
                problems.append(Problem(_joined(key, name), f"is required: {field_allowed(field)}"))
            continue
        values[field.name] = _convert(field, table[name], _joined(key, name), problems)
    return kind(**values) if len(problems) == before else None


def _convert(field: msgspec.structs.FieldInfo, value: object, key: str, problems: list[Problem]) -> object:
    nested, many = nested_table(field.type)
    if nested is None:
        try:
            return msgspec.convert(value, field.type, dec_hook=_decode)
        except msgspec.ValidationError:
            problems.append(Problem(key, f"{_shown(value)} is not allowed, expected {field_allowed(field)}"))
            return None
    if not many:
        return _build(nested, value, key, problems)
    if not isinstance(value, list) or not value:
        problems.append(Problem(key, f"{_shown(value)} is not allowed, expected {field_allowed(field)}"))
        return None
    return tuple(_build(nested, item, f"{key}[{index}]", problems) for index, item in enumerate(value))


def _decode(kind: type, value: object) -> object:
    if kind is Size:
        return Size.parse(value)
    if kind is Path and isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return Path(value)
    if kind is TransportId and isinstance(value, str):
        return TransportId.parse(value)
    raise ValueError(f"not a {kind.__name__}")


def cross_checks(config: Config) -> Iterator[Problem]:
    """Yield what is wrong between the parts of a configuration each of which is valid."""
    if len(os.fsencode(config.daemon.control_socket)) > 107:
        yield Problem("daemon.control_socket", "is too long for a Unix socket, expected at most 107 bytes")
    yield from _pr_helper_checks(config)
    names: dict[str, int] = {}
    owners: dict[str, str] = {}
    for g, guest in enumerate(config.guest):
        if (first := names.setdefault(guest.name, g)) != g:
            yield Problem(f"guest[{g}].name", f'"{guest.name}" is already the name of guest[{first}]: names are unique')
        luns: dict[int, int] = {}
        for u, unit in enumerate(guest.unit):
            key = f"guest[{g}].unit[{u}]"
            if (other := luns.setdefault(unit.lun, u)) != u:
                yield Problem(
                    f"{key}.lun", f"{unit.lun} is already guest[{g}].unit[{other}], LUNs are unique in a guest"
                )
            if unit.adopt and not guest.migrate_pr:
                yield Problem(f"{key}.adopt", "true is not allowed where the guest's migrate_pr is false")
            if (unit.device is None) == (unit.emulated is None):
                yield Problem(key, "exactly one of device and emulated is required")
                continue
            yield from _emulated_checks(unit, key)
            path, path_key = _backing(unit, key)
            if path is None:
                continue
            if (owner := owners.setdefault(path, path_key)) != path_key:
                yield Problem(
                    path_key,
                    f"{path} is already {owner}: two guests cannot share one logical unit through one I_T nexus, "
                    "they would share one registration; give one of them another path",
                )


def _pr_helper_checks(config: Config) -> Iterator[Problem]:
    sockets = {os.path.realpath(config.daemon.control_socket): "daemon.control_socket"}
    for g, guest in enumerate(config.guest):
        if guest.pr_helper is None:
            continue
        key = f"guest[{g}].pr_helper"
        path = pr_socket_path(config, guest)
        if len(os.fsencode(path)) > PR_SOCKET_PATH_BYTES:
            yield Problem(f"{key}.socket", f"{path} is too long, expected at most {PR_SOCKET_PATH_BYTES} bytes")
        if (owner := sockets.setdefault(os.path.realpath(path), key)) != key:
            yield Problem(f"{key}.socket", f"{path} is already {owner}: a socket is one guest's, it tells who connects")
        if all(unit.device is None for unit in guest.unit):
            yield Problem(key, "no unit of this guest has a device: nothing else can come with a helper's request")


def _emulated_checks(unit: UnitSection, key: str) -> Iterator[Problem]:
    if unit.emulated is not None and unit.emulated.size % unit.emulated.block_size:
        yield Problem(
            f"{key}.emulated.size",
            f"{int(unit.emulated.size)} bytes is not a multiple of block_size {unit.emulated.block_size}",
        )


def _backing(unit: UnitSection, key: str) -> tuple[str | None, str]:
    if unit.device is not None:
        return os.path.realpath(unit.device), f"{key}.device"
    assert unit.emulated is not None
    path = unit.emulated.path
    return (os.path.realpath(path) if path is not None else None), f"{key}.emulated.path"


def _joined(key: str, name: str) -> str:
    shown = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
    return f"{key}.{shown}" if key else shown


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return f"is not a known key: {hint}known here: {', '.join(sorted(known))}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else f"{value[:57]}...", ensure_ascii=False)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    return str(value)


def nested_table(annotation: Any) -> tuple[type[Struct] | None, bool]:
    """Whether a field's type is a table of its own (its struct) and whether it is a list of them."""
    if get_origin(annotation) is Annotated:
        return nested_table(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation, False
    arguments = [argument for argument in get_args(annotation) if argument not in (type(None), Ellipsis)]
    is_wrapper = get_origin(annotation) in (tuple, Union) or type(annotation).__name__ == "UnionType"
    if is_wrapper and len(arguments) == 1:
        struct, _ = nested_table(arguments[0])
        return struct, struct is not None and get_origin(annotation) is tuple
    return None, False


def _metas(field: msgspec.structs.FieldInfo) -> list[Meta]:
    return [item for item in getattr(field.type, "__metadata__", ()) if isinstance(item, Meta)]


def field_allowed(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key may be set to."""
    return next((str(meta.extra["allowed"]) for meta in _metas(field) if meta.extra), "")


def field_description(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key is for."""
    return next((meta.description for meta in _metas(field) if meta.description), "")


def field_default(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key is when it is left out."""
    told = next((meta.extra.get("default") for meta in _metas(field) if meta.extra), None)
    if told is not None:
        return str(told)
    if field.required:
        return "required"
    if isinstance(field.default, Size):
        return f'"{int(field.default) >> 30}GiB"'
    return str(msgspec.json.encode(field.default), "ascii")
