"""A training step of MAE (ViT-Ti/16, 224 pixels, batch 16, a decoder of one block of 512) beside the peers',
and beside the time that its counted operations would take at the rate of a matrix product.

Ours cuts its views from bytes inside the step; the peers are given pictures that are ready.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.harness import Row, against, alternate, find, same
from bench.pictures import cuts, tensors
from pretask import Step, build_encoder, build_task
from pretask.methods.image.mae import MAE

WIDTH, HEADS, BLOCKS = 512, 16, 1  # of the decoder
EQUAL = {"decoder_dim": WIDTH, "decoder_depth": BLOCKS}


class Sizes:
    """Those of the encoder."""

    def __init__(self, toy: bool):
        self.side, self.batch, self.depth = (32, 2, 1) if toy else (224, 16, 12)
        self.patch, self.dim, self.heads = (8, 192, 3) if toy else (16, 192, 3)
        self.name = f"vit_tiny_patch16_224:depth={self.depth}"


def training(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step: forward, backward, AdamW."""
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5)

    def step() -> None:
        value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()

    return step


def ours(sizes: Sizes, **options: int) -> tuple[MAE, Callable[[], Tensor]]:
    encoder = build_encoder(sizes.name, image_size=sizes.side, patch_size=sizes.patch, seed=0)
    task: Any = build_task("mae", encoder, options)
    canvas = round(sizes.side * 9 / 7 / 4) * 4
    batch = {
        "image": tensors(cuts(sizes.batch, canvas, canvas)),
        "size": torch.tensor([[375, 500]] * sizes.batch),
    }
    counter = iter(range(10**9))
    return task.train(), lambda: task.total(task(batch, Step.at(next(counter))))


def official(sizes: Sizes) -> nn.Module:
    """transformers' port of the official code."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    return ViTMAEForPreTraining(ViTMAEConfig(
        hidden_size=sizes.dim, num_hidden_layers=sizes.depth, num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.dim, image_size=sizes.side, patch_size=sizes.patch, norm_pix_loss=True,
        decoder_hidden_size=WIDTH, decoder_num_attention_heads=HEADS, decoder_num_hidden_layers=BLOCKS,
        decoder_intermediate_size=4 * WIDTH, layer_norm_eps=1e-6,
    ))  # fmt: skip


def renamed(task: MAE) -> dict[str, Tensor]:
    """Our weights under the names of transformers."""
    names = (
        (r"encoder\.model\.cls_token", "vit.embeddings.cls_token"),
        (r"encoder\.model\.pos_embed", "vit.embeddings.position_embeddings"),
        (r"encoder\.model\.patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
        (r"encoder\.model\.norm\.", "vit.layernorm."), (r"encoder\.model\.blocks", "vit.layers"),
        (r"decoder\.embed", "decoder.decoder_embed"), (r"decoder\.norm", "decoder.decoder_norm"),
        (r"decoder\.head", "decoder.decoder_pred"), (r"decoder\.blocks", "decoder.decoder_layers"),
        ("norm1", "layernorm_before"), ("norm2", "layernorm_after"), (r"attn\.proj", "attention.o_proj"),
    )  # fmt: skip
    found = {}
    for name, tensor in task.state_dict().items():
        for mine, theirs in names:
            name = re.sub(mine, theirs, name)
        if "attn.qkv" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("attn.qkv", f"attention.{part}_proj")] = piece
        else:
            found[name] = tensor
    return found


def agreement(sizes: Sizes) -> str:
    """That the official code gives our loss for our weights, pictures and masks; for a row's note."""
    task, _ = ours(sizes, **EQUAL)
    model = official(sizes)
    state = renamed(task) | {"decoder.decoder_pos_embed": F.pad(task.decoder.positions, (0, 0, 1, 0))[None]}
    model.load_state_dict(state)
    image, order = task.hide({"image": tensors(cuts(4, sizes.side, sizes.side))}, Step.at(1))
    target = task.target(
        task.patches(image).gather(1, order.hidden[..., None].expand(-1, -1, task.num_values))
    )
    loss = F.mse_loss(task.rebuild(image, order), target)
    noise = (order.restore >= order.visible.shape[1]).float()  # hidden patches come last
    return same(
        float(loss), {"transformers": float(model(task.encoder.normalise(image), noise=noise).loss)}, 1e-4
    )


