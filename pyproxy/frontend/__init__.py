"""Ways in for guests' commands."""
