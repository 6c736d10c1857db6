"""Where requests go; for nogil callers only, see dispatch.pxd."""
