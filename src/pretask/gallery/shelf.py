"""Runs below a folder: which there are, how far they are, and the parts of their pages."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pretask.errors import PretaskError, UsageError

DEEPEST, MOST = 3, 200
"""Levels below the folder that are looked through; runs that are shown."""

PARTS = (
    "config.yaml", "metrics.csv", "evaluation.json", "encoder.safetensors", "checkpoint", "preview", "report",
    "report/features.safetensors",
)  # fmt: skip
"""What tells that a run has moved on."""

ALIVE = 120  # seconds after its last sign that a run is still taken to train


class Shelf:
    """The runs below a folder. Nothing outside the run folders found there is ever read.

    Args:
        root: a folder of run folders, or a run folder.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.known: dict[str, tuple[int, dict[str, Any]]] = {}
        self.maps: dict[str, tuple[int, dict[str, Any]]] = {}

    def folders(self) -> dict[str, Path]:
        """Run folders by their names, those that moved last first."""
        found = {}
        for place, below, files in os.walk(self.root):  # links to other folders are not followed
            path = Path(place)
            if "config.yaml" in files:
                found[
                    self.root.resolve().name if path == self.root else path.relative_to(self.root).as_posix()
                ] = path
                below.clear()
            elif len(path.relative_to(self.root).parts) >= DEEPEST:
                below.clear()
            below[:] = [name for name in below if not name.startswith(".")]
        ordered = sorted(found.items(), key=lambda item: -stamp(item[1]))
        return dict(ordered[:MOST])

    def find(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            UsageError: there is none of this name.
        """
        folders = self.folders()
        if name not in folders:
            raise UsageError(f"there is no run '{name}' below '{self.root}'")
        return folders[name]

    def overview(self) -> dict[str, Any]:
        """All runs in short, and why there are none."""
        folders = self.folders()
        problem = ""
        if not self.root.is_dir():
            problem = (
                f"There is no folder '{self.root}' yet: `pretask train SLUG` makes runs, `--runs` says where."
            )
        elif not folders:
            problem = (
                f"'{self.root}' holds no run yet: `pretask train SLUG --out {self.root / 'SLUG'}` makes one."
            )
        return {
            "root": str(self.root),
            "runs": [self.short(*item) for item in folders.items()],
            "problem": problem,
        }

    def short(self, name: str, folder: Path) -> dict[str, Any]:
        """A run in short; one that cannot be read says why."""
        moved = stamp(folder)
        if self.known.get(name, (0, {}))[0] != moved:
            self.known[name] = (
                moved,
                {"name": name, "folder": str(folder), "stamp": str(moved), **digest(folder)},
            )
        found = self.known[name][1]
        return {**found, "alive": found["state"] == "training" and time.time() - moved / 1e9 < ALIVE}

    def page(self, name: str) -> dict[str, Any]:
        """A run as its report tells it, but for the map.

        Raises:
            PretaskError: there is none of this name, or it cannot be read.
        """
        from pretask.reports.html import about
        from pretask.reports.page import render
        from pretask.reports.record import read

        folder = self.find(name)
        context = about(read(folder))
        return {**self.short(name, folder), "top": render("run_top.html.j2", **context),
                "rest": render("run_rest.html.j2", **context)}  # fmt: skip

    def map(self, name: str) -> dict[str, Any]:
        """A run's map of embeddings and what it draws from.

        Raises:
            PretaskError: there is none of this name.
        """
        from pretask.reports.html import embedding_map
        from pretask.reports.page import render

        folder = self.find(name)
        moved = stamp(folder)
        if self.maps.get(name, (0, None))[0] != moved:
            context = embedding_map(folder)
            html = render("run_map.html.j2", **context)
            self.maps[name] = moved, {"html": html, "data": context["map"]}
        return self.maps[name][1]

    def compare(self, names: list[str]) -> dict[str, Any]:
        """Several runs side by side; those that cannot be read are named.

        Raises:
            PretaskError: none of them can be.
        """
        from pretask.reports.html import about_all
        from pretask.reports.page import render

        shown = [self.short(name, folder) for name, folder in self.folders().items() if name in names]
        whole = [run for run in shown if run["state"] != "broken"]
        if not whole:
            raise UsageError("choose at least one run that can be read")
        context = about_all([run["folder"] for run in whole])
        left_out = [f"{run['name']}: {run['problem']}" for run in shown if run["state"] == "broken"]
        return {"html": render("compare_main.html.j2", **context), "left_out": left_out}


def stamp(folder: Path) -> int:
    """When a run last moved, in nanoseconds since 1970."""
    times = [0]
    for part in PARTS:
        try:
            times.append((folder / part).stat().st_mtime_ns)
        except OSError:
            continue
    return max(times)


def digest(folder: Path) -> dict[str, Any]:
    """What a list of runs says of one."""
    from pretask.reports.board import groups, main_group
    from pretask.reports.curves import thin
    from pretask.reports.record import read
    from pretask.reports.verdict import judge

    try:
        record = read(folder)
        verdict, group, curve = judge(record), main_group(groups(record.scores)), record.loss()
    except PretaskError as error:
        return {"state": "broken", "problem": str(error), "title": folder.name, "slugs": []}
    own = group.of_kind("run") if group else None
    steps = int(curve[0][-1]) if curve is not None and len(curve[0]) else 0
    plan = record.config.get("plan")
    total = plan.get("steps") if isinstance(plan, dict) else None
    state = "finished" if (folder / "encoder.safetensors").is_file() else "training"
    thinned = thin(*curve)[1].tolist() if curve is not None and len(curve[0]) else list[float]()
    data = record.config.get("data")
    return {
        "state": state,
        "problem": " ".join(record.problems.values()),
        "title": record.title,
        "slugs": record.slugs,
        "data": str(data.get("source", "")) if isinstance(data, dict) else "",
        "step": steps,
        "steps": total if isinstance(total, int) else None,
        "level": verdict.level,
        "headline": verdict.headline,
        "score": f"{group.title}: {group.show(own.value)}" if group and own else "",
        "loss": [float(f"{value:.4g}") for value in thinned if value == value],
    }
