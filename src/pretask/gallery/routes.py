"""What lies at which address of the gallery's server, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from jinja2 import Environment, FileSystemLoader

from pretask import __version__
from pretask.errors import UsageError
from pretask.gallery import methods
from pretask.gallery.puzzles import Puzzles
from pretask.gallery.shelf import Shelf

STATIC = Path(__file__).parent / "static"
SHARED = Path(__file__).parents[1] / "reports" / "templates"

FILES = {path.name: path for path in STATIC.iterdir()} | {
    name: SHARED / name for name in ("report.js", "map.js", "report.css")
}
"""All files that the page may load; nothing else on the disk has an address."""

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class NotThere(UsageError):
    """Nothing lies at an address."""


def static(name: str) -> tuple[bytes, str]:
    """A file of the page and its type.

    Raises:
        NotThere: the page has none of this name.
    """
    path = FILES.get(name)
    if path is None or path.suffix not in TYPES:
        raise NotThere(f"there is no file '{name}'")
    if name == "report.css":  # a template
        loader = FileSystemLoader(SHARED)
        return Environment(loader=loader, autoescape=True).get_template(name).render().encode(), TYPES[".css"]
    return path.read_bytes(), TYPES[path.suffix]


@dataclass
class Gallery:
    """What the page shows.

    Args:
        puzzles: draws methods' puzzles.
        shelf: the runs.
        evidence: the folder of claims' results.
    """

    puzzles: Puzzles = field(default_factory=Puzzles)
    shelf: Shelf = field(default_factory=lambda: Shelf("runs"))
    evidence: Path = Path("evidence")

    def warm(self) -> None:
        """Load what drawing needs, beside everything else."""
        Thread(target=self.puzzles.warm, daemon=True).start()

    def get(self, address: str) -> Any:
        """What is read at an address below `/api/`.

        Raises:
            NotThere: nothing lies there.
            PretaskError: what lies there cannot be shown.
        """
        asked = urlsplit(address)
        what, _, name = asked.path.removeprefix("/api/").partition("/")
        name = unquote(name)
        if what == "method" and name:
            return methods.describe(name)
        if what == "run" and name:
            return self.shelf.page(name)
        if what == "map" and name:
            return self.shelf.map(name)
        if name:
            raise NotThere(f"nothing lies at '{asked.path}'")
        if what == "methods":
            data = self.puzzles.data
            return {
                "version": __version__,
                "data": None if data is None else str(data),
                "methods": methods.cards(),
            }
        if what == "data":
            return {"kind": self.puzzles.kind()}
        if what == "runs":
            return self.shelf.overview()
        if what == "compare":
            return self.shelf.compare(parse_qs(asked.query).get("run", []))
        if what == "evidence":
            from pretask.gallery.evidence import table

            return table(self.evidence)
        raise NotThere(f"nothing lies at '{asked.path}'")

    def post(self, address: str, body: Any) -> Any:
        """What is drawn: `/api/preview` with a `slug` and its `options`, or with a `run`; and a `seed`.

        Raises:
            NotThere: nothing lies at the address.
            PretaskError: what is asked for cannot be drawn.
        """
        if urlsplit(address).path != "/api/preview":
            raise NotThere(f"nothing lies at '{address}'")
        if not isinstance(body, dict):
            raise UsageError("a JSON object is expected")
        seed, options = body.get("seed", 0), body.get("options") or {}
        if not isinstance(seed, int) or not 0 <= seed < 2**31 or not isinstance(options, dict):
            raise UsageError("`seed` must be a whole number from 0 on, and `options` an object")
        if "run" in body:
            return self.puzzles.ask(self.shelf.find(str(body["run"])), seed)
        return self.puzzles.draw(str(body.get("slug", "")), options, seed)
