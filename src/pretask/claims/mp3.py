"""MP3: placing patches that know no place teaches, and more where few may be asked (Zhai et al., ICML 2022)."""

from torch import Tensor

from pretask.methods.image.mp3 import MP3
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step


def placed(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Of each picture the share of its patches that are put where they belong."""
    task = trained.task
    if not isinstance(task, MP3):
        return {}
    logits = task.answers(task.puzzle(bench.test.batch(range(len(bench.test))), Step.at()))
    truth = logits.new_tensor(range(logits.shape[1]))
    return {"placed": (logits.argmax(-1) == truth).double().mean(1)}


CLAIM = Claim(
    statement="Saying where each patch belongs teaches features; where fewer patches may be asked it is harder, "
    "and teaches no less.",
    arms={
        "mp3": Arm("mp3"),
        "a quarter may be asked": Arm("mp3", {"mask_ratio": 0.75}),
        "all may be asked": Arm("mp3", {"mask_ratio": 0.0}),
        "random": Arm("mp3", steps=0),
    },
    comparisons=(
        Comparison("linear", "mp3", "random"),
        Comparison("placed", "mp3", "all may be asked", "lower"),
        Comparison("linear", "mp3", "all may be asked", margin=-0.02),
    ),
    metrics=("linear", placed),
    encoder="vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4,class_token=false,global_pool=avg,fc_norm=false",
    steps=400,
    batch_size=64,
    lr=1e-3,
)
