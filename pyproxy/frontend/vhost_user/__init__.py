"""The back end's side of vhost-user for a virtio-scsi controller, without its rings: messages, session, sockets.

The rings and the guest's memory are the data plane's (``data_plane`` says what it must be able to do).
"""
