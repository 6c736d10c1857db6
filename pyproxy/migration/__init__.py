"""Checkpoints of a guest's reservations, and their takeover by another host."""
