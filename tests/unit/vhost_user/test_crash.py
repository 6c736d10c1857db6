"""The back end is killed with commands in flight; the front end connects to the next one and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver

INQUIRY = bytes.fromhex("12 00 00 00 60 00")
TEST_UNIT_READY = bytes(6)
PROJECT = Path(__file__).resolve().parents[3]


def start(directory: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.unit.vhost_user.back_end", str(directory)], cwd=PROJECT)


def until_held(directory: Path) -> None:
    deadline = time.monotonic() + 60
    while not (directory / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_with_a_command_in_flight(tmp_path):
    (tmp_path / "hold").touch()
    back_end = start(tmp_path)
    driver = ScsiDriver(FrontEnd.connect(tmp_path / "scsi.sock", 120))
    try:
        driver.start()
        driver.execute(TEST_UNIT_READY)
        first = driver.submit(INQUIRY, data_in=96)
        until_held(tmp_path)
        second = driver.submit(TEST_UNIT_READY)
        back_end.kill()
        back_end.wait()
        third = driver.submit(INQUIRY, data_in=5)
        (tmp_path / "hold").unlink()
        back_end = start(tmp_path)
        driver.reconnect(FrontEnd.connect(tmp_path / "scsi.sock", 120))
        # Nobody knows whether it was executed: the guest is told to repeat what is not a read or write of blocks.
        assert driver.wait(first).response == 4
        # The emulated unit's medium and its nexus are new, so it reports its power on; and only once.
        assert driver.wait(second).response in (0, 4)
        assert driver.wait(third).status == 0
        assert driver.queues[2].in_flight == 0
        driver.execute(TEST_UNIT_READY)
        assert driver.execute(TEST_UNIT_READY).status == 0
        # The one that goes on is as good as the first: it counts its own commands in flight.
        answer = driver.execute(INQUIRY, data_in=96)
        assert (answer.response, answer.status, answer.data[8:15]) == (0, 0, b"PYPROXY")
    finally:
        driver.close()
        back_end.terminate()
        back_end.wait(60)
