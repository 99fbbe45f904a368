"""The table of evidence for the page: what each method's claim came to, and what has changed since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretask import catalog
from pretask.errors import PretaskError
from pretask.studies import evidence
from pretask.studies.claim import list_claims


def table(folder: str | Path) -> dict[str, Any]:
    """A row a method that has a claim; results that cannot be read are named."""
    results, problems = {}, []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            result = evidence.read_result(path)
            results[result["slug"]] = row(result)
        except (PretaskError, LookupError, TypeError, AttributeError) as error:
            problems.append(
                str(error) if isinstance(error, PretaskError) else f"{path} is no whole result: {error!r}"
            )
    if not results and not problems:
        problems.append(
            f"'{folder}' holds no evidence: `pretask claim SLUG` gathers it, `--evidence` says where."
        )
    waiting = [title(slug) for slug in list_claims() if slug not in results]
    return {"folder": str(folder), "rows": list(results.values()), "waiting": waiting, "problems": problems}


def title(slug: str) -> str:
    return catalog.BY_SLUG[slug].title if slug in catalog.BY_SLUG else slug


def row(result: evidence.Result) -> dict[str, Any]:
    """A result as the page shows it."""
    fresh = evidence.freshness(result).replace("*", "").replace("`", "")
    return {
        "slug": result["slug"],
        "title": title(result["slug"]),
        "known": result["slug"] in catalog.BY_SLUG,
        "statement": result["statement"],
        "verdict": result["verdict"],
        "comparisons": [
            {"what": evidence.describe(part), "effect": evidence.interval(part), "verdict": part["verdict"]}
            for part in result["comparisons"]
        ],
        "plot": evidence.forest(result["comparisons"]),
        "seconds": result["seconds"],
        "stale": fresh.startswith("stale"),
        "fresh": fresh,
        "arms": result["arms"],
        "data": result["data"]["name"],
        "command": result["command"],
        "rule": result["rule"],
    }
