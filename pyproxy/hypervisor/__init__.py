"""What pyproxy asks of hypervisors."""
