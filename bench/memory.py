"""The most memory that a process takes for a training step, peers and ours each in a process of its own."""

from __future__ import annotations

import importlib
import subprocess
import sys

from bench.harness import Row, against, resident

CASES = {
    "mae_step": "MAE step, ViT-Ti/16, 224 px, batch 16",
    "simclr_step": "SimCLR step, ResNet-18, 32 px, batch 256",
}


def main(case: str, name: str, toy: bool) -> None:
    """In the process that is measured: a few steps, and the most memory that was in use."""
    import torch

    torch.set_num_threads(1)
    step = importlib.import_module(f"bench.{case}").makers(toy)[name]()
    for _ in range(1 if case == "simclr_step" else 3):
        step()
    print(f"peak {resident('VmHWM')}")


def peak(case: str, name: str, toy: bool) -> float:
    code = f"from bench.memory import main; main({case!r}, {name!r}, {toy!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split("peak ")[-1])


def measure(toy: bool = False) -> list[Row]:
    rows = []
    for case, title in list(CASES.items())[: 1 if toy else None]:
        found = {}
        makers = importlib.import_module(f"bench.{case}").makers(toy)
        for name in ["ours"] if toy else makers:
            try:
                found[name] = [peak(case, name, toy)]
            except subprocess.CalledProcessError as error:
                if "ImportError" not in error.stderr and "ModuleNotFoundError" not in error.stderr:
                    raise
        note = "with all it imports; " + ("peers: not installed, or not asked for" if len(found) == 1 else "")
        rows.append(
            against(f"{title}: peak of the process", found, {}, 1.0, note.removesuffix("; "), "bytes")
        )
    return rows
