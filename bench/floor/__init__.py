"""The floors: small C programs, compiled when the benchmarks run, that do the least a figure can be compared to."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent
CACHE = SOURCES.parent.parent / ".cache" / "bench"
CFLAGS = ("-O3", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread")


class FloorError(RuntimeError):
    """A floor could not be compiled."""


def _build(name: str, suffix: str, extra: tuple[str, ...]) -> Path:
    """Compile ``name``.c unless the cache has it, by the content of the source and the flags."""
    source = SOURCES / f"{name}.c"
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        raise FloorError(f"cannot compile {source.name}: no C compiler {compiler!r}; install gcc or set CC")
    flags = (*CFLAGS, *extra)
    digest = hashlib.sha256(repr((compiler, flags)).encode() + source.read_bytes()).hexdigest()[:16]
    target = CACHE / f"{name}-{digest}{suffix}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, *flags, "-o", str(unfinished), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FloorError(f"{compiler} refuses {source}:\n{done.stderr}")
    unfinished.rename(target)
    return target


def build_library(name: str) -> ctypes.CDLL:
    """Compile ``bench/floor/NAME.c`` as a shared library and load it; raises FloorError."""
    return ctypes.CDLL(str(_build(name, ".so", ("-shared", "-fPIC"))))


def build_program(name: str) -> Path:
    """Compile ``bench/floor/NAME.c`` as a program and return its path; raises FloorError."""
    return _build(name, "", ())
