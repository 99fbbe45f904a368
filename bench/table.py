"""The table of docs/performance.md, from the kept results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.harness import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def renew(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write the part of the page between the markers again."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text(results)}\n{END}{after}", encoding="utf-8")


def text(results: Path) -> str:
    """A table a case."""
    parts = []
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "rows" not in result:  # no comparison of speed
            continue
        machine = result["machine"]
        place = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
        lines = [
            f"### {result['case']}", "", f"{place}; torch {machine['torch']}.", "",
            "| what | ours | best peer | ratio | target | others |", "| --- | ---: | --- | ---: | ---: | --- |",
        ]  # fmt: skip
        for row in result["rows"]:
            lines.append(line(row, row.get("threads", result.get("threads", 1))))
        notes = [f"- {row['name']}: {row['note']}" for row in result["rows"] if row["note"]]
        parts.append("\n".join([*lines, *([""] if notes else []), *notes]))
    return "\n\n".join(parts)


def line(row: dict[str, Any], threads: int) -> str:
    unit, peer = row["unit"], row["peer"]
    name = row["name"] + (f", {threads} threads" if threads > 1 and unit != "images/s" else "")
    best = (
        f"{row['peer_name']} {row['peer_version']}".strip() + f": {amount(peer, unit)}"
        if peer is not None
        else ""
    )
    others = {key: value for key, value in row.get("others", {}).items() if key != row["peer_name"]}
    rest = ", ".join(f"{key} {amount(value, unit)}" for key, value in others.items())
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    target = "" if row["target"] is None else f"{row['target']:g}"
    return f"| {name} | {amount(row['ours'], unit)} | {best} | {ratio} | {target} | {rest} |"


def amount(value: float, unit: str) -> str:
    """A number that a person can read."""
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    return f"{value:.3g} {unit}"
