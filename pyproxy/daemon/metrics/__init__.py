"""What Prometheus reads of a daemon."""
