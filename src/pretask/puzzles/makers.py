"""Data sets of puzzles: what can be set of each, and what makes it. `pretask puzzles` lists them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Literal

import torch

from pretask.data.dataset import Skipped
from pretask.data.formats import Broken
from pretask.errors import DataError, UsageError
from pretask.puzzles.clips import clip_plan
from pretask.puzzles.depth import depth_points
from pretask.puzzles.pictures import resized
from pretask.puzzles.puzzle import Puzzle
from pretask.puzzles.sources import fetch, pictures, scenes, videos
from pretask.puzzles.tiles import centre_crop
from pretask.puzzles.visual_jigsaw import depth_puzzle, gap_puzzle, image_puzzle, video_puzzle
from pretask.task import Step

MAKERS = {"visual-jigsaw": "pretask.puzzles.makers:VisualJigsawMaker"}

Made = Iterator[tuple[str, Puzzle]]
Draws = Iterator[torch.Generator]


class VisualJigsawMaker:
    """Visual Jigsaw's puzzles from pictures, videos, or pictures with depth.

    Args:
        kind: `image` for tiles, `video` for clips, `depth` for points.
        wrapper: how answers are written: `boxed` or `answer` after thinking, `none` for the bare list.
        grid: rows and columns of a picture's tiles.
        gaps: so many tiles are taken out of the picture, which is shown without them; 0 shows all tiles and
            no picture, as the paper does.
        resize: height and width that pictures are brought to; those with depth after the numbers were drawn.
        crop: height and width of the middle that is cut out then.
        smallest: pixels that a picture's shorter side must have; none takes the paper's 84, or any where all
            are smaller.
        clips: of a video.
        clip_grid: rows and columns that each clip is cut into besides.
        trim: share of a clip that is dropped at both of its ends; the paper's text says 0.05.
        frames: that a clip is shown by, at most.
        shortest: seconds that a video must have.
        points: of a scene.
        apart: pixels between any two points, at least.
        gap: metres between the depths of any two points, at least.
        copies: puzzles of each picture, each in another order.
    """

    def __init__(
        self,
        kind: Literal["image", "video", "depth"] = "image",
        wrapper: Literal["boxed", "answer", "none"] = "boxed",
        grid: tuple[int, int] = (3, 3),
        gaps: int = 0,
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        smallest: int | None = None,
        clips: int = 6,
        clip_grid: tuple[int, int] = (1, 1),
        trim: float = 0.1,
        frames: int = 12,
        shortest: float = 24.0,
        points: int = 6,
        apart: float = 40.0,
        gap: float = 0.2,
        copies: int = 1,
    ):
        self.kind, self.wrapper, self.copies = kind, wrapper, copies
        self.grid, self.gaps, self.smallest = grid, gaps, smallest
        self.resize, self.crop = resize, crop
        self.clips, self.clip_grid, self.trim, self.frames = clips, clip_grid, trim, frames
        self.shortest = shortest
        self.points, self.apart, self.gap = points, apart, gap
        self.skipped: list[Skipped] = []

    def __call__(self, source: Any, limit: int | None = None, seed: int = 0) -> Made:
        """Name and puzzle of everything that can be made into one; what cannot is in `skipped`.

        Args:
            source: of pictures anything `open_data` takes but addresses; of videos a folder or a file; of
                pictures with depth a folder or a .zip of them.
            limit: samples, at most.
            seed: of orders and points.
        """
        make = {"image": self.of_pictures, "video": self.of_videos, "depth": self.of_scenes}[self.kind]
        draws = (Step.at(number, seed=seed).generator for number in count())
        yield from make(source, limit, draws)

    def of_pictures(self, source: Any, limit: int | None, draws: Draws) -> Made:
        tiles = self.grid[0] * self.grid[1]
        for name, image in pictures(source, self.smallest, limit, self.skipped):
            image = resized(image, self.resize) if self.resize else image
            image = centre_crop(image, *self.crop) if self.crop else image
            for _ in range(self.copies):
                generator = next(draws)
                order = torch.randperm(self.gaps or tiles, generator=generator)
                if self.gaps:
                    places = torch.randperm(tiles, generator=generator)[: self.gaps].sort().values
                    yield name, gap_puzzle(image, places, order, self.grid, self.wrapper)
                else:
                    yield name, image_puzzle(image, order, self.grid, self.wrapper)

    def of_videos(self, source: Any, limit: int | None, draws: Draws) -> Made:
        pieces = self.clips * self.clip_grid[0] * self.clip_grid[1]
        for path, film in videos(source, limit, self.skipped):
            if film.seconds < self.shortest:
                reason = f"{film.seconds:.1f} seconds, fewer than {self.shortest:g}"
                self.skipped.append(Skipped(path.name, reason))
                continue
            try:
                clips = fetch(path, clip_plan(film.frames, film.fps, self.clips, self.trim, self.frames))
            except (Broken, UsageError) as error:
                self.skipped.append(Skipped(path.name, str(error)))
                continue
            for _ in range(self.copies):
                order = torch.randperm(pieces, generator=next(draws))
                yield path.name, video_puzzle(clips, order, self.clip_grid, wrapper=self.wrapper)

    def of_scenes(self, source: Any, limit: int | None, draws: Draws) -> Made:
        for name, image, depth in scenes(source, limit, self.skipped):
            for _ in range(self.copies):
                generator = next(draws)
                try:
                    points = depth_points(depth, self.points, generator, self.apart, self.gap)
                except DataError as error:
                    self.skipped.append(Skipped(name, str(error)))
                    break
                order = torch.randperm(self.points, generator=generator)
                yield name, depth_puzzle(image, points, order, self.resize, self.wrapper)