def transformers(sizes: Sizes, image: Tensor) -> Callable[[], Callable[[], None]]:
    def make() -> Callable[[], None]:
        model = official(sizes).train()
        return training(model, lambda: model(image).loss)

    return make


def lightly(sizes: Sizes, image: Tensor) -> Callable[[], Callable[[], None]]:
    """Its example, with normalised targets."""

    def make() -> Callable[[], None]:
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            sizes.side,
            sizes.patch,
            embed_dim=sizes.dim,
            depth=sizes.depth,
            num_heads=sizes.heads,
            num_classes=0,
        )
        backbone = MaskedVisionTransformerTIMM(vit=vit)
        decoder = MAEDecoderTIMM(
            vit.patch_embed.num_patches, sizes.patch, embed_dim=sizes.dim, decoder_embed_dim=WIDTH,
            decoder_depth=BLOCKS, decoder_num_heads=HEADS,
        )  # fmt: skip

        def loss() -> Tensor:
            batch, length = len(image), backbone.sequence_length
            kept, hidden = utils.random_token_mask((batch, length), mask_ratio=0.75, device=image.device)
            encoded = decoder.embed(backbone.encode(images=image, idx_keep=kept))
            tokens = utils.repeat_token(decoder.mask_token, (batch, length))
            tokens = utils.set_at_index(tokens, kept, encoded.type_as(tokens))
            answer = decoder.predict(utils.get_at_index(decoder.decode(tokens), hidden))
            patches = utils.get_at_index(utils.patchify(image, sizes.patch), hidden - 1)
            return F.mse_loss(answer, utils.normalize_mean_var(patches, dim=-1))

        return training(nn.ModuleList([backbone, decoder]).train(), loss)

    return make


def stable_pretraining(sizes: Sizes, image: Tensor) -> Callable[[], Callable[[], None]]:
    def make() -> Callable[[], None]:
        from stable_pretraining.methods import MAE as Theirs
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            sizes.side,
            sizes.patch,
            embed_dim=sizes.dim,
            depth=sizes.depth,
            num_heads=sizes.heads,
            num_classes=0,
        )
        model = Theirs(vit, WIDTH, BLOCKS, HEADS).train()
        return training(model, lambda: model(image).loss)

    return make


def makers(toy: bool) -> dict[str, Callable[[], Callable[[], None]]]:
    """What makes a step of ours and of every peer."""
    sizes = Sizes(toy)
    image = torch.randn(sizes.batch, 3, sizes.side, sizes.side, generator=torch.Generator().manual_seed(0))
    return {
        "ours": lambda: training(*ours(sizes, **EQUAL)), "lightly": lightly(sizes, image),
        "transformers": transformers(sizes, image), "stable-pretraining": stable_pretraining(sizes, image),
    }  # fmt: skip


def operations(step: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def measure(toy: bool = False) -> list[Row]:
    runs, missing = find(makers(toy))
    side = 64 if toy else 1024
    square = torch.randn(side, side)
    besides = {"product": lambda: square @ square, "default": training(*ours(Sizes(toy)))}
    taken = alternate(runs | besides, 1 if toy else 5, 0.0 if toy else 1.0, 1)
    rate = 2 * side**3 / statistics.median(taken.pop("product"))
    needed, ours_default = operations(runs["ours"]) / rate, taken.pop("default")
    note = "; ".join(filter(None, (agreement(Sizes(toy)) if "transformers" in runs else "", missing)))
    name = "MAE step, ViT-Ti/16, 224 px, batch 16"
    mine, arithmetic = statistics.median(taken["ours"]), "counted operations as one matrix product"
    return [
        against(name, taken, {}, 0.9, note),
        against(f"{name}, our default decoder beside theirs of 512", {**taken, "ours": ours_default}, {}),
        Row(f"{name}: beside its arithmetic", mine, needed, arithmetic, "", mine / needed, 1.6),
    ]
