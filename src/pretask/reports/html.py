"""One self-contained HTML page for a run, or for several side by side: it loads nothing from elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretask.errors import PretaskError, UsageError
from pretask.reports import map
from pretask.reports.board import BASELINES, Group, groups, main_group
from pretask.reports.compare import comparison
from pretask.reports.curves import charts
from pretask.reports.page import Picture, drawn, pictures, plain, render, tables
from pretask.reports.record import Record, read
from pretask.reports.verdict import ends, judge
from pretask.run import write_text

SHEETS = 8
"""Contact sheets a page holds at most."""

SECTIONS = [
    ("scores", "Worth"), ("curves", "Training"), ("sheets", "Sheets"), ("map", "Map"),
    ("neighbours", "Neighbours"), ("use", "Use it"), ("config", "Configuration"),
    ("environment", "Environment"), ("skipped", "Skipped files"),
]  # fmt: skip

COMPARED = [
    ("scores", "Leaderboard"), ("curves", "Training"), ("sheets", "Sheets"), ("runs", "Runs"),
    ("config", "Differences"),
]  # fmt: skip


def write_run_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run. What its folder lacks is said in its place.

    Args:
        folder: the run.
        out: the page (`*.html`), or a folder that gets a report.html; default the run's own.

    Raises:
        PretaskError: it is no run folder, or its config.yaml cannot be read.
    """
    record = read(folder)
    page = render("run.html.j2", sections=SECTIONS, **about(record), **embedding_map(record.folder))
    path = page_path(out or record.folder)
    write_text(path, page)
    return path


def page_path(out: str | Path) -> Path:
    """Where a page goes; its folder is made."""
    path = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_compare_report(
    out: str | Path, rows: Sequence[dict[str, Any]] | None, run_folders: Sequence[str | Path]
) -> Path:
    """Write one page about several runs.

    Args:
        out: the page (`*.html`), or a folder that gets a report.html.
        rows: scores as dicts with an `arm` each; None takes those kept in the run folders.
        run_folders: the runs.

    Raises:
        UsageError: no run was given.
        PretaskError: one of them is no run folder, or its config.yaml cannot be read.
    """
    if not run_folders:
        raise UsageError("a comparison needs at least one run folder")
    path = page_path(out)
    write_text(path, render("compare.html.j2", sections=COMPARED, **about_all(run_folders, rows)))
    return path


