"""CPNet: is a clip continuous, where does it break, and what is missing there? (Liang et al., AAAI 2022)"""

from math import log
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.heads import mlp
from pretask.encoders.video import VideoEncoder
from pretask.errors import UsageError
from pretask.objectives.contrastive import in_batch_nce, triplet
from pretask.pretexts.clips import Break, broken, draw_breaks, missing, run, take_frames
from pretask.pretexts.views import apply_view_to_video, draw_view, simclr_views
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

DIM, HIDDEN = 128, 512  # of what is contrasted, and of the predictor
SHOWN = 6  # frames around a break, for people


class Clips(NamedTuple):
    """The clips of a batch, under one view a video.

    Args:
        whole: clips without a break.
        broken: clips with one.
        missing: what was cut out of those.
        other: another section of the same video.
        cut: where they lie.
    """

    whole: Float[Tensor, "batch chans length size size"]
    broken: Float[Tensor, "batch chans length size size"]
    missing: Float[Tensor, "batch chans length size size"]
    other: Float[Tensor, "batch chans length size size"] | None
    cut: Break


class CPNet(PretextTask):
    """Three questions about clips from whose midst a portion was cut and whose ends were joined.

    - `continuity` (J): is a clip whole (1) or broken (0)? Cross-entropy over all whole and broken clips.
    - `place` (L): behind which of its frames does a broken clip break? One class for each allowed place.
    - `context` and `motion` (A): what the predictor (a two-layer network) makes of the broken clip must be near
      to a linear projection of the missing section: nearer than to those of other videos' missing sections
      (InfoNCE), and nearer by a margin of cosine than to that of another section of the same video (triplet).

    All clips of a video share one crop, flip and change of colours, and whole and broken clips begin anywhere
    with the same probabilities, so that neither gives the break away. All clips go through the encoder
    together: batch normalisation sees them alike. Gradients reach both sides of A.

    No official code is known. The paper does not say what stands here as removed, margin, delta, triplet's other
    section, the two heads of A and the three weights; frame rate is the reader's `stride`.

    Args:
        encoder: any video encoder.
        length: frames of a clip, m.
        removed: the fewest and the most frames that are cut out, k; other numbers than `length` are brought to it.
        margin: frames on either side of a break, at least; 1 allows every place, the default all but the outermost.
        justify: weight of J, alpha; 0 leaves it out.
        localise: weight of L, beta; 0 leaves it out.
        approximate: weight of both parts of A, gamma; 0 leaves it out.
        other: the triplet's other section: the `whole` clip, or the end of the video that is `far` from what is
            missing, a fourth clip.
        temperature: of InfoNCE.
        delta: the triplet's margin.
        stop_target: let no gradient into the projection of the missing section.
        crop_scale: area of the random crop, as a share of the frame's.
    """

    encoder: VideoEncoder
    recipe = Recipe(
        "sgd", lr=0.01, lr_batch=32, batch_size=32, epochs=200, weight_decay=5e-4, warmup=0.0, momentum=0.9
    )

    def __init__(
        self,
        encoder: VideoEncoder,
        length: int = 16,
        removed: tuple[int, int] = (16, 16),
        margin: int = 2,
        justify: float = 1.0,
        localise: float = 1.0,
        approximate: float = 1.0,
        other: Literal["whole", "far"] = "whole",
        temperature: float = 0.1,
        delta: float = 0.2,
        stop_target: bool = False,
        crop_scale: tuple[float, float] = (0.4, 1.0),
    ):
        super().__init__(encoder)
        if not (0 < removed[0] <= removed[1] and 0 < margin <= length // 2):
            raise UsageError(
                f"removed {removed} must be two numbers from 1 in their order, and margin {margin} between 1 and "
                f"half of length {length}"
            )
        if not any((justify, localise, approximate)):
            raise UsageError("justify, localise and approximate are all 0: nothing is left to learn")
        self.length, self.removed, self.margin = length, removed, margin
        self.other, self.temperature, self.delta = other, temperature, delta
        self.stop_target = stop_target
        self.view = simclr_views(encoder.image_size, crop_scale)
        self.places = length - 2 * margin + 1
        if justify:
            self.judge = nn.Linear(encoder.dim, 2)
            self.weights["continuity"] = justify
        if localise:
            self.locate = nn.Linear(encoder.dim, self.places)
            self.weights["place"] = localise
        if approximate:
            self.predict = mlp(encoder.dim, HIDDEN, DIM)
            self.project = nn.Linear(encoder.dim, DIM)
            self.weights |= {"context": approximate, "motion": approximate}

    def clips(self, batch: Batch, step: Step) -> Clips:
        """Cut first, then seen in one view: what is shown of a video differs in nothing but time."""
        video = require(batch, "video", 5)
        frames, count = video.shape[2], len(video)
        cut = draw_breaks(frames, self.length, self.removed, self.margin, count, step.generator)
        view = draw_view(self.view, count, step.generator, batch.get("size"))
        numbers = [run(cut.whole, self.length), broken(cut, self.length), missing(cut, self.length)]
        if self.other == "far":
            early = cut.start + cut.place + cut.removed // 2 < frames // 2
            numbers.append(run(torch.where(early, frames - self.length, 0), self.length))
        seen = apply_view_to_video(self.view, take_frames(video, torch.cat(numbers, dim=1)), view)
        whole, gap, lost, *far = seen.split(self.length, dim=2)
        return Clips(whole, gap, lost, far[0] if far else None, cut.to(video.device))

    def loss(self, batch: Batch, step: Step) -> Losses:
        clips = self.clips(batch, step)
        features, losses = self.features(clips), dict[str, Tensor]()
        if "continuity" in self.weights:
            logits = self.judge(torch.cat([features["whole"], features["broken"]]))
            whole = torch.arange(len(logits), device=logits.device) < len(features["whole"])
            losses["continuity"] = F.cross_entropy(logits, whole.long())
            step.metrics["continuity accuracy"] = (logits.argmax(1) == whole).float().mean()
        if "place" in self.weights:
            logits, place = self.locate(features["broken"]), clips.cut.place - self.margin
            losses["place"] = F.cross_entropy(logits, place)
            step.metrics["place accuracy"] = (logits.argmax(1) == place).float().mean()
        if "context" in self.weights:
            predicted, target = self.predict(features["broken"]), self.project(features["missing"])
            target = target.detach() if self.stop_target else target
            elsewhere = self.project(features["whole" if clips.other is None else "other"])
            losses["context"] = in_batch_nce(predicted, target, self.temperature)
            losses["motion"] = triplet(predicted, target, elsewhere, self.delta)
        return losses

    def features(self, clips: Clips) -> dict[str, Float[Tensor, "batch dim"]]:
        """Of all clips that are asked about, from one pass."""
        approximate = "context" in self.weights
        needed = {"broken": clips.broken}
        if "continuity" in self.weights or (approximate and clips.other is None):
            needed["whole"] = clips.whole
        if approximate:
            needed["missing"] = clips.missing
            if clips.other is not None:
                needed["other"] = clips.other
        found = self.encoder(torch.cat(list(needed.values()))).pooled.chunk(len(needed))
        return dict(zip(needed, found, strict=True))

    def chance(self, batch_size: int) -> dict[str, float]:
        chance = {
            "continuity": log(2),
            "place": log(self.places),
            "context": log(batch_size),
            "motion": self.delta,
        }
        return {name: value for name, value in chance.items() if name in self.weights}

    def question(self, batch: Batch, step: Step) -> Question:
        """Where does the broken clip break?"""
        clips = self.clips(batch, step)
        source = torch.arange(len(clips.broken), device=clips.broken.device)
        return Question(clips.broken, source, clips.cut.place - self.margin)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        clips = self.clips(batch, step)
        rows = []
        for row, said in enumerate(self.answers(self.encoder(clips.broken).pooled)):
            place = int(clips.cut.place[row])
            around = slice(max(0, place - SHOWN // 2), place + SHOWN // 2)
            panels = [
                Panel("a whole clip", clips.whole[row], kind="video"),
                Panel("a broken clip", clips.broken[row], kind="video"),
                Panel("is it broken, and where?", said, "answer", "text"),
                Panel(
                    f"around the break, behind frame {place}", clips.broken[row, :, around], "truth", "video"
                ),
                Panel("what is missing there", clips.missing[row], "hidden", "video"),
            ]
            rows.append(panels if said else panels[:2] + panels[3:])
        return Sheet("CPNet", "Is the clip continuous, where does it break, and what belongs there?", rows)

    def answers(self, pooled: Float[Tensor, "batch dim"]) -> list[str]:
        """What the network says of broken clips, in words."""
        said: list[list[str]] = [[] for _ in pooled]
        if "continuity" in self.weights:
            for words, share in zip(said, self.judge(pooled).softmax(1)[:, 0].tolist(), strict=True):
                words.append(f"broken: {share:.0%}")
        if "place" in self.weights:
            for words, place in zip(said, self.locate(pooled).argmax(1).tolist(), strict=True):
                words.append(f"behind frame {place + self.margin}")
        return ["\n".join(words) for words in said]
