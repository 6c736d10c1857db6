"""Split virtqueues as the device sees them; for nogil callers only, see virtqueue.pxd."""
