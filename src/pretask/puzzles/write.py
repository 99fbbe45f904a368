"""A data set of puzzles on disk, in the layout trl's trainers read.

What is written stays as it is: a puzzle has one order, which the official code draws anew each time a sample is
met (several `copies` come closer to that), and a clip is a row of pictures, which it hands over as a video.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pretask import catalog, config
from pretask.data.dataset import Skipped
from pretask.errors import DataError, UsageError, need
from pretask.puzzles.makers import MAKERS
from pretask.puzzles.pictures import to_picture
from pretask.run import write_text

SHARD = 256  # puzzles a file


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        folder: where.
        puzzles: how many.
        files: parquet files.
        skipped: what no puzzle could be made of, and why.
    """

    folder: Path
    puzzles: int
    files: list[Path]
    skipped: list[Skipped]


def write_puzzles(
    slug: str,
    data: Any,
    out: str | Path,
    *,
    options: dict[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Written:
    """Write a method's puzzles as parquet files with the pictures in them.

    Columns: `prompt` (a conversation with a place for each picture), `images`, `answer` (the numbers of the
    right answer), `wrapper` (how it is to be written) and `source` (what it was made from).

    Args:
        slug: the method.
        data: what the puzzles are made of.
        out: a new or empty folder.
        options: of the maker, as `{"kind": "video"}`.
        limit: samples of the data, at most.
        seed: of all that is drawn.

    Raises:
        UsageError: the method poses no puzzles, has no such option, or the folder is used.
        DataError: no puzzle could be made.
    """
    maker = make_maker(slug, options or {})
    if data is None:
        raise UsageError("what shall the puzzles be made of? give --data")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{folder}' is not empty: choose another --out")
    need("datasets", "rl").disable_progress_bars()
    made = rows(maker, data, limit, seed)
    files: list[Path] = []
    total = 0
    while some := list(islice(made, SHARD)):
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"train-{len(files):05d}.parquet")
        write_shard(some, files[-1])
        total += len(some)
    if not total:
        reason = f"; the first: {maker.skipped[0].path}: {maker.skipped[0].reason}" if maker.skipped else ""
        raise DataError(f"of {data} no puzzle could be made{reason}")
    write_text(folder / "README.md", card(slug, maker, data, total, seed))
    return Written(folder, total, files, maker.skipped)


def make_maker(slug: str, options: dict[str, Any]) -> Any:
    """The maker of a method's puzzles.

    Raises:
        UsageError: there is none, or it has no such option.
    """
    if slug not in MAKERS:
        catalog.find(slug)
        raise UsageError(f"{slug} poses no puzzles; these do: {', '.join(MAKERS)}")
    module, _, name = MAKERS[slug].partition(":")
    return getattr(importlib.import_module(module), name)(**config.check(slug, options, MAKERS[slug]))


def rows(maker: Any, data: Any, limit: int | None, seed: int) -> Iterator[dict[str, Any]]:
    """Puzzles as rows of the data set."""
    for name, puzzle in maker(data, limit, seed):
        yield {
            "prompt": puzzle.prompt, "images": [to_picture(picture) for picture in puzzle.pictures],
            "answer": puzzle.answer, "wrapper": puzzle.wrapper, "source": name,
        }  # fmt: skip


def write_shard(some: list[dict[str, Any]], path: Path) -> None:
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "prompt": [{"role": text, "content": [{"type": text, "text": text}]}],
            "images": [datasets.Image()],
            "answer": [datasets.Value("int64")],
            "wrapper": text,
            "source": text,
        }
    )
    datasets.Dataset.from_list(some, features=features).to_parquet(path)


def card(slug: str, maker: Any, data: Any, total: int, seed: int) -> str:
    """What the folder holds and how a trainer reads it."""
    settings = ", ".join(f"{o.name}={getattr(maker, o.name)}" for o in config.options_of(MAKERS[slug]))
    return f"""# Puzzles: {slug}

{total} puzzles made of `{data}` by `pretask puzzles {slug}` (seed {seed}).

Settings: {settings}.

```python
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from {MAKERS[slug].partition(".makers")[0]}.{slug.replace("-", "_")} import reward

trainer = GRPOTrainer(
    model="Qwen/Qwen2.5-VL-7B-Instruct",
    reward_funcs=reward,
    args=GRPOConfig(
        num_generations=16, max_completion_length=2048, beta=0.0, learning_rate=1e-6, lr_scheduler_type="constant"
    ),
    train_dataset=load_dataset("parquet", data_files="train-*.parquet", split="train"),
)
trainer.train()
```
"""
