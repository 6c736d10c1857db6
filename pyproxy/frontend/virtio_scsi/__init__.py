"""A virtio-scsi controller as its guest sees it, without its rings: addressing, task management, events, answers."""
