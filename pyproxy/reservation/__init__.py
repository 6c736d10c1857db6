"""Persistent reservations of one guest: what its I_T nexus has registered and reserved, tracked and kept true."""
