"""Timing in alternating rounds, and results as JSON that a table is made from."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
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
        threads: that computed.
        others: the median of every peer by its name.
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
    threads: int = field(default_factory=torch.get_num_threads)
    others: dict[str, float] = field(default_factory=dict)


def installed(package: str) -> str:
    """A package's version, or nothing where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def find(peers: dict[str, Callable[[], T]]) -> tuple[dict[str, T], str]:
    """What the peers' makers make, and a note that names the peers that are not installed."""
    found, missing = {}, []
    for name, make in peers.items():
        try:
            found[name] = make()
        except ImportError as error:
            missing.append(f"{name} ({error})")
    return found, f"not installed: {', '.join(missing)}" if missing else ""


def same(ours: float, theirs: dict[str, float], tolerance: float = 1e-5) -> str:
    """That all computed the same, or an error that says who did not; for a row's note.

    Raises:
        AssertionError: a peer's value is further than `tolerance` (relative) from ours.
    """
    for name, value in theirs.items():
        assert abs(value - ours) <= tolerance * max(1.0, abs(ours)), f"{name} says {value}, we say {ours}"
    return f"all give {ours:.5g}" if theirs else ""


def peak_memory(run: Callable[[], Any]) -> int:
    """Bytes of tensors that a call holds at its worst, on top of those before it."""
    run()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def resident(field: str = "VmRSS", process: str = "self") -> int:
    """Bytes of memory that are in use (VmRSS), or were at most (VmHWM)."""
    row = next(
        row for row in Path(f"/proc/{process}/status").read_text().splitlines() if row.startswith(field)
    )
    return int(row.split()[1]) * 1024


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock() -> float:
    """Seconds of processor time where one thread computes, which other processes hardly disturb; else of the
    wall's clock."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def children() -> float:
    """Seconds of processor time of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(run: Callable[[], Any], least: float, clock: Callable[[], float] = clock) -> float:
    """Seconds a call, over as many calls as take `least` seconds."""
    calls, start = 0, clock()
    while True:
        run()
        calls += 1
        synchronise()
        passed = clock() - start
        if passed >= least:
            return passed / calls


def alternate(
    runs: dict[str, Callable[[], Any]],
    rounds: int = 5,
    least: float = 0.5,
    warm_up: int = 2,
    clock: Callable[[], float] = clock,
) -> dict[str, list[float]]:
    """Seconds a call of each in turn, round after round: what disturbs one disturbs all alike."""
    for run in runs.values():
        for _ in range(warm_up):
            run()
    synchronise()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run, least, clock))
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
    unit: str = "s",
) -> Row:
    """Our median beside the best peer's. The run that is called `ours` is ours."""
    medians = {run: statistics.median(values) for run, values in taken.items()}
    peers = {run: value for run, value in medians.items() if run != "ours"}
    if not peers:
        return Row(name, medians["ours"], None, target=target, unit=unit,
                   spread=(spread(taken["ours"]), 0.0), note=note)  # fmt: skip
    best = min(peers, key=lambda run: peers[run])
    return Row(
        name, medians["ours"], peers[best], best, versions.get(best, "") or version_of(best),
        medians["ours"] / peers[best], target, unit, (spread(taken["ours"]), spread(taken[best])), note,
        others=peers,
    )  # fmt: skip


def version_of(peer: str) -> str:
    """The version of the package a peer's name begins with (`lightly, SimCLRTransform`)."""
    return installed(peer.split(",")[0].split(" ")[0])


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
    """Keep a case's rows, and print them. What was measured with other numbers of threads stays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case}.json"
    now = {row.threads for row in rows}
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    kept = [row for row in kept if row.get("threads", torch.get_num_threads()) not in now]
    result = {"case": case, "machine": machine(), "rows": kept + [asdict(row) for row in rows]}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{case}: {said(row)}", flush=True)
    return path


def said(row: Row) -> str:
    """A row as a line."""
    ratio = "" if row.ratio is None else f"  ratio {row.ratio:.3g}"
    goal = "" if row.target is None else f" (target {row.target:g})"
    peers = "".join(f"  {name} {value:.4g}" for name, value in row.others.items())
    if not peers and row.peer is not None:
        peers = f"  {row.peer_name} {row.peer:.4g}"
    return f"{row.name}: ours {row.ours:.4g} {row.unit}{peers}{ratio}{goal}  {row.note}"
