"""SCSI passthrough proxy that moves persistent reservations with live-migrating guests."""

__version__ = "0.1.0"
