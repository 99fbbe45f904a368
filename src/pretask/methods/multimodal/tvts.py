"""TVTS: which of the texts belongs to which part of a video? (Zeng et al., CVPR 2023)"""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.features import Features
from pretask.encoders.sorter import Sorter
from pretask.encoders.space_time import SpaceTimeEncoder
from pretask.encoders.towers import Towers
from pretask.errors import UsageError
from pretask.objectives.contrastive import in_batch_nce
from pretask.pretexts import draw
from pretask.pretexts.clips import draw_frames, draw_visible, take_frames
from pretask.pretexts.text import read_texts
from pretask.pretexts.views import ViewSpec, apply_view_to_video, draw_view, square_boxes
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step


class Masked(NamedTuple):
    """What the network sees of a video.

    Args:
        video: its frames.
        visible: the tubelets that are encoded.
    """

    video: Float[Tensor, "batch chans frames size size"]
    visible: Int[Tensor, "batch visible"]


class TVTS(PretextTask):
    """Narrated videos: several texts, each of which tells of one part, and a video most of which is hidden.

    - `sort`: a transformer on the visible tokens of the video and one vector a text says for each text, apart from
      the others, which place it has (cross-entropy, all texts' mean). Gradients of it do not reach the text
      encoder. The texts stand in their order and the sorter cannot know it, for they have no positions.
    - `align`: of all videos of the batch each finds the mean of its own texts and the other way round (InfoNCE over
      all processes, the sum of both directions).

    Frames are drawn from equal parts of the time from the first text to the last, one anywhere in each; they do not
    respect the borders of the texts. Of the tubelets of each time others are hidden. What tells the order is the
    encoder's table of times alone; it starts at zero.

    The official loader cuts a narrated recording into spans anew whenever it reads it; here they are cut once, as a
    table is opened, as many samples as fit. Frames are cropped and not mirrored, for texts say left and right.

    Args:
        encoder: a `space_time_vit` and a text encoder as wide (`video=space_time_vit;text=distilbert`).
        texts: of a sample; 1 leaves out sorting (the second stage, on captions).
        mask_ratio: share of the tubelets that is hidden, of each time.
        depth: blocks of the sorter.
        heads: of the sorter's attention; none takes one for each 64 numbers of its width.
        temperature: of InfoNCE.
        sort_weight: of sorting; 0 leaves it out.
        zoom: short side of the frame over the side of the random square that is seen of it.
    """

    encoder: Towers
    recipe = Recipe(
        "adamw",
        lr=1e-4,
        lr_batch=0,
        batch_size=768,
        epochs=20,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        eps=1e-6,  # the authors optimise with transformers' AdamW
        warmup=0.0,
        schedule="steps",
        drops=(12 / 20, 16 / 20),
    )

    def __init__(
        self,
        encoder: Towers,
        texts: int = 4,
        mask_ratio: float = 0.75,
        depth: int = 2,
        heads: int | None = None,
        temperature: float = 0.05,
        sort_weight: float = 2.0,
        zoom: float = 1.2,
    ):
        super().__init__(encoder)
        watcher, reader = encoder.tower("video"), encoder.tower("text")
        if not isinstance(watcher, SpaceTimeEncoder) or watcher.dim != reader.dim:
            raise UsageError(
                f"tvts needs a space_time_vit and a text encoder of the same width, not {watcher.name} of "
                f"{watcher.dim} and {reader.name} of {reader.dim}"
            )
        self.places = watcher.grid[1] * watcher.grid[2]
        self.kept = int(self.places * (1 - mask_ratio))
        if not 0 < self.kept <= self.places:
            raise UsageError(f"mask_ratio {mask_ratio} leaves {self.kept} of {self.places} places to be seen")
        if zoom < 1:
            raise UsageError(f"zoom {zoom} asks for more than the frame: it is 1 at least")
        self.texts, self.temperature, self.zoom = texts, temperature, zoom
        self.view = ViewSpec(watcher.image_size, None)
        heads = heads or max(1, watcher.dim // 64)
        if watcher.dim % heads:
            raise UsageError(f"{heads} heads of the sorter do not divide its width {watcher.dim}: set heads")
        if texts > 1 and sort_weight:
            self.sorter = Sorter(watcher.dim, texts, depth, heads)
            self.weights["sort"] = sort_weight

    def hide(self, batch: Batch, step: Step) -> Masked:
        """Frames of the whole video under one view, and what is seen of them."""
        video, watcher = require(batch, "video", 5), self.encoder.tower("video")
        count, frames = len(video), video.shape[2]
        drawn = draw_frames(frames, watcher.frames, count, step.generator)
        view, unit = draw_view(self.view, count, step.generator), draw.uniform((count, 2), step.generator)
        size = torch.tensor(video.shape[-2:]).expand(count, -1)
        view = view._replace(box=square_boxes(batch.get("size", size).to(unit.device), self.zoom, unit))
        visible = draw_visible(watcher.grid[0], self.places, self.kept, count, step.generator)
        seen = apply_view_to_video(self.view, take_frames(video, drawn), view)
        return Masked(seen, visible.to(video.device))

    def read(self, batch: Batch) -> Float[Tensor, "texts batch dim"]:
        """A vector for each text.

        Raises:
            UsageError: there are not as many texts as are to be sorted.
        """
        there = read_texts(batch).tokens.shape[1]
        if there != self.texts:
            raise UsageError(
                f"{self.texts} texts of each sample are to be sorted and the data have {there}: read them with "
                f"--read spans={self.texts}, or train with texts={there}"
            )
        return self.encoder.read_texts(batch)

    def loss(self, batch: Batch, step: Step) -> Losses:
        masked, texts = self.hide(batch, step), self.read(batch)
        found = self.encoder.tower("video")(masked.video, visible=masked.visible)
        told = self.encoder.shared("text", texts).mean(0)
        seen = self.encoder.shared("video", found.pooled)
        there, back = (in_batch_nce(*pair, self.temperature) for pair in ((seen, told), (told, seen)))
        losses = {"align": there + back}
        if "sort" in self.weights:
            logits = self.sort(found, texts)
            place = torch.arange(self.texts, device=logits.device).expand(len(logits), -1)
            losses["sort"] = F.cross_entropy(logits.flatten(0, 1), place.flatten())
            right = logits.argmax(2) == place
            step.metrics["sort accuracy"] = right.all(1).float().mean()
            step.metrics["place accuracy"] = right.float().mean()
        return losses

    def sort(
        self, found: Features, texts: Float[Tensor, "texts batch dim"]
    ) -> Float[Tensor, "batch texts places"]:
        """The place of each text; sorting does not teach the text encoder."""
        video = torch.cat([found.prefix, found.tokens], dim=1)
        return self.sorter(video, texts.detach().transpose(0, 1))

    def chance(self, batch_size: int) -> dict[str, float]:
        sort = {"sort": log(self.texts)} if "sort" in self.weights else {}
        return {"align": 2 * log(batch_size), **sort}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        masked, texts = self.hide(batch, step), self.read(batch)
        watcher, tokenizer = self.encoder.tower("video"), self.encoder.tower("text").tokenizer
        found, shown, rows = watcher(masked.video, visible=masked.visible), shade(masked, watcher), []
        places = self.sort(found, texts).argmax(2).tolist() if "sort" in self.weights else None
        for row, script in enumerate(read_texts(batch).tokens):
            said = [tokenizer.decode(text) or "(nothing)" for text in script]
            asked = "\n".join(f"- {text}" for text in sorted(said))
            panels = [
                Panel("what it sees", shown[row], kind="video"),
                Panel("what was said, in no order", asked, "asked", "text"),
                Panel("what was said when", numbered(range(len(said)), said), "truth", "text"),
                Panel("the video", masked.video[row], "truth", "video"),
            ]
            if places is not None:
                panels.insert(2, Panel("its places", numbered(places[row], said), "answer", "text"))
            rows.append(panels)
        return Sheet("TVTS", "Which text tells of which part of the video?", rows)


def numbered(places: Iterable[int], texts: Iterable[str]) -> str:
    """A line a text, with its place counted from 1."""
    return "\n".join(f"{place + 1}. {text}" for place, text in zip(places, texts, strict=True))


def shade(masked: Masked, watcher: SpaceTimeEncoder) -> Float[Tensor, "batch chans frames size size"]:
    """The video with its hidden tubelets in grey."""
    count, _, frames, side, _ = masked.video.shape
    seen = torch.zeros(count, watcher.grid[0] * watcher.grid[1] * watcher.grid[2], device=masked.video.device)
    seen = seen.scatter(1, masked.visible, 1.0).view(count, 1, *watcher.grid)
    large = F.interpolate(seen, (frames, side, side), mode="nearest")
    return masked.video * large + 0.5 * (1 - large)
