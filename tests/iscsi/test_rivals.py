"""One initiator name on two hosts is still two I_T nexuses: their ISIDs differ."""

from __future__ import annotations

from tests.iscsi.commands import REGISTER, keys, pr_out
from tests.iscsi.conftest import Open


def test_hosts_have_sessions_of_their_own(open_device: Open) -> None:
    devices = [open_device(host, initiator="iqn.2026-01.org.example:shared") for host in ("a", "b")]
    assert len({device.initiator.isid for device in devices}) == 2
    for number, device in enumerate(devices, start=1):
        assert device.execute(pr_out(REGISTER, sa_key=number)).good
    assert sorted(keys(devices[0])) == [1, 2]
    assert [device.counts[:2] for device in devices] == [(1, 0), (1, 0)]
