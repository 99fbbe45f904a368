"""What the pages share: templates with escaping on, pictures as text, settings as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from pretask import __version__
from pretask.reports.curves import Chart, svg
from pretask.reports.map import data_uri
from pretask.reports.record import Record

LONGEST = 200
"""Characters of a setting that a page prints; a tokenizer's JSON has megabytes."""


class Picture(NamedTuple):
    """A contact sheet inside a page."""

    step: int
    uri: str
    width: int
    height: int


def render(template: str, **context: Any) -> str:
    """A page from a template; whatever comes from files is escaped."""
    environment = Environment(
        loader=PackageLoader("pretask.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"ticked": ticked, "sentence": sentence}
    return environment.get_template(template).render(version=__version__, **context)


def ticked(text: str) -> Markup:
    """Text whose `back-ticked` parts are set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def pictures(record: Record, most: int) -> list[Picture]:
    """Contact sheets spread evenly over training, the last always among them; damaged ones are noted."""
    found = []
    keep = np.unique(
        np.linspace(len(record.sheets) - 1, 0, min(most, len(record.sheets))).round().astype(int)
    )
    for step, path in (record.sheets[i] for i in keep):
        try:
            with Image.open(path) as picture:
                found.append(Picture(step, data_uri(picture.convert("RGB")), *picture.size))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            record.problems["preview"] = f"{path.name} cannot be read: {error}"
    return found


def drawn(charts: Iterable[Chart]) -> list[dict[str, Any]]:
    """Charts with their drawing; those without a single number are left out."""
    return [{"chart": chart, "svg": drawing} for chart in charts if (drawing := svg(chart)) is not None]


def plain(value: Any) -> str:
    """A setting's value as a person writes it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(item) for item in value[:40])
        return f"{shown}, … ({len(value)})" if len(value) > 40 else shown
    text = str(value)
    return f"{text[:LONGEST]} … ({len(text):,} characters)" if len(text) > 2 * LONGEST else text


def flatten(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows `a.b`, value."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            rows += flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                rows += flatten(item, f"{name}.{number}.")
        else:
            rows.append((name, "–" if value in ({}, []) else plain(value)))
    return rows


def tables(settings: dict[str, Any], first: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings in groups: one a mapping at the top, the rest under the name `first`."""
    groups = {
        str(key): flatten(value) for key, value in settings.items() if isinstance(value, dict) and value
    }
    rest = flatten({key: value for key, value in settings.items() if not isinstance(value, dict)})
    return ([(first, rest)] if rest else []) + [(key.capitalize(), rows) for key, rows in groups.items()]
