"""Pictures of places: where and when each was taken, and what the same place looked like at other times."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from math import isfinite, nan
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.arrays import from_arrays
from pretask.data.dataset import Dataset, Samples, Skipped, check_broken, part_of, spread
from pretask.data.gather import Cache
from pretask.data.images import Wishes, decoded
from pretask.data.lists import from_list
from pretask.data.multimodal import Joined
from pretask.data.seasons import NAME, USES, seasons
from pretask.data.source import Source
from pretask.errors import DataError, UsageError

COLUMNS: dict[str, tuple[str, ...]] = {
    "lat": ("lat", "latitude"),
    "lon": ("lon", "lng", "long", "longitude"),
    "place": ("place", "location", "location_id", "site"),
    "time": ("time", "timestamp", "date", "datetime"),
    "product": ("product", "product_type", "sensor"),
}
"""What columns are called; the first two must be there."""

SUFFIX = 15  # letters behind a picture's number in fMoW's names, such as `_rgb_train0.jpg`
HELD_OUT = 5  # every so many-th place is for testing where there is no split
KEYS = tuple[object, ...]


class Sites(NamedTuple):
    """What is known of each picture of a table.

    Args:
        where: latitude and longitude in degrees; NaN where unknown.
        key: what pictures of the same place and product have in common.
        order: sorts the pictures of a place by time.
    """

    where: Float[Tensor, "pictures 2"]
    key: Sequence[KEYS]
    order: Sequence[float | str]


class Visits:
    """Beside each picture others of the same place: the data set's `where`, `place`, `revisit`, `revisits`.

    Args:
        pictures: gives `image` and `size`.
        where: of each, degrees.
        place: of each, a number.
        others: of each, rows of the other pictures of its place, -1 behind them.
    """

    def __init__(
        self,
        pictures: Samples,
        where: Float[Tensor, "pictures 2"],
        place: Int[Tensor, "pictures"],
        others: Int[Tensor, "pictures visits"],
    ):
        self.pictures, self.where, self.place, self.others = pictures, where, place, others
        self.in_memory = pictures.in_memory

    def __len__(self) -> int:
        return len(self.place)

    def name(self, row: int) -> str:
        return self.pictures.name(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        others = self.others[rows]
        there = others >= 0
        seen, broken = self.pictures.get(torch.where(there, others, rows[:, None]).flatten())
        if broken:
            there &= ~torch.isin(others, torch.tensor(list(broken)))
        order = (~there).int().argsort(dim=1, stable=True)  # those that are there come first
        image, size = (
            value.unflatten(0, others.shape).gather(
                1, order.view(*order.shape, *[1] * (value.ndim - 1)).expand(-1, -1, *value.shape[1:])
            )
            for value in (seen["image"], seen["size"])
        )
        return {
            "where": self.where[rows], "place": self.place[rows], "revisit": image, "revisit_size": size,
            "revisits": there.sum(1),
        }, broken  # fmt: skip


def open_places(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
    times: int = 4,
    by_name: bool = False,
) -> Dataset:
    """Pictures with coordinates from a table (`.csv`, `.tsv`) or the folder it lies in, or `seasons`.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`).
        limit: at most so many samples, spread evenly.
        max_broken: the largest share of unreadable pictures and missing coordinates that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        image_size: side in pixels that encoders shall take; default from the pictures.
        channels: of the pictures; default 3 if any of them has colour, else 1.
        cache: `memory` decodes all pictures now, `never` when asked for, `auto` by the memory that is free.
        times: pictures of a place that a sample holds: its own, and so many less one that are spread over the others
            by time.
        by_name: files are called as in Geo-SSL's copy of fMoW, and their names tell places (`fmow_place`).

    Raises:
        DataError: there is nothing, too much is broken, or the table cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    if times < 2:
        raise UsageError(f"times must be at least 2 (a picture and another of its place), not {times}")
    found, sites = embedded() if str(source) == NAME else listed(table_of(Path(source).expanduser()), by_name)
    count = len(found.store.names)
    pictures = decoded(found, torch.arange(count), Wishes(image_size, channels, max_broken, cache, workers))
    lost = ~sites.where.isfinite().all(1)
    skipped = pictures.skipped + [
        Skipped(str(found.store.names[row]), "has no coordinates")
        for row in lost.nonzero().flatten().tolist()
    ]
    check_broken(found.name, skipped, count, max_broken)
    rows = pictures.rows[~lost[pictures.rows]]
    place, others = others_of(sites, pictures.parts, rows, times - 1)
    parts, part_names = pictures.parts, pictures.part_names
    if parts is None and int(place.max()) + 1 >= HELD_OUT:
        parts, part_names = (place % HELD_OUT == HELD_OUT - 1).long(), ("train", "test")
    visits = Visits(pictures.samples, sites.where, place, others)
    dataset = replace(
        pictures, samples=Joined([pictures.samples, visits], [str(name) for name in found.store.names]),
        modality="place", inputs={"in_chans": pictures.channels, "image_size": pictures.image_size},
        rows=rows, parts=parts, part_names=part_names, skipped=skipped,
    )  # fmt: skip
    alone = int((others[rows, 0] < 0).sum())
    dataset.facts |= {"places": len(place[rows].unique()), "pictures alone at their place": alone}
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def others_of(
    sites: Sites, parts: Int[Tensor, "pictures"] | None, rows: Int[Tensor, "some"], most: int
) -> tuple[Int[Tensor, "pictures"], Int[Tensor, "pictures visits"]]:
    """The number of each picture's place, and the rows of other pictures of it, by time: of the same product and the
    same split, all of them or `most` spread evenly."""
    groups: dict[KEYS, list[int]] = {}
    for row in rows.tolist():
        key = (*sites.key[row], None if parts is None else int(parts[row]))
        groups.setdefault(key, []).append(row)
    numbers: dict[object, int] = {}
    place = torch.zeros(len(sites.key), dtype=torch.long)
    others = torch.full((len(sites.key), most), -1)
    for key, members in groups.items():
        members.sort(key=lambda row: (str(type(sites.order[row])), sites.order[row], row))
        number = numbers.setdefault(key[0], len(numbers))
        for row in members:
            place[row] = number
            rest = [other for other in members if other != row]
            chosen = [rest[i] for i in spread(len(rest), most).tolist()] if rest else []
            others[row, : len(chosen)] = torch.tensor(chosen, dtype=torch.long)
    return place, others


def embedded() -> tuple[Source, Sites]:
    """Made-up places; the classes are what the land is used for."""
    parts = dict(zip(("train", "test"), seasons(), strict=True))
    pictures = {
        name: ((part.image * 255).round().byte().numpy(), part.use.numpy()) for name, part in parts.items()
    }
    whole = [torch.cat(values) for values in zip(*parts.values(), strict=True)]
    sites = Sites(whole[2], [(number,) for number in whole[3].tolist()], whole[4].tolist())
    return from_arrays(NAME, pictures, list(USES)), sites


def table_of(path: Path) -> Path:
    """The table itself, or the only one at the top of a folder.

    Raises:
        DataError: there is none, or more than one.
    """
    if path.is_dir():
        tables = sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".tsv"))
        if len(tables) != 1:
            there = ", ".join(file.name for file in tables) or "none"
            raise DataError(
                f"one table (.csv or .tsv) is looked for in {path}, and there is {there}: name it"
            )
        return tables[0]
    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv"):
        raise DataError(
            f"there is no table '{path}': a .csv or .tsv with a column of pictures, `lat` and `lon`, perhaps "
            "`place`, `time`, `product`, `label` and `split`"
        )
    return path


def listed(path: Path, by_name: bool) -> tuple[Source, Sites]:
    """The pictures of a table and what is known of each.

    Without a column of places, pictures are of the same place whose coordinates are the same to the letter; where
    that column is empty, a picture is alone.

    Raises:
        DataError: it has no coordinates, or a name does not tell a place and should.
    """
    found = from_list(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        table = [
            {
                str(key).strip().lower(): (value or "").strip()
                for key, value in line.items()
                if isinstance(value, str)
            }
            for line in lines
        ]
    header = set(table[0]) if table else set()
    named = {kind: next((name for name in names if name in header), "") for kind, names in COLUMNS.items()}
    if not named["lat"] or not named["lon"] or len(table) != len(found.store.names):
        wanted = " and ".join(" or ".join(COLUMNS[kind]) for kind in ("lat", "lon"))
        raise DataError(
            f"{path} has no coordinates: columns called {wanted} are looked for, a line a picture"
        )
    given = {kind: [line.get(name, "") for line in table] for kind, name in named.items()}
    where = torch.tensor([degrees(*pair) for pair in zip(given["lat"], given["lon"], strict=True)])
    if by_name:
        told = [fmow_place(name) for name in found.store.names]
        names, given["product"] = [f"{a}/{b}" for a, b, _ in told], [suffix for *_, suffix in told]
    elif named["place"]:
        names = [name or f"line {row}" for row, name in enumerate(given["place"])]
    else:
        names = [f"{lat} {lon}" for lat, lon in zip(given["lat"], given["lon"], strict=True)]
    return found, Sites(
        where, list(zip(names, given["product"], strict=True)), [moment(x) for x in given["time"]]
    )


def degrees(lat: str, lon: str) -> tuple[float, float]:
    """Latitude and longitude, or NaN where they are none."""
    try:
        found = float(lat), float(lon)
    except ValueError:
        return nan, nan
    return found if all(map(isfinite, found)) and abs(found[0]) <= 90 and abs(found[1]) <= 360 else (nan, nan)


def moment(text: str) -> float | str:
    """A number, an ISO date as seconds, or the text itself: anything that sorts."""
    for read in (float, lambda given: datetime.fromisoformat(given).timestamp()):
        try:
            return read(text)
        except (ValueError, OSError):
            continue
    return text


def fmow_place(name: str) -> tuple[str, str, str]:
    """Folder, place and suffix of a picture called as in Geo-SSL's copy of fMoW: a place, `_` and a number, then
    exactly 15 letters (`airport_0_3_rgb_train0.jpg`). Pictures that agree in all three show the same place.

    Raises:
        DataError: it is called otherwise.
    """
    folder, _, file = name.replace("\\", "/").rpartition("/")
    stem, suffix = file[:-SUFFIX], file[-SUFFIX:]
    place, line, number = stem.rpartition("_")
    if not place or not line or not number or not suffix.startswith("_"):
        raise DataError(
            f"'{name}' is no name such as airport_0_3_rgb_train0.jpg: a place, _, a number, and {SUFFIX} letters "
            "that begin with _"
        )
    return folder, place, suffix
