"""The arms of claims in several processes, before the claims are judged: on many cores, or sharing a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from pretask.errors import PretaskError, UsageError
from pretask.studies.bench import Bench, Desk
from pretask.studies.claim import find_claim
from pretask.studies.experiment import bench_of, folder_of, line, measured


def measure_arms(
    slugs: Sequence[str],
    processes: int,
    seeds: int | None = None,
    work: str | Path = "runs/claims",
    console: Console | None = None,
) -> None:
    """Measure every arm of these claims with every seed, so that `run_claim` finds them done.

    Args:
        slugs: names of claims.
        processes: arms at a time. Each has its share of the cores; a GPU is shared, best under NVIDIA's MPS.
        seeds: repetitions; default each claim's own number.
        work: the folder that keeps what is finished.
        console: where progress is shown; default the terminal's standard error.

    Raises:
        UsageError: there is no such claim, or not one process.
        PretaskError: an arm failed, or the machine ended a process; what was finished is kept.
    """
    if processes < 1:
        raise UsageError(f"at least one process is needed, not {processes}")
    console = console or Console(stderr=True)
    claims = {slug: find_claim(slug) for slug in slugs}
    jobs = [
        (slug, name, seed)
        for slug, claim in claims.items()
        for seed in range(claim.seeds if seeds is None else seeds)
        for name in claim.arms
    ]
    context, threads = get_context("spawn"), max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, initializer=begin, initargs=(threads,)) as pool:
        waiting = {pool.submit(measure, *job, str(work)): job for job in jobs}
        try:
            for done in track(as_completed(waiting), "arms", len(jobs), console=console, transient=True):
                console.print(result(done, *waiting[done]), highlight=False)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def begin(threads: int) -> None:
    """Of a process: what it would show is nobody's to see beside the others'."""
    torch.set_num_threads(threads)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@lru_cache(maxsize=4)
def opened(slug: str, work: str) -> tuple[Bench | Desk, Path]:
    """A claim's bench, and where its arms are kept; the next arm is likely to be of the same claim."""
    bench = bench_of(find_claim(slug), Console(stderr=True))
    return bench, folder_of(slug, bench, Path(work))


def measure(slug: str, name: str, seed: int, work: str) -> str:
    bench, folder = opened(slug, work)
    return line(slug, name, seed, measured(slug, bench, name, seed, folder))


def result(done: Future[str], slug: str, name: str, seed: int) -> str:
    try:
        return done.result()
    except BrokenProcessPool as error:
        raise PretaskError(
            "a process was ended from outside, for want of memory perhaps: go on with fewer processes"
        ) from error
    except Exception as error:
        raise PretaskError(f"{slug}: {name}, seed {seed}: {type(error).__name__}: {error}") from error
