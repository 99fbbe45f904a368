"""The evidence that was gathered, as a page: a row a method, with what has changed since.

`python -m pretask.studies.evidence` writes docs/evidence.md anew from evidence/*.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from pretask import catalog
from pretask.errors import PretaskError
from pretask.run import write_text
from pretask.studies.claim import list_claims
from pretask.studies.sources import method_modules, method_sources, name_of, path_of

Result = dict[str, Any]

HEAD = """# Evidence

Every method carries a claim: its paper's central statement as an experiment sized for ten to twenty minutes on two
cores; those that were run on a GPU take longer there. Seconds are what a run took, mostly with one
thread beside other work; on a GPU, which many arms shared, training was in bfloat16, as it is there by default.

This page is written by `pretask claim --table` from the results in `evidence/`; `pretask claim SLUG` runs one again
(`all`: every one; `--processes N`: so many arms at a time) and `pretask claim SLUG --quick` only shows that it runs.
A claim that does not hold at this scale says nothing about the paper's own scale, and is printed all the same.

{rule}

In the plots the line is the margin and the claimed side is shaded; each row has its own scale.
"""
COLUMNS = ("Method", "What is claimed", "Effect and 95 % interval", "", "Verdict", "Seconds", "Evidence")
WIDTH, ROW, HALF = 230, 30, 100  # pixels of a plot, of one of its rows, and from its line to its sides
COLOURS = {"holds": "#2a9d5c", "does not hold at this scale": "#d1495b", "inconclusive": "#8a8f98"}


def read(folder: str | Path = "evidence") -> dict[str, Result]:
    """Results by slug.

    Raises:
        PretaskError: a file is no result.
    """
    results = map(read_result, sorted(Path(folder).glob("*.json")))
    return {result["slug"]: result for result in results}


def read_result(path: Path) -> Result:
    """The result in a file.

    Raises:
        PretaskError: it holds none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["slug"]  # noqa: B018 - there must be one
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PretaskError(f"{path} is no result: {error}; run `pretask claim` again") from error
    return result


def changes(result: Result) -> tuple[set[str], set[str]]:
    """The files that differ from those the evidence was made with: the claim's and its methods' own, and blocks.

    A block is any of ours that these import, directly or not; many do not touch what a method computes.
    """
    now, then = method_sources(result["slug"]), result["source"]
    own = {name_of(path) for path in map(path_of, method_modules(result["slug"])) if path is not None}
    changed = {name for name in {*now, *then} if now.get(name) != then.get(name)}
    return changed & own, changed - own


def freshness(result: Result) -> str:
    """Whether the evidence still speaks of the code at hand: `current`, or what has changed since."""
    if result["slug"] not in list_claims():
        return "**stale**: the claim is gone"
    own, blocks = changes(result)
    if own:
        return f"**stale**: changed since: {listed(own)}"
    if blocks:
        return f"current; blocks changed since: {len(blocks)} of {len(result['source'])}"
    return "current"


def listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def describe(comparison: dict[str, Any]) -> str:
    """`linear, mae - random`, with the margin where it is not 0."""
    against = f" − {comparison['against']}" if comparison["against"] else ""
    margin = "" if comparison["margin"] == 0 else f" (margin {comparison['margin']:g})"
    return f"{comparison['metric']}, {comparison['arm']}{against}{margin}"


def number(value: float | None) -> str:
    return "?" if value is None else f"{value:+.3f}"


def interval(comparison: dict[str, Any]) -> str:
    return f"{number(comparison['effect'])} [{', '.join(map(number, comparison['interval']))}]"


