"""The commands in flight on one iSCSI session; used from C by _fastpath.iscsi."""
