"""CIM: where in the picture was this turned and recoloured crop? (Li et al., CVPR 2023)

What differs from the released code: under mixed precision the encoders' attention runs in the lower one, the
decoder alone in 32 bits, and nowhere is a share that is not a number taken for 0; crops are looked up at once
(`pretexts.turned.cut`), not turned by the nearest pixel and then resized.
"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.decoder import HEAD_DIM, CrossBlock, layer_norm, start_as_mae, xavier_linear
from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.heads import mlp
from pretask.encoders.image import PatchEncoder, check_norm
from pretask.encoders.positions import resized, sincos_2d
from pretask.errors import UsageError
from pretask.objectives.contrastive import in_batch_nce
from pretask.objectives.distillation import cosine
from pretask.pretexts.resample import crop
from pretask.pretexts.turned import Turned, covered, cut, draw_turned
from pretask.pretexts.views import SMALL_IMAGE, ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step


class Correlation(nn.Module):
    """A map of the context that says where the exemplar is: one block of cross attention, two classes.

    Args:
        encoder_dim: width of the tokens it reads.
        dim: its own.
        grid: rows and columns of the context's patches.
        size: side of the map in pixels.
    """

    positions: Tensor

    def __init__(self, encoder_dim: int, dim: int, grid: tuple[int, int], size: int):
        super().__init__()
        self.embed = nn.Linear(encoder_dim, dim)
        xavier_linear(self.embed)
        self.block, self.norm = CrossBlock(dim, dim // HEAD_DIM), layer_norm(dim)
        self.head = nn.Conv2d(dim, 2, 1)
        nn.init.normal_(self.head.weight)  # N(0, 2 / (1 x 1 x 2)): the official code counts the outputs
        self.register_buffer("positions", F.pad(sincos_2d(dim, grid), (0, 0, 1, 0)), persistent=False)
        self.grid, self.size = grid, size

    def forward(
        self,
        context: Float[Tensor, "batch 1+places encoder_dim"],
        exemplars: Float[Tensor, "crops 1+patches encoder_dim"],
    ) -> Float[Tensor, "crops 2 size size"]:
        asking = (self.embed(context) + self.positions).repeat_interleave(len(exemplars) // len(context), 0)
        asked = self.embed(exemplars)
        with torch.autocast(asking.device.type, enabled=False):
            wide = torch.promote_types(asking.dtype, torch.float32)
            x = self.norm(self.block(asking.to(wide), asked.to(wide)))[:, 1:]
            maps = self.head(x.transpose(1, 2).unflatten(2, self.grid))
            return F.interpolate(maps, (self.size, self.size), mode="bilinear", align_corners=True)


class CIM(PretextTask):
    """Find turned, recoloured crops (exemplars) in the picture they were cut from (its context).

    The context's features come from a slow copy and get no gradient: the encoder learns through exemplars. The
    patch embedding and the positions stay as they were. Positions are resized without antialiasing, as in the
    official code. `contrast` is the official code's second loss, off in its released recipe.

    Args:
        encoder: a vision transformer with class token. Unless it is pretrained it starts as MAE's does.
        context_size: side of the context in pixels; none takes 5/7 of the picture's (160 of 224), the whole of
            pictures of at most 64 pixels.
        exemplar_size: side of an exemplar; none takes four patches.
        num_exemplars: crops of each picture; none takes 6, 4 up to 64 pixels.
        exemplar_scale: area of a crop before turning, as a share of the picture's.
        exemplar_ratio: its width / height.
        degrees: largest angle.
        recolour: jitter, grey, blur and invert exemplars.
        crop_scale: area of the random crop that is the picture, as a share of the whole.
        decoder_dim: width of the decoder.
        momentum: the slow copy's at the start, rising to 1 in a cosine.
        contrast: weight of telling, from each exemplar's class token, which context is its own.
        temperature: of that.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=1.5e-4, batch_size=4096, epochs=300, weight_decay=0.05, betas=(0.9, 0.95),
        warmup=40 / 300, clip=1.0,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        context_size: int | None = None,
        exemplar_size: int | None = None,
        num_exemplars: int | None = None,
        exemplar_scale: tuple[float, float] = (0.05, 0.48),
        exemplar_ratio: tuple[float, float] = (0.3333333333333333, 3.0),
        degrees: int = 45,
        recolour: bool = True,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        decoder_dim: int = 512,
        momentum: float = 0.99,
        contrast: float = 0.0,
        temperature: float = 0.2,
    ):
        super().__init__(encoder)
        if getattr(encoder, "num_prefix", 0) != 1 or getattr(encoder.model, "pos_embed", None) is None:
            raise UsageError(
                "correlational-image-modeling needs a vision transformer with absolute positions and a class token"
            )
        check_norm(encoder)
        side, patch = encoder.image_size, encoder.patch_size
        small = side <= SMALL_IMAGE
        self.context_size = context_size or (side if small else round(side * 5 / 7 / patch) * patch)
        self.exemplar_size = exemplar_size or min(4, encoder.grid[0] // 2) * patch
        for name, size in (("context_size", self.context_size), ("exemplar_size", self.exemplar_size)):
            if size % patch or size < patch:
                raise UsageError(f"{name} {size} is not a multiple of the encoder's patch size {patch}")
        if not 0 <= degrees <= 45:
            raise UsageError(f"degrees must be between 0 and 45, not {degrees}")
        if decoder_dim % HEAD_DIM:
            raise UsageError(
                f"decoder_dim must be a multiple of {HEAD_DIM} (a head's width), not {decoder_dim}"
            )
        self.count = num_exemplars or (4 if small else 6)
        self.degrees, self.momentum = degrees, momentum
        self.view = ViewSpec(side, crop_scale, flip=0.5, interpolation="bicubic")
        self.boxes = ViewSpec(side, exemplar_scale, exemplar_ratio)
        self.looks = ViewSpec(self.exemplar_size, None, flip=0.5, interpolation="bicubic")
        if recolour:
            self.looks = ViewSpec(
                self.exemplar_size, None, flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2,
                hue=0.1, grey=0.2, blur=0.5, blur_kernel=13, solarise=0.2, interpolation="bicubic",
            )  # fmt: skip
        if not encoder.pretrained:
            start_as_mae(encoder)
            nn.init.zeros_(encoder.model.patch_embed.proj.bias)
        encoder.model.patch_embed.requires_grad_(False)
        encoder.model.pos_embed.requires_grad_(False)
        self.teacher = teacher_of(encoder)
        grid = (self.context_size // patch,) * 2
        self.decoder = Correlation(encoder.dim, decoder_dim, grid, self.context_size)
        self.temperature, self.weights = temperature, {"correlation": 1.0}
        if contrast:
            self.weights["contrast"] = contrast
            self.projector = mlp(encoder.dim, 4096, 4096, 256, batch_norm=True, last_norm="plain")
            self.predictor = mlp(256, 4096, 256, batch_norm=True, last_norm="plain")
            for head in (self.projector, self.predictor):
                head.apply(xavier_linear)
            self.slow_projector = teacher_of(self.projector)

    def puzzle(
        self, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, "batch chans h w"], Float[Tensor, "crops chans size size"], Turned]:
        """Contexts, exemplars (those of one picture next to each other) and where these were."""
        image, gen = require(batch, "image", 4), step.generator
        view = draw_view(self.view, len(image), gen, batch.get("size"))
        crops = draw_turned(self.boxes, len(image), self.count, self.degrees, gen)
        looks = [draw_view(self.looks, len(image), gen) for _ in range(self.count)]
        each = type(view)(*(torch.stack(part, 1).flatten(0, 1) for part in zip(*looks, strict=True)))
        search = apply_view(self.view, image, view)
        straight = torch.zeros(len(search), dtype=torch.bool, device=search.device)
        whole = search.new_tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(search), -1)
        context = crop(search, whole, straight, self.context_size, "bicubic")
        exemplars = apply_view(self.looks, cut(search, crops, self.exemplar_size), each)
        return context, exemplars, Turned(*(part.to(search.device) for part in crops))

    def tokens(self, encoder: PatchEncoder, image: Tensor) -> Float[Tensor, "batch 1+patches dim"]:
        """Features of a picture of any size: the class token and the patches, by either network."""
        model, own = encoder.model, self.encoder.model
        rows, columns = (side // encoder.patch_size for side in image.shape[-2:])
        positions = resized(own.pos_embed[0, 1:], encoder.grid, (rows, columns))
        first = (own.cls_token + own.pos_embed[:, :1]).expand(len(image), -1, -1)  # the slow copy has none
        x = torch.cat([first, encoder.contents(image) + positions], dim=1)
        return model.norm(encoder.blocks(model.norm_pre(x)))

    def loss(self, batch: Batch, step: Step) -> Losses:
        context, exemplars, crops = self.puzzle(batch, step)
        with torch.no_grad():
            known = self.tokens(self.teacher, context)
        asked = self.tokens(self.encoder, exemplars)
        truth = covered(crops, self.context_size)
        said = self.decoder(known, asked)
        with torch.no_grad():
            step.metrics["overlap"] = overlap(said.argmax(1).bool(), truth).mean()
        # the mean over pixels, summed over a picture's exemplars
        losses = {"correlation": self.count * F.cross_entropy(said, truth.long())}
        if "contrast" in self.weights:
            losses["contrast"] = self.contrast(asked[:, 0], known[:, 0])
        return losses

    def contrast(
        self, asked: Float[Tensor, "crops dim"], known: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """InfoNCE times 2 T, summed over exemplars; batch statistics are those of one exemplar a picture."""
        with torch.no_grad():
            key = self.slow_projector(known)
        each = asked.unflatten(0, (-1, self.count)).unbind(1)
        said = [self.predictor(self.projector(part)) for part in each]
        apart = [in_batch_nce(query, key, self.temperature) for query in said]
        return 2 * self.temperature * torch.stack(apart).sum()

    def after_step(self, step: Step) -> None:
        momentum = cosine(step.index, step.total, self.momentum, 1.0)
        follow(self.teacher, self.encoder, momentum)
        if "contrast" in self.weights:
            follow(self.slow_projector, self.projector, momentum)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        context, exemplars, crops = self.puzzle(batch, step)
        said = self.decoder(self.tokens(self.teacher, context), self.tokens(self.encoder, exemplars))
        lit = said.softmax(1)[:: self.count, 1:]
        truth = covered(crops, self.context_size)[:: self.count, None]
        rows = [
            [Panel("the picture", a), Panel("where is this?", b, "asked"),
             Panel("where it is said to be", a * (0.2 + 0.8 * c), "answer"),
             Panel("where it was", a * (0.2 + 0.8 * d), "truth")]
            for a, b, c, d in zip(context, exemplars[:: self.count], lit, truth, strict=True)
        ]  # fmt: skip
        return Sheet("Correlational image modeling", "Where in the picture was this crop?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Every context as likely as any other. Maps start far off: the official head is drawn from N(0, 1)."""
        if "contrast" not in self.weights:
            return {}
        return {"contrast": 2 * self.temperature * self.count * log(batch_size)}


def overlap(said: Bool[Tensor, "crops h w"], truth: Bool[Tensor, "crops h w"]) -> Float[Tensor, "crops"]:
    """Intersection over union of two maps; 1 where both are empty."""
    said, truth = said.flatten(1), truth.flatten(1)
    union = (said | truth).sum(1)
    return torch.where(union > 0, (said & truth).sum(1) / union.clamp(min=1), 1.0)
