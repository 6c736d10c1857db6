"""Connecting, logging in and logging out; used from C by _fastpath.iscsi."""
