"""The engine that replays results, and the results it replays."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from _fastpath import sgio

ROOT = Path(__file__).parents[3]

GOOD, CHECK, CONFLICT, BUSY = 0x00, 0x02, 0x18, 0x08
DONE, NOT_EXECUTED, UNKNOWN = 0, 1, 2

Outcome = tuple[int, bytes, int, int, int]


def outcome(status: int = GOOD, sense: str = "", host_status: int = 0, error: int = 0, fate: int = DONE) -> Outcome:
    return (status, bytes.fromhex(sense), host_status, error, fate)


def fixed(key: int, asc: int, ascq: int) -> Outcome:
    return outcome(CHECK, f"70 00 {key:02X} 00 00 00 00 0A 00 00 00 00 {asc:02X} {ascq:02X} 00 00 00 00")


def descriptor(key: int, asc: int, ascq: int) -> Outcome:
    return outcome(CHECK, f"72 {key:02X} {asc:02X} {ascq:02X} 00 00 00 00")


@cache
def replay_engine() -> Callable[..., Any]:
    """``ReplayEngine(outcomes, rc)``, compiled against the declarations the extensions were built from."""
    source = Path(__file__).with_name("replay_engine.pyx")
    inputs = [source, ROOT / "_fastpath" / "sgio.pxd", Path(sgio.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    target = ROOT / ".cache" / "tests" / f"replay_engine-{digest}" / f"replay_engine{_suffix()}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        generated = target.with_name("replay_engine.c")
        unfinished = target.with_suffix(".tmp")
        _run([sys.executable, "-m", "cython", "-3", "-I", str(ROOT), "-o", str(generated), str(source)])
        include = sysconfig.get_path("include")
        compiler = (sysconfig.get_config_var("CC") or "cc").split()
        _run([*compiler, "-shared", "-fPIC", "-O1", f"-I{include}", "-o", str(unfinished), str(generated)])
        unfinished.rename(target)
    spec = importlib.util.spec_from_file_location("replay_engine", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine: Callable[..., Any] = module.ReplayEngine
    return engine


def _suffix() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
