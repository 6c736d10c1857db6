"""A session that keeps breaking: every command ends once, nothing waits in vain, nothing is mixed up on our side."""

from __future__ import annotations

from tests.iscsi.conftest import Open
from tests.iscsi.storm import rage
from tests.rig.iscsi_proxy import DATA_IN, IscsiProxy


def test_every_command_ends_once(proxy: IscsiProxy, open_device: Open) -> None:
    device = open_device(portal=proxy.portal, depth=7, reconnect_seconds=60)
    storm = rage(device, [proxy.reset, proxy.finish, device.disconnect], 12)
    assert storm.counts["answered"] > 0
    assert storm.counts["answered through the port"] > 0
    # tgt answers one READ after a lost session with the data of another, or with its own memory: it uses the buffers of
    # commands that were in flight while they are still read into. That is its doing where the wire shows it.
    sent_by_target = {pdu.rest for pdu in proxy.received if pdu.opcode == DATA_IN}
    assert [data for data in storm.odd if data not in sent_by_target] == []