def about_all(
    run_folders: Sequence[str | Path], rows: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What a page says of several runs.

    Raises:
        PretaskError: one of them is no run folder, or its config.yaml cannot be read.
    """
    records = [read(folder) for folder in run_folders]
    sheets: list[Picture | None] = [next(iter(pictures(record, 1)), None) for record in records]
    return comparison(records, rows, sheets)


def about(record: Record) -> dict[str, Any]:
    """What a page says of a run, but for its map."""
    return {
        "record": record,
        "reference": shlex.quote(record.folder.as_posix()),
        "finished": (record.folder / "encoder.safetensors").is_file(),
        "summary": summary(record),
        "verdict": judge(record),
        "tiles": tiles(record),
        "groups": groups(record.scores, own=f"{record.title} (this run)"),
        "charts": drawn(charts(record)),
        "sheets": pictures(record, SHEETS),
        "use": usage(record),
        "config": tables(record.config, "Run"),
        "environment": tables(record.environment, "Machine and versions"),
    }


def embedding_map(folder: str | Path) -> dict[str, Any]:
    """What a page shows of a run's embeddings, or why it shows nothing."""
    try:
        embedded = map.read_features(folder)
        problem = f"No features were kept beside this run ({map.FILE.as_posix()})."
        data = None if embedded is None else map.payload(embedded)
    except PretaskError as error:
        data, problem = None, str(error)
    return {
        "map": data,
        "map_json": None if data is None else {key: value for key, value in data.items() if key != "sprite"},
        "map_problem": problem,
        "neighbours": [] if data is None else neighbour_rows(data),
    }


def neighbour_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Sample pictures with their nearest neighbours."""

    def label(index: int) -> str:
        return data["classes"][data["labels"][index]] if data["labels"] else ""

    def state(index: int, other: int) -> str:
        if not data["labels"]:
            return ""
        return "same" if data["labels"][index] == data["labels"][other] else "other"

    return [
        {
            "index": index,
            "label": label(index),
            "found": [
                {"index": near, "label": label(near), "cosine": cosine, "state": state(index, near)}
                for near, cosine in zip(data["neighbours"][index], data["cosines"][index], strict=True)
            ],
        }
        for index in map.samples(data)
    ]


def summary(record: Record) -> str:
    """What learned from what, in a sentence."""
    encoder, data = (
        part if isinstance(part := record.config.get(key), dict) else {} for key in ("encoder", "data")
    )
    name = plain(encoder.get("name", "an encoder")).partition(":")[0]
    source = plain(data.get("source") or data.get("name") or "unlabelled data")
    count = data.get("samples") or data.get("count") or data.get("num_samples")
    amount = f" ({count:,} samples)" if isinstance(count, int) else ""
    inputs = encoder.get("inputs")
    size = inputs.get("image_size") if isinstance(inputs, dict) else None
    return (
        f"{name} learned from {source}{amount}"
        + (f" at {size} px." if size else ".")
        + " Labels played no part."
    )


def tiles(record: Record) -> list[dict[str, str]]:
    """The few numbers one looks for first."""
    found = []
    group = main_group(groups(record.scores))
    own = group.of_kind("run") if group else None
    if group and own:
        found.append({"what": group.title, "value": group.show(own.value), "more": baseline_words(group)})
    curve = record.loss()
    if curve is not None and np.isfinite(curve[1]).any():
        start, end = ends(curve[1][np.isfinite(curve[1])])
        chance = record.chance(record.terms[0]) if len(record.terms) == 1 else None
        more = f"an encoder that guesses: {chance:.3g}" if chance is not None else "first and last logged"
        found.append({"what": "Loss", "value": f"{start:.3g} → {end:.3g}", "more": more})
    if curve is not None and len(curve[0]):
        epochs = record.curves.get("epoch", (None, np.array([])))[1]
        more = f"{epochs[-1]:.4g} passes over the data" if len(epochs) else ""
        found.append({"what": "Steps", "value": f"{curve[0][-1]:,.0f}", "more": more})
    speed = record.curves.get("samples_per_second")
    if speed is not None and len(speed[1]):
        found.append(
            {"what": "Speed", "value": f"{np.median(speed[1]):,.0f} / s", "more": wait_words(record)}
        )
    return found


def baseline_words(group: Group) -> str:
    known = [
        f"{'untrained' if kind == 'random' else entry.label.lower()} {group.show(entry.value)}"
        for kind in BASELINES
        if (entry := group.of_kind(kind))
    ]
    return " · ".join(known) or "no baseline measured"


def wait_words(record: Record) -> str:
    if not {"seconds/data", "seconds/compute"} <= record.curves.keys():
        return "samples seen"
    wait, work = (float(record.curves[f"seconds/{part}"][1].sum()) for part in ("data", "compute"))
    return f"{100 * wait / max(wait + work, 1e-12):.0f} % of the time waiting for data"


def usage(record: Record) -> dict[str, str]:
    """How to go on with the encoder: commands and code."""
    folder = record.folder.as_posix()
    quoted = shlex.quote(folder)
    data = record.config.get("data")
    kind = str(data.get("modality", "image")) if isinstance(data, dict) else "image"
    pictures = kind == "image"
    call = (
        "features = encoder(images).pooled  # images: float (N, channels, side, side) in [0, 1]"
        if pictures
        else f'data = pretask.open_data("my-data", modality="{kind}")\n'
        "features = encoder.encode(data.batch(range(8))).pooled"
    )
    return {
        "embed": f"pretask embed {quoted} --data {'my-pictures' if pictures else 'my-data'} --out embeddings.parquet",
        "python": f"import pretask\n\nencoder = pretask.load_encoder({folder!r}).eval()\n{call}",
        "export": f"pretask export {quoted} --format {'timm' if pictures else 'safetensors'} --out my-encoder",
        "exported": "Without pretask, as an ordinary timm model" if pictures else "The weights by themselves",
    }
