"""What the guest boots: Debian's kernel, unpacked, and an initramfs with busybox, fio and sg3-utils.

virtme-ng's guests have the host's files over 9p, which QEMU refuses to migrate.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.vm.boot import PROJECT, find_kernel
from tests.vm.inner.image import ImageError, cpio, in_load_order, module, replace, unpacked

IMAGE = PROJECT / ".cache" / "migrating-guest"
VMLINUX = IMAGE / "vmlinux"
INITRAMFS = IMAGE / "initramfs"

MODULES = ("virtio_pci", "virtio_scsi", "sg", "sd_mod")
PROGRAMS = ("busybox", "fio", "sg_persist", "sg_inq", "sg_raw", "sg_turs")
_INIT = Path(__file__).with_name("init.sh")
_DIRECTORY, _FILE, _EXECUTABLE = 0o040755, 0o100644, 0o100755


def make() -> None:
    """Make ``VMLINUX`` and ``INITRAMFS``; raises ImageError or VmError."""
    kernel = find_kernel()
    (modules,) = (kernel.root / "lib" / "modules").iterdir()
    IMAGE.mkdir(parents=True, exist_ok=True)
    files: dict[str, tuple[int, bytes]] = {}
    for name in ("bin", "dev", "modules", "proc", "sys", "tmp"):
        files[name] = _DIRECTORY, b""
    for number, path in enumerate(in_load_order(modules, MODULES)):
        files[f"modules/{number:02d}.ko"] = _FILE, module(path)
    for name in PROGRAMS:
        program = _program(name)
        files[f"bin/{name}"] = _EXECUTABLE, program.read_bytes()
        for library in _libraries(program):
            _add(files, library)
    files["init"] = _EXECUTABLE, _INIT.read_bytes()
    replace(INITRAMFS, cpio(files))
    replace(VMLINUX, unpacked(kernel.image.read_bytes()))


def _program(name: str) -> Path:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise ImageError(f"{name} is not installed; run tests/parts/install.sh test")
    return Path(found)


def _libraries(program: Path) -> list[Path]:
    """The shared libraries a program is loaded with, the loader too; none for a static one."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if "not a dynamic executable" in told.stdout + told.stderr:
        return []
    missing = re.findall(r"(\S+) => not found", told.stdout)
    if told.returncode or missing:
        raise ImageError(f"{program} cannot be loaded: {told.stderr or missing}; run tests/parts/install.sh test")
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", told.stdout)]


def _add(files: dict[str, tuple[int, bytes]], path: Path) -> None:
    name = path.relative_to("/")
    for parent in reversed(name.parents[:-1]):
        files.setdefault(str(parent), (_DIRECTORY, b""))
    files[str(name)] = _EXECUTABLE, path.read_bytes()
