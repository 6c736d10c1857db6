"""Builds the Cython fast path; a failed extension fails the installation.

The iSCSI back end alone is left out, and only where libiscsi's headers are not there.
"""

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CFLAGS = ["-O3", "-std=gnu11", "-Wall", "-Wextra", "-fno-strict-aliasing", "-pthread"]


def finds(header: str) -> bool:
    """Whether the compiler that builds the extensions finds a header."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    asked = [*compiler, *CFLAGS, "-E", "-x", "c", "-o", "/dev/null", "-"]
    done = subprocess.run(asked, input=f"#include <{header}>\n", text=True, capture_output=True, check=False)
    return done.returncode == 0


def libraries(source: Path) -> list[str]:
    return ["iscsi"] if source.stem.startswith("iscsi") else []


sources = sorted(Path("_fastpath").glob("*.pyx"))
if not finds("iscsi/iscsi.h"):
    sources = [source for source in sources if not libraries(source)]
    sys.stderr.write("pyproxy: no iscsi/iscsi.h here, so without the iSCSI back end (Debian: libiscsi-dev)\n")

extensions = [
    Extension(
        f"_fastpath.{source.stem}",
        [str(source)],
        libraries=libraries(source),
        extra_compile_args=CFLAGS,
        extra_link_args=["-pthread"],
        depends=[str(path) for path in sorted(Path("_fastpath").glob("*.h"))],
    )
    for source in sources
]

setup(
    ext_modules=cythonize(
        extensions,
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "warn.unused": True,
        },
    )
)
