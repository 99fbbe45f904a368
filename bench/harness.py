"""Timing in alternating rounds, and results as JSON that a table is made from."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        name: what was measured.
        ours: median seconds (or bytes, or a rate on a GPU) of pretask.
        peer: the same of the best peer.
        peer_name: which peer that is.
        peer_version: its version.
        ratio: ours / peer; below 1 is better for seconds and bytes.
        target: what the ratio shall be at most; None where there is none.
        unit: of `ours` and `peer`.
        spread: interquartile range over median, ours and the peer's.
        note: what a reader must know.
    """

    name: str
    ours: float
    peer: float | None
    peer_name: str = ""
    peer_version: str = ""
    ratio: float | None = None
    target: float | None = None
    unit: str = "s"
    spread: tuple[float, float] = (0.0, 0.0)
    note: str = ""


def installed(package: str) -> str:
    """A package's version, or nothing where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], least: float) -> float:
    """Seconds a call, over as many calls as take `least` seconds."""
    calls, start = 0, time.perf_counter()
    while True:
        run()
        calls += 1
        synchronise()
        passed = time.perf_counter() - start
        if passed >= least:
            return passed / calls


def alternate(
    runs: dict[str, Callable[[], Any]], rounds: int = 5, least: float = 0.5, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds a call of each in turn, round after round: what disturbs one disturbs all alike."""
    for run in runs.values():
        for _ in range(warm_up):
            run()
    synchronise()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run, least))
    return taken


def spread(values: list[float]) -> float:
    if len(values) < 3:
        return 0.0
    quarters = statistics.quantiles(values, n=4)
    return (quarters[2] - quarters[0]) / statistics.median(values)


def against(
    name: str,
    taken: dict[str, list[float]],
    versions: dict[str, str],
    target: float | None = None,
    note: str = "",
) -> Row:
    """Our median beside the best peer's. The run that is called `ours` is ours."""
    medians = {run: statistics.median(values) for run, values in taken.items()}
    peers = {run: value for run, value in medians.items() if run != "ours"}
    if not peers:
        return Row(name, medians["ours"], None, target=target, spread=(spread(taken["ours"]), 0.0), note=note)
    best = min(peers, key=lambda run: peers[run])
    return Row(
        name, medians["ours"], peers[best], best, versions.get(best, ""), medians["ours"] / peers[best],
        target, spread=(spread(taken["ours"]), spread(taken[best])), note=note,
    )  # fmt: skip


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        rows = (row.partition(":") for row in info.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in rows if key.strip() == "model name"), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def write(case: str, rows: list[Row], folder: Path = RESULTS) -> Path:
    """Keep a case's rows, and print them."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "case": case, "machine": machine(), "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    path = folder / f"{case}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        ratio = "" if row.ratio is None else f"  ratio {row.ratio:.2f}"
        goal = "" if row.target is None else f" (target {row.target:g})"
        peer = "" if row.peer is None else f"  {row.peer_name} {row.peer:.4g} {row.unit}"
        print(
            f"{case}: {row.name}: ours {row.ours:.4g} {row.unit}{peer}{ratio}{goal}  {row.note}", flush=True
        )
    return path
