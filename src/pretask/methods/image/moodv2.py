"""MOODv2's pretext: which word stands at each hidden patch? (Li et al., TPAMI 2024, on BEiT v2)

Blocks of patches are replaced by a mask token; a frozen codebook names what was there; cross-entropy over
all hidden patches of the batch. What it is for is judged by `pretask evaluate RUN --protocol ood`. That shows the
middle square of each picture, normalised as in training; the paper's benchmark squashes whole pictures to a square
(`--read fit=squash`), and normalises them by 0.5 and 0.5 for every backbone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.beit import small_, start_as_beit
from pretask.encoders.codebook import Codebook
from pretask.encoders.drop_path import droppable, dropping_some
from pretask.encoders.image import PatchEncoder
from pretask.encoders.teachers import load_teacher
from pretask.errors import DataError, UsageError
from pretask.objectives.distributed import gather, mean
from pretask.objectives.reconstruction import painted, patchify
from pretask.pretexts.masks import covered_first, draw_blocks, take
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

SMALL_IMAGE = 64  # pixels; up to here 512 words do
SEEN_PER_WORD = 64  # patches the codebook is found on


class MOODv2(PretextTask):
    """Masked image modelling with words: the encoder sees all places, blocks of them covered by a token.

    BEiT v2's words are those of a tokenizer taught by CLIP. Here they are found by k-means among the
    training pictures' patches, in the features of a teacher (of length 1, as BEiT v2 compares them) or in
    their own pixels; the picture they name is the student's own crop. MOODv2 reads off the mean of the
    patches after the last norm: `vit_...:global_pool=avg,fc_norm=false`, `beit_...:use_fc_norm=false`, or of
    networks that norm each place last `--pool avg`. (A `beit_...` as it is norms the mean, as MOOD reads it.)

    Args:
        encoder: a vision transformer; `beit_base_patch16_224` has the paper's relative positions. Unless
            it is pretrained it starts as BEiT does.
        teacher: whose features the words are found in: `pixels` are the patches themselves, otherwise a
            frozen encoder (a run folder, `timm:NAME`, `open_clip:MODEL@WEIGHTS`, `transformers:NAME`).
        words: size of the codebook; none takes 8192, and 512 for pictures of at most 64 pixels.
        mask_ratio: share of the patches that is covered at most (75 of 196).
        crop_scale: area of the random crop, as a share of the picture's.
        jitter: strength of the change of brightness, contrast and saturation; 0 leaves colours alone.
        drop_path: share of samples for which the last block is skipped, less for those before.
    """

    encoder: PatchEncoder
    looks: Float[Tensor, "words values"]
    recipe = Recipe(
        "adamw", lr=1.5e-3, lr_batch=2048, batch_size=2048, epochs=1600, weight_decay=0.05,
        betas=(0.9, 0.999), warmup=10 / 1600, warmup_arrives=True, final_lr=1e-5 / 1.5e-3, clip=3.0,
        undecayed=("cls_token", "pos_embed"),
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        teacher: str = "pixels",
        words: int | None = None,
        mask_ratio: float = 0.3827,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        jitter: float = 0.4,
        drop_path: float = 0.1,
    ):
        super().__init__(encoder)
        self.drop_path = drop_path
        droppable(encoder)
        self.num_hidden = int(encoder.num_patches * mask_ratio)
        if not 0 < self.num_hidden < encoder.num_patches:
            raise UsageError(
                f"mask_ratio {mask_ratio} covers {self.num_hidden} of {encoder.num_patches} patches; "
                "some must be covered and some not"
            )
        self.view = ViewSpec(
            encoder.image_size, crop_scale, flip=0.5, jitter=float(jitter > 0), brightness=jitter,
            contrast=jitter, saturation=jitter, interpolation="bicubic", colours_first=True,
        )  # fmt: skip
        words = words or (512 if encoder.image_size <= SMALL_IMAGE else 8192)
        values = encoder.patch_size**2 * encoder.in_chans
        self.teacher = None if teacher == "pixels" else load_teacher(teacher, encoder.grid, encoder.in_chans)
        self.codebook = Codebook(words, values if self.teacher is None else self.teacher.dim)
        self.register_buffer("looks", torch.zeros(words, values))  # the mean patch that each word stands for
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.dim))
        self.head = nn.Linear(encoder.dim, words)
        small_(self.mask_token)
        small_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if not encoder.pretrained:
            start_as_beit(encoder)

    def crop(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "batch chans h w"]:
        image = require(batch, "image", 4)
        return apply_view(self.view, image, draw_view(self.view, len(image), generator, batch.get("size")))

    @torch.no_grad()
    def describe(self, view: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch patches features"]:
        """What words are found in: a teacher's features of each patch, or its pixels."""
        if self.teacher is None:
            return patchify(self.encoder.normalise(view), self.encoder.patch_size)
        return F.normalize(self.teacher(view).tokens.float(), dim=2)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Find the words among patches of crops as in training, 64 for each word; see what they look like.

        Raises:
            DataError: there are fewer patches than words.
        """
        device, enough = self.mask_token.device, SEEN_PER_WORD * len(self.looks)
        generator = Step.at(device=device).generator
        seen: list[Tensor] = []
        pixels: list[Tensor] = []
        count = 0
        for batch in batches:
            here: Batch = {key: batch[key].to(device) for key in ("image", "size") if key in batch}
            view = self.crop(here, generator)
            seen.append(gather(self.describe(view)).flatten(0, 1))
            pixels.append(gather(patchify(view, self.encoder.patch_size)).flatten(0, 1))
            count += len(seen[-1])
            if count >= enough:
                break
        if not seen:
            raise DataError("there are no pictures to find words in")
        vectors = torch.cat(seen)
        self.codebook.fit(vectors)
        for found in (self.codebook.centres, self.codebook.share):  # rounding must not part the processes
            found.copy_(gather(found)[: len(found)])
        word = self.codebook(vectors)
        total = torch.zeros_like(self.looks).index_add_(0, word, torch.cat(pixels).to(self.looks))
        self.looks.copy_(total / torch.bincount(word, minlength=len(total)).clamp(min=1)[:, None])

    def puzzle(self, batch: Batch, step: Step) -> tuple[Tensor, Bool[Tensor, "batch patches"], Tensor]:
        """A crop, which of its patches are covered, and the word of each."""
        self.codebook.check()
        view = self.crop(batch, step.generator)
        hidden = draw_blocks(self.encoder.grid, self.num_hidden, len(view), step.generator).to(view.device)
        return view, hidden, self.codebook(self.describe(view))

    def answer(
        self,
        view: Tensor,
        hidden: Bool[Tensor, "batch patches"],
        places: Int[Tensor, "batch places"],
        step: Step,
    ) -> Float[Tensor, "batch places words"]:
        """Logits of the words at some places of the covered picture."""
        rate = self.drop_path if self.training else 0.0
        with dropping_some(self.encoder, len(view), rate, step.generator):
            tokens = self.encoder(view, hidden=hidden, mask_token=self.mask_token).tokens
        return self.head(self.encoder.model.fc_norm(take(tokens, places)))  # the last norm, wherever it is

    def loss(self, batch: Batch, step: Step) -> Losses:
        view, hidden, word = self.puzzle(batch, step)
        places = covered_first(hidden, self.num_hidden)
        counted, asked = hidden.gather(1, places).float(), word.gather(1, places)
        logits = self.answer(view, hidden, places, step).float()
        surprise = F.cross_entropy(logits.transpose(1, 2), asked, reduction="none")
        # over the batch, not picture by picture: pictures hide unequally many
        whole = mean(counted.sum()).clamp(min=1)
        step.metrics["accuracy"] = ((logits.argmax(2) == asked) * counted).sum() / counted.sum()
        return {"words": (surprise * counted).sum() / whole}

    def cover(
        self,
        view: Tensor,
        hidden: Bool[Tensor, "batch patches"],
        filling: Float[Tensor, "batch patches values"],
    ) -> Float[Tensor, "batch chans h w"]:
        return painted(view, hidden, filling, self.encoder.patch_size, self.encoder.grid)

    def question(self, batch: Batch, step: Step) -> Question:
        """The word at the first covered patch."""
        view, hidden, word = self.puzzle(batch, step)
        shown = self.cover(view, hidden, view.new_zeros(1, 1, self.looks.shape[1]))
        first = hidden.byte().argmax(1, keepdim=True)
        return Question(shown, torch.arange(len(view), device=view.device), word.gather(1, first).squeeze(1))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        view, hidden, word = self.puzzle(batch, step)
        everywhere = torch.arange(hidden.shape[1], device=view.device).expand(len(view), -1)
        said = self.answer(view, hidden, everywhere, step).argmax(2)
        blank = self.cover(view, hidden, view.new_full((1, 1, self.looks.shape[1]), 0.5))
        answer, truth = (self.cover(view, hidden, self.looks[part]) for part in (said, word))
        rows = [
            [Panel("what it sees", a), Panel("its words, as they look", b, "answer"),
             Panel("the true words", c, "truth"), Panel("the picture", d)]
            for a, b, c, d in zip(blank, answer, truth, view, strict=True)
        ]  # fmt: skip
        return Sheet("MOODv2", "Which word of the codebook stands at each covered patch?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """The entropy of the words among the training patches: the best answer that does not look."""
        return {"words": self.codebook.surprise} if self.codebook.share.any() else {}
