"""The ``pyproxy`` command line."""
