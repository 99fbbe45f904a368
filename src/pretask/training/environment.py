"""What a run ran on, and which files it had to do without."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from pretask.data import Dataset
from pretask.run import write_text

PACKAGES = ("pretask", "torch", "torchvision", "timm", "lightning", "numpy", "safetensors")


def describe(fabric: Fabric) -> dict[str, Any]:
    """Machine, versions and command, as plain data."""
    machine: dict[str, Any] = {
        "system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "device": str(fabric.device.type),
        "processes": fabric.world_size, "precision": str(fabric.strategy.precision.precision),
    }  # fmt: skip
    if fabric.device.type == "cuda":
        card = torch.cuda.get_device_properties(fabric.device)
        machine |= {"GPU": card.name, "GPU memory, GiB": round(card.total_memory / 2**30, 1)}
        machine |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    return {
        "command": shlex.join(sys.argv), "revision": revision(), "machine": machine,
        "versions": {"python": platform.python_version(), **versions()},
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of the packages that decide over a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return found


def revision() -> str | None:
    """The commit of the checkout this code runs from, with a + if it was changed since; None outside one."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in someone's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def write_environment(folder: Path, fabric: Fabric) -> None:
    write_text(folder / "environment.json", json.dumps(describe(fabric), indent=1))


def write_skipped(folder: Path, dataset: Dataset) -> None:
    """Path and reason of every file that could not be used so far."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows(dataset.skipped)
    write_text(folder / "skipped.csv", text.getvalue())
