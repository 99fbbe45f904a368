"""Lines of text, perhaps in several languages, out of files: plain, tables, JSON lines, line-aligned."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretask.data.dataset import Skipped
from pretask.data.layout import SPLITS, UNLABELLED, read_layout, split_in_name, walk
from pretask.errors import DataError

TEXTS = ("text", "sentence", "content", "document", "body", "utterance", "line")
LABELS = ("label", "class", "target", "category", "topic", "y")
PARTS = ("split", "set", "subset", "partition")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
CODE = r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?"
ALIGNED = re.compile(rf"(?P<stem>.+)\.(?P<language>{CODE})")
NO_LANGUAGE = {
    "txt",
    "csv",
    "tsv",
    "md",
    "rst",
    "log",
    "gz",
    "zip",
    "tar",
    "npz",
    "npy",
    "py",
    "xml",
    "jpg",
    "png",
}
MAX_BYTES = 4 << 30  # of one file, unpacked
ACCEPTED = (
    "accepted are plain text with a text a line (.txt, .txt.gz), JSON lines (.jsonl), tables (.csv, .tsv), "
    "line-aligned files of several languages (train.en, train.de, or NAME.{en,de}), a folder of these, lists "
    "of strings, and mappings of languages to lists"
)


@dataclass
class Corpus:
    """Lines of text; with several languages, line i says the same in each.

    Args:
        name: for people.
        languages: codes; one, of whatever name, where there is no translation.
        lines: for each language its lines; empty where there is none.
        parts: for each line its split, or None.
        labels: for each line its class, or None.
        skipped: lines that cannot be used.
        ignored: files that were not read.
    """

    name: str
    languages: tuple[str, ...]
    lines: list[list[str]]
    parts: Sequence[str | None] = field(default_factory=list)
    labels: Sequence[str | None] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0

    def __post_init__(self) -> None:
        count = len(self.lines[0])
        self.parts = self.parts or [None] * count
        self.labels = self.labels or [None] * count


def read_bytes(path: Path) -> bytes:
    """
    Raises:
        DataError: the file cannot be read or unpacked, or is empty or absurdly large.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES >> 30} GB of text: split it into files")
    if not raw.strip():
        raise DataError(f"{path} is empty")
    return raw


def read_lines(path: Path) -> tuple[list[str], list[Skipped]]:
    """The lines of a file, empty ones among them; those that are no UTF-8 are empty and named.

    Only line feeds end a line: what else Unicode counts as line ends would put aligned files out of step.

    Raises:
        DataError: the file cannot be read or is no text.
    """
    raw = read_bytes(path)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            raw = raw.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} begins like UTF-16 and is none: {error}") from error
    elif b"\0" in raw[:4096]:
        raise DataError(f"{path} is no text: it holds zero bytes")
    lines, skipped = [], []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").strip())
        except UnicodeDecodeError:
            lines.append("")
            skipped.append(Skipped(f"{path.name}:{number}", "not UTF-8"))
    return lines, skipped


def from_plain(path: Path) -> Corpus:
    lines, skipped = read_lines(path)
    return Corpus(str(path), ("text",), [lines], skipped=skipped)


