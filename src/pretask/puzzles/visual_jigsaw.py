"""Visual Jigsaw's three puzzles and their reward (Wu et al., "Visual Jigsaw Post-Training Improves MLLMs").

Tiles of a picture to be put in reading order, clips of a video in the order of time, points of a scene in
the order of their depth: each is shown shuffled and numbered, and the answer is the list of numbers that
restores the order. `reward` is a reward function as trl takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from pretask.data.batch import to_float
from pretask.errors import UsageError
from pretask.puzzles.clips import PIXELS, sized, split_spatially
from pretask.puzzles.numbers import draw_markers, take_out
from pretask.puzzles.pictures import resized, to_picture, to_tensor
from pretask.puzzles.puzzle import FORM, Puzzle, ask, gold
from pretask.puzzles.tiles import slice_tiles
from pretask.puzzles.verify import Formula, Wrapper, ordering_reward

GRID = (3, 3)


def image_puzzle(
    image: Tensor,
    order: Int[Tensor, "tiles"],
    grid: tuple[int, int] = GRID,
    wrapper: Wrapper = "boxed",
) -> Puzzle:
    """Which tile belongs where? The tiles are pictures of their own.

    Args:
        image: (C, H, W), bytes or floats in [0, 1].
        order: the tile that is displayed at each place.
        grid: rows and columns.
        wrapper: how the answer is to be written.
    """
    rows, columns = grid
    check(order, rows * columns)
    question = (
        f"A picture was cut into {rows} rows and {columns} columns, and its {rows * columns} tiles are shown "
        "above in random order. Put it together again: list the numbers of the tiles in reading order, row "
        "by row from the top left to the bottom right, separated by commas."
    )
    return ask("Tile", [[tile] for tile in slice_tiles(image, rows, columns)], order, question, wrapper)


def gap_puzzle(
    image: Tensor,
    places: Int[Tensor, "gaps"],
    order: Int[Tensor, "gaps"],
    grid: tuple[int, int] = GRID,
    wrapper: Wrapper = "boxed",
) -> Puzzle:
    """Which tile was taken from where? The picture keeps its other tiles (the official code can draw this
    variant; the paper trains on none).

    Args:
        image: (C, H, W), bytes or floats in [0, 1].
        places: the tiles that are taken out, counted row by row, in rising order.
        order: the tile, counted among these, that is displayed at each place.
        grid: rows and columns.
        wrapper: how the answer is to be written.
    """
    check(order, len(places))
    masked, taken = take_out(to_picture(image).convert("RGB"), *grid, places.tolist())
    question = (
        f"From the first picture {len(places)} tiles were taken out, which leaves numbered gaps. The tiles "
        "follow it in random order. List for each gap, in the order of the gaps' numbers, the number of the "
        "tile that was there, separated by commas."
    )
    puzzle = ask("Tile", [[to_tensor(tile)] for tile in taken], order, question, wrapper)
    return puzzle._replace(
        pictures=[to_tensor(masked), *puzzle.pictures], parts=["Picture:", None, *puzzle.parts]
    )


def video_puzzle(
    clips: Sequence[Tensor],
    order: Int[Tensor, "pieces"],
    grid: tuple[int, int] = (1, 1),
    pixels: int = PIXELS,
    wrapper: Wrapper = "boxed",
) -> Puzzle:
    """In which order did the clips happen? Each is shown as frames one after the other.

    Args:
        clips: the frames (T, C, H, W), bytes or floats in [0, 1], that each is shown by (`clips.clip_plan`), in
            the order of time.
        order: the clip that is displayed at each place; with a grid the tile of a clip, where the first
            clip's tiles come first.
        grid: rows and columns that each clip is cut into besides.
        pixels: of a frame, about (`clips.frame_size`).
        wrapper: how the answer is to be written.
    """
    rows, columns = grid
    tiles = [tile for clip in clips for tile in split_spatially(to_float(clip), rows, columns)]
    pieces = [list(sized(tile, pixels)) for tile in tiles]
    check(order, len(pieces))
    tiled = rows * columns > 1
    question = (
        f"A video was cut into {len(clips)} clips of equal length"
        + (f", and each of them into {rows} rows and {columns} columns" if tiled else "")
        + f". The {len(pieces)} pieces are shown above in random order, each by a few of its frames. List "
        "their numbers in the order in which they happened"
        + (", and those of the same time in reading order" if tiled else "")
        + ", separated by commas."
    )
    return ask("Clip", pieces, order, question, wrapper)


def depth_puzzle(
    image: Tensor,
    points: Int[Tensor, "points 2"],
    order: Int[Tensor, "points"],
    size: tuple[int, int] | None = None,
    wrapper: Wrapper = "boxed",
) -> Puzzle:
    """Which of the marked points is nearer? Shuffling changes nothing but the numbers drawn on the points.

    Args:
        image: (C, H, W), bytes or floats in [0, 1].
        points: (row, column), from the nearest to the farthest (`depth.depth_points`).
        order: the point that carries each number.
        size: height and width that the picture is brought to *after* the numbers were drawn.
        wrapper: how the answer is to be written.
    """
    check(order, len(points))
    marked = to_tensor(draw_markers(to_picture(image), points[order].tolist()))
    if size is not None:
        marked = resized(marked, size)
    question = (
        f"{len(points)} points of this scene are marked by numbers. List the numbers from the point nearest "
        "to the camera to the farthest, separated by commas."
    )
    return Puzzle([marked], [None, f"{question} {FORM[wrapper]}"], gold(order).tolist(), wrapper)


def check(order: Int[Tensor, "pieces"], pieces: int) -> None:
    """
    Raises:
        UsageError: the order is not one of so many pieces.
    """
    if order.sort().values.tolist() != list(range(pieces)):
        raise UsageError(f"{order.tolist()} is no order of {pieces} pieces: 0 .. {pieces - 1}, each once")


def reward(
    completions: Sequence[Any],
    answer: Sequence[Sequence[int]],
    wrapper: Sequence[Wrapper] | None = None,
    *,
    formula: Formula = "code",
    strict: bool = False,
    partial: float = 0.2,
    bonus: float = 0.2,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    """The reward of each completion, as trl's `GRPOTrainer` asks for it (`verify.ordering_reward`).

    `functools.partial(reward, partial=0.0)` pays the right order alone.

    Args:
        completions: texts, or conversations whose last message holds the text.
        answer: the data set's column of right answers.
        wrapper: its column of how answers are written; default `boxed`.
        formula: `code` or `paper`.
        strict: only a permutation of 1 .. K is partly right.
        partial: gamma.
        bonus: for the right format.
        log_metric: given by trl; told the share of right orders, and of right places.
        columns: whatever else the data set or trl passes.
    """
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    wrappers = wrapper or ["boxed"] * len(texts)
    found = [
        ordering_reward(
            text, right, wrapper=how, formula=formula, strict=strict, partial=partial, bonus=bonus
        )
        for text, right, how in zip(texts, answer, wrappers, strict=True)
    ]
    if log_metric is not None and found:
        log_metric("exact", sum(one.exact for one in found) / len(found))
        log_metric("correct", sum(one.correct for one in found) / len(found))
    return [one.total for one in found]
