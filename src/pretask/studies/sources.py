"""What a result was made from: hashes of source files that comments and docstrings do not change."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pretask
from pretask import catalog
from pretask.studies.claim import find_claim, module_of

ROOT = Path(pretask.__file__).parent
# what methods and studies are composed of
BLOCKS = ("methods/", "pretexts/", "encoders/", "objectives/", "studies/theory/")
RUNS = "pretask.studies.bench"  # trains and measures


def path_of(module: str) -> Path | None:
    """The file of one of our modules."""
    place = ROOT.joinpath(*module.split(".")[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Names of our own modules that a syntax tree imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == pretask.__name__}


def closure(modules: Iterable[str]) -> set[Path]:
    """The files of these modules and of all of ours that they import, directly or not."""
    waiting, seen = list(modules), set()
    while waiting:
        path = path_of(waiting.pop())
        if path is not None and path not in seen:
            seen.add(path)
            waiting += imports(path, path.stat().st_mtime_ns)
    return seen


@lru_cache(maxsize=4096)
def imports(path: Path, changed: int) -> tuple[str, ...]:
    """Names of our own modules that a file imports; `changed` is when it was written last."""
    return tuple(imported(ast.parse(path.read_text(encoding="utf-8"))))


def digest(path: Path) -> str:
    """A hash of what a file does: comments, docstrings and layout are left out."""
    return digest_of(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def digest_of(path: Path, changed: int) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            body = [part for part in node.body if not is_text(part)]
            node.body = body or [ast.Pass()]
    return hashlib.sha256(spelled(tree).encode()).hexdigest()[:16]


def spelled(part: Any) -> str:
    """A syntax tree in one way for every version of Python, which `ast.dump` and `ast.unparse` are not: what is
    empty is left out, because later versions know of more that can be."""
    if isinstance(part, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(part) if value is not None and value != []]
        return f"{type(part).__name__}({', '.join(f'{name}={spelled(value)}' for name, value in fields)})"
    if isinstance(part, list):
        return f"[{', '.join(map(spelled, part))}]"
    return repr(part)


def is_text(node: ast.stmt) -> bool:
    """A docstring, or a string that stands below an attribute to explain it."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def method_modules(slug: str, methods: Iterable[str] | None = None) -> list[str]:
    """The claim's module and those of the methods its arms train, or of those named instead, and of the study it is
    about."""
    names = find_claim(slug).methods if methods is None else methods
    trained = [catalog.find(name).path.partition(":")[0] for name in names]
    row = catalog.BY_SLUG.get(slug)
    study = [row.path.partition(":")[0]] if row is not None and row.kind == "study" else []
    return [module_of(slug), *trained, *study]


def method_sources(slug: str) -> dict[str, str]:
    """The hashes of a claim's own file, its methods' files, and the blocks these are composed of."""
    own = method_modules(slug)
    blocks = {path for path in closure(own) if name_of(path).startswith(BLOCKS)}
    first = [path for path in map(path_of, own) if path is not None]
    return {name_of(path): digest(path) for path in [*first, *sorted(blocks - set(first))]}


def library_hash(slug: str, methods: Iterable[str] | None = None) -> str:
    """One hash of everything of ours that a claim's result depends on, or that of an arm with these methods."""
    files = closure([*method_modules(slug, methods), RUNS]) - {path_of(catalog.__name__)}
    lines = sorted(f"{name_of(path)} {digest(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def revision() -> str:
    """The commit of these sources, `-dirty` behind it if they differ from it; else the package's version."""
    asked = ["git", "-C", str(ROOT), "ls-files", "--error-unmatch", "__init__.py"]
    described = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        subprocess.run(asked, check=True, capture_output=True)  # in some other project's repository it fails
        return subprocess.run(described, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"pretask {pretask.__version__}"
