"""The kernel's scsi_debug: disks without persistent reservations, with latency and faults on demand."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.vm.rig.nodes import SCSI_DEVICES, Nodes, nodes_of, settle, wait_for

PARAMETERS = Path("/sys/bus/pseudo/drivers/scsi_debug")


def load(**parameters: object) -> list[Nodes]:
    """modprobe scsi_debug with ``parameters``; the nodes of its disks in the order of their addresses."""
    words = [f"{name}={value}" for name, value in parameters.items()]
    subprocess.run(["modprobe", "scsi_debug", *words], check=True)
    wait_for(lambda: PARAMETERS.exists(), "scsi_debug to load")
    hosts = max(1, int(str(parameters.get("add_host", 1))))
    disks = hosts * int(str(parameters.get("num_tgts", 1))) * int(str(parameters.get("max_luns", 1)))
    wait_for(lambda: len(_addresses()) >= disks, f"{disks} disks of scsi_debug")
    nodes = [nodes_of(address) for address in _addresses()]
    settle()
    return nodes


def _addresses() -> list[str]:
    found = []
    for device in SCSI_DEVICES.glob("*:*:*:*"):
        try:
            model = (device / "model").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            continue
        if model == "scsi_debug":
            found.append(device.name)
    return sorted(found, key=lambda address: [int(number) for number in address.split(":")])


def set_parameter(name: str, value: object) -> None:
    """Change one of the parameters that are writable while loaded (delay, ndelay, opts, every_nth, ...)."""
    (PARAMETERS / name).write_text(f"{value}\n", encoding="ascii")


def unload() -> None:
    """Remove the module with all its disks; OSError when something still has one of them open."""
    settle()
    done = subprocess.run(["modprobe", "-r", "scsi_debug"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"scsi_debug does not unload: {done.stderr.strip()}")