def forest(comparisons: list[dict[str, Any]]) -> str:
    """A small SVG: a point and its interval for each comparison, right of the line where it is as claimed."""
    height, middle = ROW * len(comparisons) + 4, WIDTH / 2
    box = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="9" role="img">',
        f'<rect x="{middle}" width="{middle}" height="{height}" fill="#2a9d5c" opacity="0.1"/>',
        f'<line x1="{middle}" x2="{middle}" y1="0" y2="{height}" stroke="#8a8f98"/>',
    ]
    for row, comparison in enumerate(comparisons):
        sign = 1 if comparison["claimed"] == "higher" else -1
        ends = [comparison["effect"] if end is None else end for end in comparison["interval"]]
        away = [sign * (value - comparison["margin"]) for value in (*ends, comparison["effect"])]
        scale = HALF / (max(map(abs, away)) or 1)
        low, high, point = (middle + scale * value for value in (min(away), max(away), away[2]))
        y, colour = ROW * row + 20, COLOURS[comparison["verdict"]]
        parts += [
            f'<text x="4" y="{y - 9}" fill="#8a8f98">{escape(describe(comparison))}</text>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{point:.1f}" cy="{y}" r="3.5" fill="{colour}"/>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def table_row(slug: str, result: Result | None) -> list[str]:
    title = catalog.BY_SLUG[slug].title if slug in catalog.BY_SLUG else slug
    if result is None:
        state = "not run yet" if slug in list_claims() else "no claim yet"
        return [title, "", "", "", "", "", state]
    effects = "<br>".join(f"{describe(part)}: {interval(part)}" for part in result["comparisons"])
    plot = f"![{result['verdict']}](evidence/{slug}.svg)"
    seconds = f"{result['seconds']:.0f}"
    linked = f"[{title}](#{slug})"
    return [linked, result["statement"], effects, plot, result["verdict"], seconds, freshness(result)]


def section(result: Result) -> str:
    """A result in full: each arm's metrics for each seed, and how it came about."""
    metrics = list(dict.fromkeys(name for arm in result["arms"].values() for name in arm))
    rows = [
        [name, *(" / ".join(f"{value:.4f}" for value in arm.get(metric, [])) for metric in metrics)]
        for name, arm in result["arms"].items()
    ]
    data, machine = result["data"], result["machine"]
    stands_in = f" in place of {data['instead of']}" if "instead of" in data else ""
    amounts = (
        f", {data['train']:,} samples to pretrain on, {data['labelled']:,} with labels for probes, "
        f"{data['test']:,} judged"
        if "train" in data
        else ""
    )
    place = f"{machine['gpu'] or machine['cpu']}, {machine['threads']} threads"
    blocks = changes(result)[1] if result["slug"] in list_claims() else set()
    since = f" Blocks changed since: {listed(blocks)}." if blocks else ""
    return "\n".join([
        f"## {result['slug']}",
        "",
        f"{result['statement']} **{result['verdict'].capitalize()}.**",
        "",
        markdown(("Arm", *metrics), rows),
        "",
        f"A value a seed. Data: {data['name']}{stands_in}{amounts}. `{result['command']}`, "
        f"{result['seconds']:.0f} s on {place}, torch {result['versions']['torch']}, revision "
        f"`{result['revision'][:12]}{'-dirty' * result['revision'].endswith('-dirty')}`.{since}",
        "",
    ])  # fmt: skip


def markdown(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    cells = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def write_table(evidence: str | Path = "evidence", docs: str | Path = "docs") -> Path:
    """Write `docs/evidence.md` and its plots from the results in a folder.

    Raises:
        PretaskError: a file there is no result.
    """
    results, docs = read(evidence), Path(docs)
    plots = docs / "evidence"
    plots.mkdir(parents=True, exist_ok=True)
    slugs = dict.fromkeys([*catalog.BY_SLUG, *list_claims(), *results])
    rules = dict.fromkeys(result["rule"] for result in results.values())
    rows = [table_row(slug, results.get(slug)) for slug in slugs]
    page = [HEAD.format(rule="\n\n".join(rules)), markdown(COLUMNS, rows), ""]
    page += [section(results[slug]) for slug in slugs if slug in results]
    for slug, result in results.items():
        write_text(plots / f"{slug}.svg", forest(result["comparisons"]))
    for path in plots.glob("*.svg"):
        if path.stem not in results:
            path.unlink()
    write_text(docs / "evidence.md", "\n".join(page))
    return docs / "evidence.md"


if __name__ == "__main__":
    print(f"wrote {write_table()}")
