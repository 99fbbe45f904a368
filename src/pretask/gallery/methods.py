"""Methods for the page: rows of the catalogue, and what control sets each option. Imports no torch."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pretask import catalog, config

STEPS = 50  # of a slider, about


def cards() -> list[dict[str, Any]]:
    """What the gallery shows of every method before anything is drawn."""
    kept = ("slug", "title", "modality", "paper", "hides", "asks", "kind", "labels")
    return [{key: value for key, value in row._asdict().items() if key in kept} for row in catalog.ROWS]


def describe(slug: str) -> dict[str, Any]:
    """A method with its options, each with the control that sets it.

    Raises:
        UsageError: there is no such method.
    """
    row = catalog.find(slug, "any")
    options = config.options(slug) if row.kind == "task" else []
    return {
        **row._asdict(),
        "options": [
            {
                "name": option.name,
                "type": option.type_name,
                "default": option.default,
                "help": option.help,
                "control": control(option.type, option.default),
            }
            for option in options
        ],
    }


def control(annotation: Any, default: Any) -> dict[str, Any]:
    """What sets a value of a type: its `kind` is `switch`, `choice`, `number`, `parts` or `text`.

    `optional` says that the value may also be none. A number's `low` and `high` are the ends of its slider, a
    guess by the default: others may be typed.
    """
    given = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType):
        inner = control(given[0], default) if len(given) == 1 else {"kind": "text"}
        return {**inner, "optional": len(given) < len(get_args(annotation))}
    if get_origin(annotation) is Literal:
        return {"kind": "choice", "choices": [str(choice) for choice in given]}
    if get_origin(annotation) is tuple and Ellipsis not in given:
        values = default if isinstance(default, Sequence) else [None] * len(given)
        return {"kind": "parts", "parts": [control(*pair) for pair in zip(given, values, strict=True)]}
    if annotation is bool:
        return {"kind": "switch"}
    if annotation in (int, float):
        return {"kind": "number", "whole": annotation is int, **slider(annotation is int, default)}
    return {"kind": "text"}


def slider(whole: bool, default: float | None) -> dict[str, float]:
    """The range of a number: a share where the default may be one, else up to some times the default."""
    if default is None or default < 0:
        return {}
    if whole:
        most = max(4 * int(default), 8)
        return {"low": 0, "high": most, "step": max(1, most // STEPS)}
    if default == 0 or 0.02 <= default <= 1:
        return {"low": 0.0, "high": 1.0, "step": 0.01}
    high = 4 * default
    return {"low": 0.0, "high": high, "step": float(f"{high / STEPS:.1g}")}
