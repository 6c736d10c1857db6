"""``python -m pyproxy``."""

from pyproxy.cli.main import main

main(prog_name="pyproxy")
