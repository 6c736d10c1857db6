"""Requests of the virtio SCSI host device; for nogil callers only, see virtio_scsi.pxd."""
