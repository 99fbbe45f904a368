"""MOOD: masked image modelling makes the features by which strangers are told (Li et al., CVPR 2023).

The pretext is BEiT's, as in MOODv2 with MOOD's own optimisation; what is new is how it is judged: by the distance
of features of length 1 from one Gaussian over all that is known, labels or not. `pretask evaluate RUN --protocol
ood` and `--protocol one-class` print it as `one-gaussian`, beside the scores it is compared with, and judge these
as the official code does. The discrete tokenizer is a k-means codebook here. What is known is seen as tests are,
where the official code learns its Gaussian from augmented pictures. The rate does not depend on the batch, of 64
pictures on each of some GPUs there.
"""

from dataclasses import replace

from pretask.encoders.beit import see_symmetrically
from pretask.encoders.image import PatchEncoder
from pretask.methods.image.moodv2 import MOODv2
from pretask.recipe import Recipe
from pretask.task import Batch, Sheet, Step


class MOOD(MOODv2):
    """Masked image modelling with words: the encoder sees all places, blocks of them covered by a token.

    The features it is judged by are the last norm of the patches' mean: those of `vit_...:global_pool=avg` and of
    `beit_...` as they are.

    Args:
        encoder: a vision transformer; `beit_base_patch16_224` has the paper's relative positions. Unless
            it is pretrained it starts as BEiT does, and sees pictures in [-1, 1].
        teacher: whose features the words are found in: `pixels` are the patches themselves, otherwise a
            frozen encoder (a run folder, `timm:NAME`, `open_clip:MODEL@WEIGHTS`, `transformers:NAME`).
        words: size of the codebook; none takes 8192, and 512 for pictures of at most 64 pixels.
        mask_ratio: share of the patches that is covered at most (75 of 196).
        crop_scale: area of the random crop, as a share of the picture's.
        jitter: strength of the change of brightness, contrast and saturation; 0 leaves colours alone.
        drop_path: share of samples for which the last block is skipped, less for those before.
    """

    recipe = Recipe(
        "adamw", lr=5e-4, lr_batch=0, batch_size=256, epochs=300, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=5 / 300, warmup_arrives=True, final_lr=1e-5 / 5e-4, undecayed=("cls_token", "pos_embed"),
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
        return replace(super().preview(batch, step), title="MOOD")
