"""CRATE-MAE: layer by layer features are compressed and made sparse, and they serve (Pai et al., 2024)."""

from typing import Any

import torch
from torch import Tensor

from pretask.encoders.crate import Crate
from pretask.objectives.coding_rate import subspace_rate
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained

CRATE = "vit_crate_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4"
SEEN = 256  # pictures


def layers(trained: Trained, bench: Bench) -> dict[str, float]:
    """From the first to the last layer: the change of the coding rate in the subspaces, of the share of zeros."""
    encoder: Any = trained.encoder
    if not isinstance(encoder.model, Crate):
        return {}
    x, _ = encoder.embed(bench.test.batch(range(min(SEEN, len(bench.test))))["image"].float() / 255)
    rates, zeros = [], []
    block: Any
    for block in encoder.model.blocks:
        rates.append(float(subspace_rate(block.attn.project(block.norm1(x)))))
        x = block(x)
        zeros.append(float((x == 0).double().mean()))
    return {"compression": rates[0] - rates[-1], "sparsity": zeros[-1] - zeros[0]}


def weights(trained: Trained, bench: Bench) -> dict[str, float]:
    task = trained.task
    return {} if task is None else {"parameters": float(sum(torch.numel(p) for p in task.parameters()))}


def error(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    from pretask.claims.mae import excess

    return excess(trained, bench)


CLAIM = Claim(
    statement="A white-box masked autoencoder learns features with less than half of an ordinary one's "
    "parameters; from its first layer to its last they become more compressed and sparser.",
    arms={
        "crate": Arm("crate-mae", {"normalise_target": True}),
        "mae": Arm("mae", {"decoder_dim": 128, "decoder_depth": 4}, encoder=CRATE.replace("crate_", "")),
        "random": Arm("crate-mae", steps=0),
    },
    comparisons=(
        Comparison("linear", "crate", "random"),
        Comparison("compression", "crate"),
        Comparison("sparsity", "crate"),
        Comparison("parameters", "crate", "mae", "lower"),
        Comparison("excess error", "crate", claimed="lower"),
    ),
    metrics=("linear", layers, weights, error),
    encoder=CRATE,
    steps=600,
    batch_size=64,
    lr=1e-3,
)
