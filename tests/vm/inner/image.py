"""What the inner guest boots: Debian's kernel, unpacked, and an initramfs of one program and the modules it loads.

Made on the host, where compiling and unpacking takes a second instead of a minute.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path

from tests.vm.boot import PROJECT, compile_program, find_kernel

IMAGE = PROJECT / ".cache" / "inner-guest"
VMLINUX = IMAGE / "vmlinux"
INITRAMFS = IMAGE / "initramfs"

MODULES = ("virtio_pci", "virtio_scsi", "sg")
_PROGRAM = Path(__file__).with_name("init.c")
_XZ_MAGIC = b"\xfd7zXZ\x00"
_DIRECTORY, _FILE, _EXECUTABLE = 0o040755, 0o100644, 0o100755


class ImageError(Exception):
    """The inner guest could not be made; the message says what to do."""


def make() -> None:
    """Make ``VMLINUX`` and ``INITRAMFS`` of the virtual machine's kernel; raises ImageError or VmError."""
    kernel = find_kernel()
    (modules,) = (kernel.root / "lib" / "modules").iterdir()
    IMAGE.mkdir(parents=True, exist_ok=True)
    files = {"init": (_EXECUTABLE, _compiled()), "modules": (_DIRECTORY, b"")}
    for number, path in enumerate(in_load_order(modules, MODULES)):
        files[f"modules/{number:02d}.ko"] = _FILE, module(path)
    replace(INITRAMFS, cpio(files))
    replace(VMLINUX, unpacked(kernel.image.read_bytes()))


def unpacked(image: bytes) -> bytes:
    """The ELF file inside a bzImage.

    QEMU enters it directly (PVH), which spares an emulated processor the decompression: two thirds of the boot.
    """
    start = image.find(_XZ_MAGIC)
    if start < 0:
        raise ImageError("the kernel is not compressed with xz; teach tests/vm/inner/image.py its format")
    kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(image[start:])
    if not kernel.startswith(b"\x7fELF"):
        raise ImageError("the kernel's image holds no ELF file; teach tests/vm/inner/image.py its format")
    return kernel


def in_load_order(modules: Path, names: Sequence[str]) -> list[Path]:
    """The files of ``names`` and all they need, each behind what it needs (``modules.dep``)."""
    files: dict[str, Path] = {}
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        file, _, rest = line.partition(":")
        files[_module_name(file)] = modules / file
        needs[_module_name(file)] = [_module_name(each) for each in rest.split()]
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for each in needs[name]:
                add(each)
            ordered[name] = files[name]

    for name in names:
        add(name)
    return list(ordered.values())


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """An archive in the "newc" format of (mode, content) by path; directories stand before what they hold."""
    archive = bytearray()
    for name, (mode, content) in [*files.items(), ("TRAILER!!!", (0, b""))]:
        # inode, mode, uid, gid, links, mtime, size, device (2), device number (2), length of the name, checksum
        fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        for piece in (b"070701" + b"".join(b"%08x" % each for each in fields) + name.encode("ascii") + b"\0", content):
            archive += piece
            archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _module_name(file: str) -> str:
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def module(path: Path) -> bytes:
    """A kernel module, unpacked."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _compiled() -> bytes:
    program = IMAGE / "init"
    compile_program(_PROGRAM, program)
    return program.read_bytes()


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.rename(path)
