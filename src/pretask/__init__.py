"""pretask: learn encoders from unlabelled data by pretext tasks.

`import pretask` imports nothing heavy; each name below loads what it needs when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "train": "pretask.api",
    "evaluate": "pretask.api",
    "compare": "pretask.api",
    "advise": "pretask.api",
    "preview": "pretask.api",
    "embed": "pretask.api",
    "export": "pretask.api",
    "reinforce": "pretask.api",
    "report": "pretask.api",
    "app": "pretask.gallery.server",
    "shortcuts": "pretask.api",
    "independence": "pretask.api",
    "write_puzzles": "pretask.api",
    "run_study": "pretask.studies.study",
    "open_data": "pretask.data",
    "load_encoder": "pretask.encoders",
    "build_encoder": "pretask.encoders",
    "build_task": "pretask.registry",
    "PretextTask": "pretask.task",
    "Step": "pretask.task",
    "Sheet": "pretask.task",
    "Panel": "pretask.task",
    "Recipe": "pretask.recipe",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = importlib.import_module(_HOMES[name])
        alike = [other for other, place in _HOMES.items() if place == _HOMES[name]]
        globals().update({other: getattr(home, other) for other in alike})  # `export` is a module's name, too
        return globals()[name]
    raise AttributeError(f"module 'pretask' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
