"""Our driver, our session, a data plane in plain Python, an emulated unit: commands end to end."""

from __future__ import annotations

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver

INQUIRY = bytes.fromhex("12 00 00 00 60 00")


def test_inquiry_and_data(guest):
    driver = ScsiDriver(FrontEnd.connect(guest.path))
    driver.start()
    answer = driver.execute(INQUIRY, data_in=96)
    assert (answer.response, answer.status) == (0, 0)
    assert answer.data[:1] == b"\0"
    driver.close()
