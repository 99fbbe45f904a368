"""Colorful image colorization: take a picture's colour away, ask for it back (Zhang et al., ECCV 2016).

Lab colour with ab hidden; every fourth pixel's ab (picked, not averaged) is a mixture of its 10 nearest
of Q palette colours; cross-entropy, each pixel weighted by how rare its colour is (equations 2 to 4).
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.dense import DenseHead
from pretask.encoders.image import ImageEncoder
from pretask.errors import DataError, UsageError
from pretask.objectives.distributed import mean
from pretask.pretexts import colour
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

COUNTED = 20_000  # pictures of one process; more would hardly move the shares of 261 colours


class Colorization(PretextTask):
    """Predict the hidden colour of a grey picture, as a distribution over palette colours at each place.

    The encoder is fed the grey picture of the same lightness L as RGB, so that what is exported takes
    ordinary pictures; an encoder of one channel is fed L / 100. `colour_net`, the paper's own network,
    makes L - 50 of either. Other encoders see no colour in training: judge them on grey pictures too.

    The rate falls to a tenth after 225,000 and 450,000 of 500,000 steps, and biases decay as weights do: the released
    solver's settings, where the paper states other ones.

    Args:
        encoder: any image encoder with 1 or 3 input channels.
        crop_scale: area of the random crop, as a share of the picture's; the paper cuts 176 pixels of 256.
        stride: pixels between two predictions; None is the paper's 4, or 2 for pictures up to 64 pixels.
        neighbours: palette colours a pixel's target is spread over (paper 5, its code 10).
        sigma: width of that spread, in units of ab.
        uniform_share: lambda, share of the uniform distribution in the prior that weights are made from;
            1 does not rebalance.
        power: alpha, the power of the inverse prior.
        temperature: of the annealed mean that turns an answer into a colour.
        decoder_width: channels of the decoder; None is half the encoder's, at most the paper's 256.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "adam", lr=3e-5, lr_batch=40, batch_size=40, epochs=16, weight_decay=1e-3, decay_vectors=True,
        betas=(0.9, 0.99), warmup=0.0, schedule="steps", drops=(0.45, 0.9),
    )  # fmt: skip
    colours: Float[Tensor, "colours 2"]
    prior: Float[Tensor, "colours"]
    rarity: Float[Tensor, "colours"]
    blind: Float[Tensor, ""]

    def __init__(
        self,
        encoder: ImageEncoder,
        crop_scale: tuple[float, float] = (0.473, 0.473),
        stride: int | None = None,
        neighbours: int = 10,
        sigma: float = 5.0,
        uniform_share: float = 0.5,
        power: float = 1.0,
        temperature: float = 0.38,
        decoder_width: int | None = None,
    ):
        super().__init__(encoder)
        if encoder.in_chans not in (1, 3):
            raise UsageError(f"colorization needs an encoder of 1 or 3 channels, not {encoder.in_chans}")
        self.view = ViewSpec(encoder.image_size, scale=crop_scale, ratio=(1.0, 1.0), flip=0.5)
        self.stride = stride or (4 if encoder.image_size > 64 else 2)
        self.neighbours, self.sigma, self.temperature = neighbours, sigma, temperature
        self.uniform_share, self.power = uniform_share, power
        self.register_buffer("colours", colour.palette().clone(), persistent=False)
        q = len(self.colours)
        # until `prepare` has seen the data every colour counts alike
        self.register_buffer("prior", torch.full((q,), 1 / q))
        self.register_buffer("rarity", torch.ones(q))
        self.register_buffer("blind", torch.tensor(float(q)).log())
        self.head = DenseHead(encoder, q, self.stride, decoder_width or min(256, encoder.dim // 2))

    def crop(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
        """Lab of a random crop."""
        image = require(batch, "image", 4)
        if image.shape[1] != 3:
            raise UsageError(f"colorization needs RGB pictures; these have {image.shape[1]} channels")
        view = draw_view(self.view, len(image), generator, batch.get("size"))
        return colour.rgb_to_lab(apply_view(self.view, image, view))

    def grey(self, lab: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch chans h w"]:
        """What is left of a picture without its colour, in [0, 1]."""
        if self.encoder.in_chans == 1:
            return lab[:, :1] / 100
        return colour.lab_to_rgb(lab * lab.new_tensor([1.0, 0.0, 0.0]).view(3, 1, 1))

    def targets(self, lab: Float[Tensor, "batch 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Picked ab (B, 2, h, w), its mixture of colours (weights, which) and whether the picture has any."""
        ab = lab[:, 1:, :: self.stride, :: self.stride]
        mixture, which = colour.soft_encode(ab, self.colours, self.neighbours, self.sigma)
        return ab, mixture, which, colour.is_coloured(ab)

    def weigh(
        self, which: Int[Tensor, "batch neighbours h w"], coloured: Tensor
    ) -> Float[Tensor, "batch h w"]:
        """A pixel weighs as much as its nearest colour is rare, in a grey picture nothing."""
        return self.rarity[which[:, 0]] * coloured[:, None, None]

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Count the colours of the first 20,000 pictures, cropped as in training; derive prior and weights.

        Raises:
            DataError: no picture has any colour.
        """
        q, device = len(self.colours), self.colours.device
        count = torch.zeros(q, dtype=torch.float64)
        joint = torch.zeros(q * q, dtype=torch.float64)  # nearest colour x mixture, over coloured pictures
        generator, seen = Step.at(device=device).generator, 0
        for batch in batches:
            if seen >= COUNTED:
                break
            seen += len(batch["image"])
            here: Batch = {key: batch[key].to(device) for key in ("image", "size") if key in batch}
            _, mixture, which, coloured = self.targets(self.crop(here, generator))
            count += torch.bincount(which[:, 0].flatten().cpu(), minlength=q)
            pair, share = which[:, :1] * q + which, mixture * coloured[:, None, None, None]
            joint += torch.bincount(pair.flatten().cpu(), share.flatten().double().cpu(), q * q)
        count, joint = mean(count.to(device)), mean(joint.to(device))
        if not joint.any():
            raise DataError("no picture has any colour: colorization has nothing to learn from them")
        prior = colour.smooth(count / count.sum(), self.colours, self.neighbours, self.sigma)
        rarity = colour.rebalance(prior, self.uniform_share, self.power)
        # the best constant answer is the weighted mean mixture; its cross-entropy is what blindness costs
        mass = (rarity[:, None] * joint.view(q, q)).sum(0) / count.sum()
        self.prior.copy_(prior), self.rarity.copy_(rarity)
        self.blind.copy_(-torch.xlogy(mass, mass / mass.sum()).sum())

    def loss(self, batch: Batch, step: Step) -> Losses:
        lab = self.crop(batch, step.generator)
        ab, mixture, which, coloured = self.targets(lab)
        logits = self.head(self.encoder(self.grey(lab)), tuple(ab.shape[-2:]))
        surprise = -(mixture * logits.float().log_softmax(1).gather(1, which)).sum(1)  # (B, h, w)
        step.metrics["accuracy"] = (logits.argmax(1) == which[:, 0]).float().mean()
        return {"colour": (self.weigh(which, coloured) * surprise).mean()}

    def question(self, batch: Batch, step: Step) -> Question:
        """The mean colour of a grey picture."""
        lab = self.crop(batch, step.generator)
        return Question(self.grey(lab), torch.arange(len(lab)), lab[:, 1:].mean((2, 3)))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        lab = self.crop(batch, step.generator)
        size = tuple(self.targets(lab)[0].shape[-2:])
        logits = self.head(self.encoder(self.grey(lab)), size)
        ab = colour.annealed_mean(logits, self.colours, self.temperature)
        ab = F.interpolate(ab, lab.shape[-2:], mode="bilinear", align_corners=False)
        answers = colour.lab_to_rgb(torch.cat([lab[:, :1], ab], dim=1))
        truths = colour.lab_to_rgb(lab)
        panels = [
            [
                Panel("what it sees", grey),
                Panel("its colours", answer, "answer"),
                Panel("true colours", truth, "truth"),
            ]
            for grey, answer, truth in zip(self.grey(lab), answers, truths, strict=True)
        ]
        return Sheet("Colorization", "Which colours does the grey picture have?", panels)

    def chance(self, batch_size: int) -> dict[str, float]:
        """The loss of the best answer that does not look at the picture."""
        return {"colour": float(self.blind)}
