"""BEiT: which word stands at each covered patch? (Bao et al., ICLR 2022)

Its words are those of DALL-E's tokenizer, read at half the resolution; here a codebook of patches or of a teacher's
features stands in, as in MOODv2, from which this differs in its optimisation.
"""

from dataclasses import replace

from pretask.encoders.beit import see_symmetrically
from pretask.encoders.image import PatchEncoder
from pretask.methods.image.moodv2 import MOODv2
from pretask.recipe import Recipe
from pretask.task import Batch, Sheet, Step


class BEiT(MOODv2):
    """Masked image modelling with words: the encoder sees all places, blocks of them covered by a token.

    Args:
        encoder: a vision transformer; a `beit_...` has the paper's relative positions. Unless it is pretrained it
            starts as BEiT does, and sees pictures in [-1, 1].
        teacher: whose features the words are found in: `pixels` are the patches themselves, otherwise a
            frozen encoder (a run folder, `timm:NAME`, `open_clip:MODEL@WEIGHTS`, `transformers:NAME`).
        words: size of the codebook; none takes 8192, and 512 for pictures of at most 64 pixels.
        mask_ratio: share of the patches that blocks cover at most (75 of 196).
        crop_scale: area of the random crop, as a share of the picture's.
        jitter: strength of the change of brightness, contrast and saturation; 0 leaves colours alone.
        drop_path: share of samples for which the last block is skipped, less for those before.
    """

    recipe = Recipe(
        "adamw", lr=1.5e-3, lr_batch=2048, batch_size=2048, epochs=800, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=10 / 800, warmup_arrives=True, final_lr=1e-5 / 1.5e-3, clip=3.0,
        undecayed=("cls_token", "pos_embed"),
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        teacher: str = "pixels",
        words: int | None = None,
        mask_ratio: float = 0.3827,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        jitter: float = 0.4,
        drop_path: float = 0.1,
    ):
        super().__init__(encoder, teacher, words, mask_ratio, crop_scale, jitter, drop_path)
        if not encoder.pretrained:
            see_symmetrically(encoder)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="BEiT")
