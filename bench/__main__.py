"""`python -m bench NAME ...`: measure cases beside their peers, keep the figures, renew the table."""

from __future__ import annotations

import argparse
import importlib
import warnings

import torch

from bench.harness import said, write
from bench.table import renew

CASES = (
    "augmentation", "losses", "mae_step", "family", "simclr_step", "dino_step", "overhead", "evaluation",
    "start", "memory", "growth", "geometry",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "cases", nargs="+", choices=[*CASES, "all", "table"], help="`table` only renews the table"
    )
    parser.add_argument(
        "--toy", action="store_true", help="toy sizes: only shows that it runs, keeps nothing"
    )
    parser.add_argument("--threads", type=int, default=1, help="that compute (default 1)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore")  # the peers'
    names = CASES if "all" in chosen.cases else [name for name in chosen.cases if name != "table"]
    for name in names:
        rows = importlib.import_module(f"bench.{name}").measure(chosen.toy)
        if chosen.toy:
            print(*(f"{name}: {said(row)}" for row in rows), sep="\n")
        else:
            write(name, rows)
    if not chosen.toy:
        renew()


if __name__ == "__main__":
    main()
