"""A host as an operator has it: a configuration file, a daemon in a process of its own, and commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from pyproxy import config
from pyproxy.cli.main import main
from pyproxy.frontend.api import connect
from tests.vm.rig.lio import LioNexus
from tests.vm.rig.nodes import wait_for
from tests.vm.rig.takeover import GUEST, write_config


class OperatedHost:
    """One host with its configuration file; ``options`` are those of ``write_config``."""

    def __init__(self, directory: Path, name: str, nexus: LioNexus, **options: object) -> None:
        self.config_file = write_config(directory, name, nexus, **options)
        self.log = directory / f"{name}.log"
        self.daemon = None

    def words(self, *words):
        return ["--config", str(self.config_file), *map(str, words)]

    def process(self, *words):
        """Run a command as the operator does: its exit status, standard output and standard error."""
        done = subprocess.run(
            [sys.executable, "-m", "pyproxy", *self.words(*words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return done.returncode, done.stdout, done.stderr

    def here(self, *words):
        """The same within this process."""
        done = CliRunner().invoke(main, self.words(*words))
        return done.exit_code, done.stdout, done.stderr

    def serve(self):
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "pyproxy", *self.words("serve")], stdout=log, stderr=subprocess.STDOUT
            )

    def start(self):
        """Serve, and wait until it does."""
        self.serve()
        wait_for(lambda: self.serving, "the daemon")

    @property
    def serving(self):
        assert self.daemon.poll() is None, self.log.read_text()
        return "serving db" in self.log.read_text()

    def stop(self, number=signal.SIGTERM):
        if self.daemon is None:
            return None
        self.daemon.send_signal(number)
        status, self.daemon = self.daemon.wait(300), None
        return status

    def guest(self):
        return connect(config.load(self.config_file).daemon.control_socket).guest(GUEST).unit(0)

    def status(self, run):
        status, out, err = run("status", "--json")
        assert status == 0, err
        document = json.loads(out)
        assert document["daemon"] is (self.daemon is not None)
        return document["guests"][0]["units"][0]
