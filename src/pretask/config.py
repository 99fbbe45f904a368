"""A method's options, read from its constructor's signature in the source: no second schema, no import.

Options are the constructor's keyword arguments with plain types (numbers, strings, Literals, tuples of
them, or None); their meaning is the entry of the same name in the class docstring's `Args:`.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pretask import catalog
from pretask.errors import UsageError

PLAIN = {
    "int": int, "float": float, "bool": bool, "str": str, "tuple": tuple, "list": list, "None": None,
    "Literal": Literal,
}  # fmt: skip


class Option(NamedTuple):
    """One constructor argument that can be set from outside."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def type_name(self) -> str:
        return type_name(self.type)


def type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "none"
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:
        return ",".join("..." if part is Ellipsis else type_name(part) for part in get_args(annotation))
    return getattr(annotation, "__name__", str(annotation))


def class_source(path: str) -> ast.ClassDef:
    """The syntax tree of `module:Class`, without importing it."""
    module, _, name = path.partition(":")
    file = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{file} has no class {name}")


def docstring_args(doc: str) -> dict[str, str]:
    """The `Args:` section of a Google-style docstring as a dict."""
    entries: dict[str, str] = {}
    name, inside, depth = "", False, 0
    for line in doc.splitlines():
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        if stripped == "Args:":
            inside, depth = True, indent
        elif inside and stripped and indent <= depth:
            break
        elif inside and stripped:
            head, colon, rest = stripped.partition(": ")
            if colon and head.isidentifier() and indent == depth + 4:
                name, entries[head] = head, rest
            elif name:
                entries[name] += " " + stripped
    return entries


def plain_type(annotation: ast.expr | None) -> Any:
    """The type an annotation stands for, or None where it cannot be set from text."""
    if annotation is None:
        return None
    try:
        return eval(  # noqa: S307 - our own source, and only plain names are known
            compile(ast.Expression(annotation), "<annotation>", "eval"), {"__builtins__": {}}, PLAIN
        )
    except (NameError, TypeError, AttributeError):
        return None


def options(slug: str) -> list[Option]:
    """What can be set of a method: name, type, default, meaning."""
    return options_of(catalog.find(slug).path)


def options_of(path: str) -> list[Option]:
    """What can be set of the class `module:Class`."""
    node = class_source(path)
    meanings = docstring_args(ast.get_docstring(node) or "")
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        return []
    arguments = init.args.args + init.args.kwonlyargs
    defaults = [None] * (len(init.args.args) - len(init.args.defaults)) + init.args.defaults
    defaults += init.args.kw_defaults
    found = []
    for argument, default in zip(arguments, defaults, strict=True):
        kind = plain_type(argument.annotation)
        if kind is not None and default is not None:
            meaning = meanings.get(argument.arg, "")
            found.append(Option(argument.arg, kind, ast.literal_eval(default), meaning))
    return found


def parse(text: Any, annotation: Any, name: str) -> Any:
    """A value of the annotated type from text (or from a YAML value).

    Raises:
        UsageError: it is not of that type.
    """
    wrong = UsageError(f"{name} must be {type_name(annotation)}, not '{text}'")
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for part in sorted(get_args(annotation), key=lambda part: part is str):
            try:
                return parse(text, part, name)
            except UsageError:
                continue
        raise wrong
    if annotation is type(None) or annotation is None:
        if text is None or str(text).lower() in ("none", "null"):
            return None
        raise wrong
    if origin is Literal:
        by_text = {str(choice): choice for choice in get_args(annotation)}
        if str(text) in by_text:
            return by_text[str(text)]
        raise wrong
    if origin is tuple:
        return parse_tuple(text, annotation, name)
    if annotation is bool:
        by_text = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
        if str(text).lower() in by_text:
            return by_text[str(text).lower()]
        raise wrong
    try:
        return annotation(text)
    except (TypeError, ValueError):
        raise wrong from None


def parse_tuple(text: Any, annotation: Any, name: str) -> tuple[Any, ...]:
    if isinstance(text, str):
        inside = text.strip("()[], ")
        parts: list[Any] = inside.split(",") if inside else []
    elif isinstance(text, Iterable):
        parts = list(text)
    else:
        raise UsageError(f"{name} must be several values ({type_name(annotation)}), not '{text}'")
    kinds = get_args(annotation)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    if len(kinds) != len(parts):
        raise UsageError(f"{name} must be {len(kinds)} values ({type_name(annotation)}), not '{text}'")
    values = [part.strip(" '\"") if isinstance(part, str) else part for part in parts]
    return tuple(parse(value, kind, name) for value, kind in zip(values, kinds, strict=True))


def check(slug: str, given: dict[str, Any], path: str | None = None) -> dict[str, Any]:
    """Given options, each parsed to its type.

    Args:
        slug: a method.
        given: values, or texts of them, by name.
        path: `module:Class` of which they are the options; default the method's task.

    Raises:
        UsageError: an unknown name (the nearest valid ones are named) or a value of the wrong type.
    """
    known = {option.name: option for option in options_of(path or catalog.find(slug).path)}
    checked = {}
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
            raise UsageError(f"{slug} has no option '{name}'; the nearest are: {', '.join(near)}")
        checked[name] = parse(value, known[name].type, f"{slug}: {name}")
    return checked


def pairs(assignments: list[str]) -> dict[str, str]:
    """`key=value` texts as a dict.

    Raises:
        UsageError: one of them has no `=`.
    """
    result = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"key=value is expected, not '{text}'")
        result[key.strip()] = value.strip()
    return result


def values(assignments: list[str]) -> dict[str, Any]:
    """`key=value` texts with each value read as YAML: 3 is a number, [1, 2] a list, all else text.

    Raises:
        UsageError: one of them has no `=`, or its value is no YAML.
    """
    import yaml

    try:
        return {key: yaml.safe_load(text) for key, text in pairs(assignments).items()}
    except yaml.YAMLError as error:
        raise UsageError(f"'{' '.join(assignments)}': {error}") from error
