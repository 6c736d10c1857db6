"""A back end in a process of its own, to be killed: ``python -m tests.unit.vhost_user.back_end DIRECTORY``.

The file ``hold`` in the directory makes INQUIRY hang; ``held`` says that one does.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from tests.unit.vhost_user.scene import scene


def main(directory: Path) -> None:
    with scene(directory, make=None) as made:
        unit = made.unit()
        execute = unit.execute

        def hold(command):
            while command.cdb[0] == 0x12 and (directory / "hold").exists():
                (directory / "held").touch()
                time.sleep(0.01)
            return execute(command)

        unit.execute = hold
        made.listen()
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
