"""The other side: a vhost-user front end with a virtio-scsi driver in it, a guest without a hypervisor.

Tests, benches and demonstrations drive a controller with it. Nothing that serves guests needs it.
"""