def from_aligned(name: str, groups: Mapping[str, Mapping[str, Path]]) -> Corpus:
    """Line-aligned files: for each group (a split, a chapter) the file of each language.

    Raises:
        DataError: the files of a group have different numbers of lines.
    """
    found = {
        stem: {language: read_lines(path) for language, path in files.items()}
        for stem, files in groups.items()
    }
    languages = ordered(found.values())
    corpus = Corpus(name, languages, [[] for _ in languages])
    parts: list[str | None] = []
    for stem, files in found.items():
        counts = {language: len(lines) for language, (lines, _) in files.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{groups[stem][language].name} {count}" for language, count in counts.items())
            raise DataError(
                f"{name}: line i must say the same in every language, and the numbers of lines differ: {said}"
            )
        count = next(iter(counts.values()))
        for place, language in enumerate(languages):
            corpus.lines[place] += files[language][0] if language in files else [""] * count
        corpus.skipped += [item for _, skipped in files.values() for item in skipped]
        parts += [split_in_name(Path(stem))] * count
    corpus.parts = parts
    corpus.labels = [None] * len(corpus.parts)
    return corpus


def ordered(groups: Iterable[Mapping[str, tuple[list[str], Any]]]) -> tuple[str, ...]:
    """English first, where it is there, for most corpora are translated from it; then by how many lines there
    are of a language."""
    counts: Counter[str] = Counter()
    for files in groups:
        counts.update({language: len(lines) for language, (lines, _) in files.items()})
    return tuple(sorted(counts, key=lambda language: (language != "en", -counts[language], language)))


def aligned_groups(paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Files called STEM.LANGUAGE by stem and language; only stems in two languages or more."""
    groups: dict[str, dict[str, Path]] = {}
    for path in sorted(paths):
        match = ALIGNED.fullmatch(path.name.removesuffix(".gz").removesuffix(".txt"))
        if match and match["language"] not in NO_LANGUAGE:
            stem = str(path.parent / match["stem"])
            groups.setdefault(stem, {})[match["language"]] = path
    return {Path(stem).name: files for stem, files in groups.items() if len(files) > 1}


def from_table(path: Path) -> Corpus:
    """A table with a header, or an object a line.

    A column called like one of TEXTS holds the text; without one, columns called by language codes hold
    translations (also within an object called `translation`). LABELS and PARTS name class and split.

    Raises:
        DataError: there is no such column.
    """
    records, skipped = read_records(path)
    names = list(dict.fromkeys(name for record in records for name in record))
    by_lower = {name.lower(): name for name in reversed(names)}
    text, label, part = (
        next((by_lower[name] for name in wanted if name in by_lower), None)
        for wanted in (TEXTS, LABELS, PARTS)
    )
    codes = [name for name in names if re.fullmatch(CODE, name) and name not in (label, part)]
    codes = [name for name in codes if written(record.get(name) for record in records)]
    if text is None and len(codes) < 2:
        raise DataError(
            f"{path} has the columns {', '.join(names)[:200]}; the text is looked for as {', '.join(TEXTS)}, "
            "translations as two or more columns called by language codes (en, de, pt-BR)"
        )
    columns = codes if text is None else [text]
    lines = [[plain(record.get(column)) for record in records] for column in columns]
    labels = [plain(record.get(label)) or None for record in records] if label else []
    parts = [SPLITS.get(plain(record.get(part)).lower()) for record in records] if part else []
    if not part:
        parts = [split_in_name(Path(path.name))] * len(records)
    return Corpus(str(path), tuple(columns) if text is None else ("text",), lines, parts, labels, skipped)


def written(values: Iterable[Any]) -> bool:
    """Whether most of these are words: `id` is Indonesian, and a number far more often."""
    found = [text for text in map(plain, values) if text]
    return 2 * sum(any(map(str.isalpha, text)) for text in found) > len(found)


def plain(value: Any) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else " ".join(str(value).split())


def read_records(path: Path) -> tuple[list[dict[str, Any]], list[Skipped]]:
    """The rows of a table or the objects of JSON lines; those that are none are named.

    Raises:
        DataError: there is nothing in it.
    """
    lines, skipped = read_lines(path)
    records: list[dict[str, Any]] = []
    if suffix(path) in (".csv", ".tsv"):
        delimiter = "\t" if suffix(path) == ".tsv" else ","
        csv.field_size_limit(1 << 24)
        try:
            if delimiter == "\t" and '"' not in lines[0]:  # then a quote is a quote
                table = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            else:
                table = csv.DictReader((line + "\n" for line in lines), delimiter=delimiter)
            rows = list(table)
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as a table: {error}") from error
        records = [{key: value for key, value in row.items() if key} for row in rows]
    else:
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                nested = record.pop("translation", None)
                records.append(record | (nested if isinstance(nested, dict) else {}))
            else:
                skipped.append(Skipped(f"{path.name}:{number}", "no JSON object"))
    if not records:
        raise DataError(f"{path} has no rows" + (f" ({skipped[0].reason})" if skipped else ""))
    return records, skipped


def suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def from_file(path: Path) -> Corpus:
    return from_table(path) if suffix(path) in TABLES else from_plain(path)


def from_folder(root: Path) -> Corpus:
    """Line-aligned files if there are any; else tables; else plain text, with splits and classes as the
    folders are called.

    Raises:
        DataError: there is no text.
    """
    names = sorted(walk(root))
    paths = [root / name for name in names]
    if groups := aligned_groups(paths):
        corpus = from_aligned(str(root), groups)
        corpus.ignored = len(paths) - sum(map(len, groups.values()))
        return corpus
    tables = [path for path in paths if suffix(path) in TABLES]
    if tables:
        return concatenate(str(root), [from_table(path) for path in tables], len(paths) - len(tables))
    texts = [name for name in names if suffix(Path(name)) in (".txt", ".text")]
    if not texts:
        raise DataError(f"{root} holds no text; {ACCEPTED}")
    layout, found = read_layout(texts), []
    for number, name in enumerate(texts):
        corpus = from_plain(root / name)
        split = layout.part_names[int(layout.parts[number])] if layout.parts is not None else None
        target = UNLABELLED if layout.targets is None else int(layout.targets[number])
        corpus.parts = [split or split_in_name(Path(name))] * len(corpus.parts)
        corpus.labels = [layout.classes[target] if layout.classes and target >= 0 else None] * len(
            corpus.parts
        )
        found.append(corpus)
    return concatenate(str(root), found, len(paths) - len(texts))


def concatenate(name: str, parts: Sequence[Corpus], ignored: int) -> Corpus:
    """Corpora of the same languages behind each other.

    Raises:
        DataError: their languages differ.
    """
    if len({part.languages for part in parts}) > 1:
        said = "; ".join(f"{part.name}: {', '.join(part.languages)}" for part in parts[:4])
        raise DataError(f"{name}: the tables' columns differ ({said})")
    lines = [[line for part in parts for line in part.lines[k]] for k in range(len(parts[0].languages))]
    return Corpus(
        name, parts[0].languages, lines, [p for part in parts for p in part.parts],
        [label for part in parts for label in part.labels], [s for part in parts for s in part.skipped],
        ignored,
    )  # fmt: skip


def from_objects(source: Any) -> Corpus:
    """Lines held in memory: strings, (strings, classes), or a mapping of languages to strings.

    Raises:
        DataError: it is none of these, or their numbers differ.
    """
    labels: list[str | None] = []
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], str):
        source, labels = source[0], [None if label is None else str(label) for label in source[1]]
    columns = dict(source) if isinstance(source, Mapping) else {"text": source}
    lines = [list(column) for column in columns.values() if not isinstance(column, str)]
    if len(lines) < len(columns) or not all(isinstance(line, str) for column in lines for line in column):
        raise DataError(f"{type(source).__name__} objects are read as no text; {ACCEPTED}")
    counts = {len(column) for column in (*lines, *([labels] if labels else []))}
    if len(counts) != 1 or not lines[0]:
        raise DataError(
            f"the columns hold {', '.join(map(str, sorted(counts)))} lines: give as many of each, and some"
        )
    return Corpus(
        "texts", tuple(map(str, columns)), [[" ".join(x.split()) for x in c] for c in lines], [], labels
    )


def read_corpus(source: Any) -> Corpus:
    """
    Raises:
        DataError: it is not there, or no text.
    """
    from pretask.data.cipher import EMBEDDED

    if not isinstance(source, (str, os.PathLike)):
        return from_objects(source)
    text = str(source)
    if text in EMBEDDED:
        return EMBEDDED[text]()
    if braces := re.search(r"\{([^{}]+)\}", text):
        head, tail = text[: braces.start()], text[braces.end() :]
        files = {code.strip(): Path(head + code.strip() + tail).expanduser() for code in braces[1].split(",")}
        return from_aligned(text, {Path(head).name.rstrip("."): files})
    path = Path(source).expanduser()
    if path.is_dir():
        return from_folder(path)
    if not path.is_file():
        raise DataError(f"there is no '{source}'; {ACCEPTED}")
    return from_file(path)
