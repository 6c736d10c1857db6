"""What the inner guest boots, judged by the tools of the system: busybox's cpio, kmod, readelf."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.vm.boot import VmError, find_kernel
from tests.vm.inner import image


def output(*words: str | Path, directory: Path | None = None, data: bytes | None = None) -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(words, input=data, cwd=directory, env=environment, capture_output=True, check=True)
    return done.stdout.decode()


def modules() -> Path:
    (found,) = (find_kernel().root / "lib" / "modules").iterdir()
    return found


def test_the_archive_is_what_cpio_unpacks(tmp_path):
    files = {
        "init": (0o100755, b"\x7fELF odd"),
        "modules": (0o040755, b""),
        "modules/00.ko": (0o100644, bytes(4096)),
        "modules/01.ko": (0o100600, b""),
    }
    output("busybox", "cpio", "-i", directory=tmp_path, data=image.cpio(files))
    for name, (mode, content) in files.items():
        assert (tmp_path / name).stat().st_mode == mode
        assert mode & 0o040000 or (tmp_path / name).read_bytes() == content
    assert len(list(tmp_path.rglob("*"))) == len(files)


@pytest.mark.parametrize("name", ["virtio_pci", "virtio_scsi", "sg", "virtio_net"])
def test_every_module_comes_behind_what_it_needs(name):
    kernel = find_kernel()
    told = output("modprobe", "--show-depends", "-d", kernel.root, "-S", modules().name, name)
    needed = [Path(line.split()[1]) for line in told.splitlines() if line.startswith("insmod ")]
    ordered = image.in_load_order(modules(), [name])
    assert {path.name for path in ordered} == {path.name for path in needed}
    for position, path in enumerate(ordered):
        needs = output("modinfo", "-F", "depends", path).strip()
        before = {each.name.partition(".")[0].replace("-", "_") for each in ordered[:position]}
        assert {each.replace("-", "_") for each in needs.split(",") if each} <= before


def test_the_kernel_is_the_packages_and_can_be_entered_directly(tmp_path):
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(image.unpacked(find_kernel().image.read_bytes()))
    assert "Type:                              EXEC" in output("readelf", "-h", kernel)
    # XEN_ELFNOTE_PHYS32_ENTRY, which QEMU looks for.
    assert "0x00000012" in output("readelf", "-n", kernel)
    assert f"Linux version {modules().name} ".encode() in kernel.read_bytes()


@pytest.mark.parametrize("content", [b"no kernel", b"\x1f\x8b gzip"])
def test_a_kernel_of_another_compression_is_told(content):
    with pytest.raises(image.ImageError, match="is not compressed with xz"):
        image.unpacked(content)


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(VmError, match=r"no-such-compiler is not installed; run tests/parts/install\.sh test"):
        image.make()
