"""One format for every benchmark's result: what was measured, beside which floor, with which goal.

``record`` writes one JSON file per measurement; ``load`` merges every ``*.json`` of a results directory, whoever wrote
it and wherever (a virtual machine writes into a shared directory). A file looks like::

    {"format": "pyproxy-bench-1", "name": "cdb parse, 4K hot set", "unit": "ns per CDB", "better": "lower",
     "value": 2.0, "floor": 1.8, "ratio": 1.11, "goal": 1.3, "met": true, "details": {}}

``ratio`` is how many times worse than the floor: value / floor where lower is better, floor / value where higher is.
``floor``, ``ratio``, ``goal`` and ``met`` are null where there is none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

FORMAT = "pyproxy-bench-1"
Better = Literal["lower", "higher"]


def results_directory() -> Path:
    """Where results go: $PYPROXY_BENCH_RESULTS, or bench/results."""
    return Path(os.environ.get("PYPROXY_BENCH_RESULTS") or Path(__file__).parent / "results")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured figure. ``goal`` is the largest ratio that is good enough."""

    name: str
    value: float
    floor: float | None
    unit: str
    goal: float | None = None
    better: Better = "lower"
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times worse than the floor, None without one."""
        if not self.floor or not self.value:
            return None
        return self.value / self.floor if self.better == "lower" else self.floor / self.value

    @property
    def met(self) -> bool | None:
        """Whether the goal is met, None without goal or floor."""
        ratio = self.ratio
        return None if self.goal is None or ratio is None else ratio <= self.goal


def record(
    name: str,
    value: float,
    floor: float | None,
    unit: str,
    goal: float | None = None,
    *,
    better: Better = "lower",
    details: Mapping[str, Any] | None = None,
    directory: Path | None = None,
) -> Measurement:
    """Write one measurement to ``directory`` (default: results_directory) and return it; an older one is replaced."""
    measurement = Measurement(name, value, floor, unit, goal, better, dict(details or {}))
    directory = results_directory() if directory is None else directory
    directory.mkdir(parents=True, exist_ok=True)
    document = {"format": FORMAT, **asdict(measurement), "ratio": measurement.ratio, "met": measurement.met}
    target = directory / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json")
    unfinished = target.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    unfinished.replace(target)
    return measurement


def load(directory: Path | None = None) -> list[Measurement]:
    """Read every measurement of a results directory, by name; files of another format are passed over."""
    directory = results_directory() if directory is None else directory
    measurements = []
    for path in sorted(directory.glob("*.json")):
        document = json.loads(path.read_text())
        if isinstance(document, dict) and document.get("format") == FORMAT:
            names = ("name", "value", "floor", "unit", "goal", "better", "details")
            measurements.append(Measurement(**{name: document[name] for name in names}))
    return sorted(measurements, key=lambda measurement: measurement.name)


def table(measurements: Iterable[Measurement]) -> str:
    """Lay measurements out for people."""
    rows = [("", "measured", "floor", "ratio", "goal", "")]
    for each in measurements:
        verdict = {None: "", True: "met", False: "MISSED"}[each.met]
        rows.append(
            (
                f"{each.name} ({each.unit})",
                _figure(each.value),
                _figure(each.floor),
                _figure(each.ratio),
                "" if each.goal is None else f"{each.goal:g}",
                verdict,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        figures = "  ".join(cell.rjust(width) for cell, width in zip(row[1:5], widths[1:5], strict=True))
        lines.append(f"{row[0].ljust(widths[0])}  {figures}  {row[5]}".rstrip())
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def main() -> None:
    """Print what the results directory holds."""
    print(table(load()))


if __name__ == "__main__":
    main()
