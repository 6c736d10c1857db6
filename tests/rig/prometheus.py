"""A real Prometheus that scrapes what it is told to, and answers PromQL."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.rig.ports import free_port

START_SECONDS = 120.0


class Prometheus:
    """One Prometheus on a port of its own, with its data in ``directory``. ``targets`` are ADDRESS:PORT."""

    def __init__(self, directory: Path, targets: list[str], rules: Path | None = None) -> None:
        binary = shutil.which("prometheus")
        assert binary is not None, "prometheus is not installed; run tests/parts/install.sh test"
        self.port = free_port()
        config = directory / "prometheus.yml"
        quoted = ", ".join(f'"{target}"' for target in targets)
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            + (f"rule_files: ['{rules}']\n" if rules is not None else "")
            + f"scrape_configs:\n  - job_name: pyproxy\n    static_configs:\n      - targets: [{quoted}]\n",
            encoding="utf-8",
        )
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self._process.poll() is None, Path(str(self._log.name)).read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "prometheus does not become ready"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def query(self, promql: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of an instant query, by their labels."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": promql}))
        assert answer["data"]["resultType"] == "vector"
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in answer["data"]["result"]}

    def value(self, promql: str) -> float:
        """The one sample of an instant query."""
        found = self.query(promql)
        assert len(found) == 1, f"{promql}: {found}"
        return next(iter(found.values()))

    def until_scraped_again(self, times: int = 2) -> None:
        """Wait until everything that has happened by now is stored."""
        before = time.time()
        deadline = time.monotonic() + START_SECONDS
        while True:
            found = self.query("min(timestamp(up == 1))")
            if found and min(found.values()) > before + times:
                return
            assert time.monotonic() < deadline, "prometheus does not reach its targets"
            time.sleep(0.2)

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {dict(labels)["alertname"] for labels in self.query('ALERTS{alertstate="firing"}')}

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)
