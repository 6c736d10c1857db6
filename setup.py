"""Builds the Cython fast path; a failed extension fails the installation."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CFLAGS = ["-O3", "-std=gnu11", "-Wall", "-Wextra", "-fno-strict-aliasing", "-pthread"]

extensions = [
    Extension(
        f"_fastpath.{source.stem}",
        [str(source)],
        extra_compile_args=CFLAGS,
        extra_link_args=["-pthread"],
        depends=[str(path) for path in sorted(Path("_fastpath").glob("*.h"))],
    )
    for source in sorted(Path("_fastpath").glob("*.pyx"))
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
