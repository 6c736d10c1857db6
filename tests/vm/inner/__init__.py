"""A guest inside the virtual machine: what it boots, and QEMU around it."""
