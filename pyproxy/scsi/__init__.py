"""SCSI wire codecs and the numbers the standards assign; knows nothing of devices, sockets or guests."""
