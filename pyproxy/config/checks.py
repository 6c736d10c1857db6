"""Mistakes of a configuration: how they are told, and those between parts each of which is valid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pyproxy.config.sections import (
    GUEST_SOCKET_PATH_BYTES,
    SOCKET_PATH_BYTES,
    Config,
    Endpoint,
    UnitSection,
    iscsi_settings,
    socket_path,
)
from pyproxy.device.iscsi_settings import problem_of


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


def cross_checks(config: Config) -> Iterator[Problem]:
    """Yield what is wrong between the parts of a configuration each of which is valid."""
    if len(os.fsencode(config.daemon.control_socket)) > SOCKET_PATH_BYTES:
        yield Problem(
            "daemon.control_socket", f"is too long for a Unix socket, expected at most {SOCKET_PATH_BYTES} bytes"
        )
    yield from _socket_checks(config)
    yield from _peer_checks(config)
    yield from _metrics_checks(config)
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
            if sum(one is not None for one in (unit.device, unit.emulated, unit.iscsi)) != 1:
                yield Problem(key, "exactly one of device, emulated and iscsi is required")
                continue
            yield from _emulated_checks(unit, key)
            yield from _iscsi_checks(unit, key)
            path, path_key = _backing(unit, key)
            if path is None:
                continue
            if (owner := owners.setdefault(path, path_key)) != path_key:
                yield Problem(
                    path_key,
                    f"{path} is already {owner}: two guests cannot share one logical unit through one I_T nexus, "
                    "they would share one registration; give one of them another path",
                )


def _peer_checks(config: Config) -> Iterator[Problem]:
    migration = config.migration
    if migration is None:
        if config.peer:
            yield Problem("migration", "is required where there are peers: add a [migration] table")
        return
    endpoints = [("migration.listen", migration.listen)] if migration.listen is not None else []
    names: dict[str, int] = {config.daemon.host_name: -1}
    for p, peer in enumerate(config.peer):
        endpoints.append((f"peer[{p}].address", peer.address))
        if (first := names.setdefault(peer.name, p)) != p:
            owner = "this host" if first < 0 else f"peer[{first}]"
            yield Problem(f"peer[{p}].name", f'"{peer.name}" is already the name of {owner}: names are unique')
    tls = False
    for key, text in endpoints:
        try:
            tls = Endpoint.parse(text).path is None or tls
        except ValueError as error:
            yield Problem(key, f'"{text}" is {error}: expected ADDRESS:PORT or the absolute path of a Unix socket')
    if tls:
        for name in ("certificate", "key", "ca"):
            if getattr(migration, name) is None:
                yield Problem(f"migration.{name}", "is required: peers are reached over the network, by mutual TLS")


def _metrics_checks(config: Config) -> Iterator[Problem]:
    metrics = config.metrics
    if metrics is None:
        return
    try:
        problem = "the path of a Unix socket" if Endpoint.parse(metrics.listen).path is not None else ""
    except ValueError as error:
        problem = str(error)
    if problem:
        yield Problem("metrics.listen", f'"{metrics.listen}" is {problem}: expected ADDRESS:PORT')
    if (metrics.certificate is None) is not (metrics.key is None):
        yield Problem("metrics", "certificate and key are both required for TLS, or none of them")
    if metrics.client_ca is not None and metrics.certificate is None:
        yield Problem("metrics.client_ca", "is only of use with certificate and key")


def _socket_checks(config: Config) -> Iterator[Problem]:
    sockets = {os.path.realpath(config.daemon.control_socket): "daemon.control_socket"}
    if config.migration is not None and (config.migration.listen or "").startswith("/"):
        sockets[os.path.realpath(str(config.migration.listen))] = "migration.listen"
    for g, guest in enumerate(config.guest):
        for name, section in (("pr_helper", guest.pr_helper), ("vhost_user", guest.vhost_user)):
            if section is None:
                continue
            key = f"guest[{g}].{name}"
            path = socket_path(config, guest, section)
            if len(os.fsencode(path)) > GUEST_SOCKET_PATH_BYTES:
                yield Problem(f"{key}.socket", f"{path} is too long, expected at most {GUEST_SOCKET_PATH_BYTES} bytes")
            if (owner := sockets.setdefault(os.path.realpath(path), key)) != key:
                yield Problem(f"{key}.socket", f"{path} is already {owner}: a socket tells which guest connects")
        if guest.pr_helper is not None and all(unit.device is None for unit in guest.unit):
            yield Problem(
                f"guest[{g}].pr_helper",
                "no unit of this guest has a device: nothing else can come with a helper's request",
            )


def _emulated_checks(unit: UnitSection, key: str) -> Iterator[Problem]:
    if unit.emulated is not None and unit.emulated.size % unit.emulated.block_size:
        yield Problem(
            f"{key}.emulated.size",
            f"{int(unit.emulated.size)} bytes is not a multiple of block_size {unit.emulated.block_size}",
        )


def _iscsi_checks(unit: UnitSection, key: str) -> Iterator[Problem]:
    if unit.iscsi is None:
        return
    if (problem := problem_of(iscsi_settings(unit.iscsi))) is not None:
        yield Problem(f"{key}.iscsi", problem)
    if unit.initiator is not None:
        yield Problem(f"{key}.initiator", "is iscsi.initiator and the ISID of an iSCSI unit; leave it out")


def _backing(unit: UnitSection, key: str) -> tuple[str | None, str]:
    if unit.device is not None:
        return os.path.realpath(unit.device), f"{key}.device"
    if unit.iscsi is not None:
        return f"{unit.iscsi.url} as {unit.iscsi.initiator}", f"{key}.iscsi"
    assert unit.emulated is not None
    if unit.emulated.path is None:
        return None, key
    path = os.path.realpath(unit.emulated.path)
    # Guests whose nexuses have names of their own may share an emulated unit, as they would a disk of a SAN.
    named = "" if unit.initiator is None else f" as {unit.initiator} by port {unit.rtpi or 1}"
    return path + named, f"{key}.emulated.path"
