"""The configuration file: TOML read once into frozen structs, every mistake named by file, key and what is allowed."""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pyproxy.config.checks import ConfigError, Problem, cross_checks
from pyproxy.config.fields import field_allowed, nested_table
from pyproxy.config.sections import DEFAULT_GUEST, Config, Size
from pyproxy.scsi.transport_id import TransportId

SYSTEM_FILE: Final = Path("/etc/pyproxy/pyproxy.toml")


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
