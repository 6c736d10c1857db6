"""A guest that QEMU can move from one process to another: all of it is in memory, nothing of it on the host's files."""
