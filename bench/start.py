"""From a command to its answer: processor time of processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.harness import Row, against, alternate, children

HERE = Path(sys.executable).parent
PEERS = {"lightly-train": "lightly-train", "lightly": "lightly-ssl-train", "stable-pretraining": "spt"}


def command(*words: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(words, check=True, capture_output=True, timeout=600)

    return run


def once(run: Callable[[], None]) -> float | None:
    """Seconds of one run, or None where the program is not there. Peers take too long to be asked often."""
    before = children()
    try:
        run()
    except (OSError, subprocess.SubprocessError):
        return None
    return children() - before


def imports_nothing_heavy() -> str:
    """That `import pretask` and `pretask list` leave torch and numpy alone; for a row's note."""
    code = (
        "import sys, pretask\nfrom pretask.cli import main\n"
        "try: main(['list'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'torch or numpy is imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return "neither torch nor numpy is imported"


def measure(toy: bool = False) -> list[Row]:
    rounds = 1 if toy else 5
    note = imports_nothing_heavy()
    pretask = [sys.executable, "-m", "pretask"]
    runs = {
        "list": command(*pretask, "list"), "help": command(*pretask, "--help"),
        "python": command(sys.executable, "-c", "pass"),
    }  # fmt: skip
    peers = (
        {} if toy else {name: once(command(str(HERE / script), "--help")) for name, script in PEERS.items()}
    )
    others = {f"{name} --help": [value] for name, value in peers.items() if value is not None}
    missing = ", ".join(name for name, value in peers.items() if value is None)
    taken = alternate(runs, rounds, 0.0, 0, children)
    bare = {"an empty Python": taken["python"]}
    note += f"; not found: {missing}" if missing else ""
    rows = []
    for name, run in (("pretask list", "list"), ("pretask --help", "help")):
        row = against(
            f"{name}, seconds (at most 0.4)", {"ours": taken[run], **(others or bare)}, {}, None, note
        )
        rows.append(row)
    return rows
