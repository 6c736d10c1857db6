"""The worker thread's loop; for nogil callers only, see worker.pxd."""
