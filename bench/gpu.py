"""Whole training steps on a GPU: images a second, share of the peak, memory, beside what peers do.

Ours takes pictures as they are read (uint8, on a larger canvas) and augments them on the device; peers are
given pictures that were augmented before, so that their numbers are what they could at best reach.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, PatchEmbed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.harness import Row, alternate, installed, write
from pretask import Step, build_encoder, build_task
from pretask.pretexts.views import apply_view, draw_view

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, by the makers' data sheets."""


@dataclass(frozen=True)
class Scale:
    """How large everything is: that of the papers, or a toy's to show that it runs."""

    side: int
    batch: int
    small_batch: int
    vit: str
    resnet: str
    rounds: int
    compile: bool


FULL = Scale(224, 256, 64, "vit_base_patch16_224", "resnet50", 5, True)
TOY = Scale(32, 4, 4, "vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2", "resnet10t", 1, False)


class OfficialMAE(nn.Module):
    """MAE's published way through the network, rebuilt from timm's blocks: all tokens through the decoder,
    the loss over all patches and masked afterwards."""

    def __init__(self, side: int, patch: int, dim: int, depth: int, heads: int, decoder: tuple[int, int]):
        super().__init__()
        self.patch = patch
        self.embed = PatchEmbed(side, patch, 3, dim)
        count = self.embed.num_patches
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, count + 1, dim) * 0.02, requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        wide, deep = decoder
        self.decoder_embed = nn.Linear(dim, wide)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, wide))
        self.decoder_position = nn.Parameter(torch.randn(1, count + 1, wide) * 0.02, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(wide, wide // 32, qkv_bias=True) for _ in range(deep))
        self.decoder_norm, self.predict = nn.LayerNorm(wide), nn.Linear(wide, patch * patch * 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image) + self.position[:, 1:]
        batch, count, dim = x.shape
        kept = count // 4
        order = torch.rand(batch, count, device=x.device).argsort(1)
        restore = order.argsort(1)
        x = x.gather(1, order[:, :kept, None].expand(-1, -1, dim))
        x = torch.cat([(self.cls + self.position[:, :1]).expand(batch, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        filled = torch.cat([x[:, 1:], self.mask_token.expand(batch, count - kept, -1).to(x.dtype)], 1)
        filled = filled.gather(1, restore[..., None].expand(-1, -1, filled.shape[2]))
        x = torch.cat([x[:, :1], filled], 1) + self.decoder_position
        for block in self.decoder_blocks:
            x = block(x)
        answer = self.predict(self.decoder_norm(x))[:, 1:]
        p, side = self.patch, image.shape[-1] // self.patch
        target = image.reshape(batch, 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1).reshape(batch, count, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = (restore >= kept).float()
        return ((answer - target).square().mean(-1) * hidden).sum() / hidden.sum()


def step_of(module: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Callable[[], None]:
    """A training step: bfloat16 forward, backward, AdamW."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=device.type == "cuda")

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()

    return step


def our_step(
    slug: str,
    encoder: nn.Module,
    scale: Scale,
    batch: dict[str, Tensor],
    device: torch.device,
    **options: Any,
):
    task = build_task(slug, encoder, options).to(device).train()
    if scale.compile:
        task.compile()
    counter = [0]

    def loss() -> Tensor:
        counter[0] += 1
        return task.total(task(batch, Step.at(counter[0], 10_000, 100, 0, device)))

    return task, step_of(task, loss, device)


def operations(step: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def pictures(scale: Scale, count: int, device: torch.device) -> dict[str, Tensor]:
    """Pictures as a reader gives them: bytes on a canvas 9/7 of the input."""
    canvas = round(scale.side * 9 / 7 / 4) * 4
    image = torch.randint(256, (count, 3, canvas, canvas), dtype=torch.uint8, device=device)
    size = torch.tensor([[375, 500]], device=device).expand(count, 2)
    return {"image": image, "size": size, "index": torch.arange(count, device=device)}


def measured(
    name: str, runs: dict[str, Callable[[], None]], images: int, flops: float, rounds: int,
    device: torch.device, versions: dict[str, str], note: str = "",
) -> list[Row]:  # fmt: skip
    """Images a second of all, and of ours the share of the peak and the memory."""
    memory = {}
    for run_name, run in runs.items():
        run(), run()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            run()
            torch.cuda.synchronize()
            memory[run_name] = torch.cuda.max_memory_allocated()
    taken = alternate(runs, rounds, 1.0 if device.type == "cuda" else 0.01)
    rates = {run: images / statistics.median(values) for run, values in taken.items()}
    rows = []
    for peer in [run for run in runs if run != "ours"] or [""]:
        rate = rates.get(peer)
        rows.append(Row(
            f"{name}: images/s", rates["ours"], rate, peer, versions.get(peer, ""),
            None if rate is None else rates["ours"] / rate, unit="images/s", note=note,
        ))  # fmt: skip
    if device.type == "cuda":
        peak = next((p for key, p in PEAKS.items() if key in torch.cuda.get_device_name()), None)
        if peak and flops:
            used = flops / statistics.median(taken["ours"]) / peak
            rows.append(Row(f"{name}: share of the peak", used, None, unit="of 989 TFLOP/s", target=0.5))
        rows.append(Row(f"{name}: peak memory", memory["ours"] / 2**30, None, unit="GiB"))
    return rows


def mae(scale: Scale, device: torch.device) -> list[Row]:
    batch = pictures(scale, scale.batch, device)
    encoder = build_encoder(scale.vit, image_size=scale.side, seed=0)
    full = scale is FULL
    task, ours = our_step("mae", encoder, scale, batch, device)
    heads, depth = encoder.blocks[0].attn.num_heads, len(encoder.blocks)
    decoder = (512, 8) if full else (32, 2)
    peer = OfficialMAE(scale.side, encoder.patch_size, encoder.dim, depth, heads, decoder).to(device)
    if scale.compile:
        peer.compile()
    ready = torch.rand(scale.batch, 3, scale.side, scale.side, device=device)
    plain, _ = our_step("mae", build_encoder(scale.vit, image_size=scale.side, seed=0), TOY, batch, device)
    counted = operations(
        step_of(plain, lambda: plain.total(plain.loss(batch, Step.at(0, 1, 1, 0, device))), device)
    )
    runs = {"ours": ours, "the official path from timm": step_of(peer, lambda: peer(ready), device)}
    return measured(
        "MAE", runs, scale.batch, counted, scale.rounds, device,
        {"the official path from timm": installed("timm")}, "ours includes augmentation",
    )  # fmt: skip


def simclr(scale: Scale, device: torch.device) -> list[Row]:
    import torchvision

    batch = pictures(scale, scale.batch, device)
    encoder = build_encoder(scale.resnet, image_size=scale.side, seed=0)
    _, ours = our_step("simclr", encoder, scale, batch, device)
    backbone = torchvision.models.resnet50() if scale is FULL else torchvision.models.resnet18()
    width = backbone.fc.in_features
    backbone.fc = nn.Identity()
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))
    peer = nn.Sequential(backbone, head).to(device)
    views = [torch.rand(scale.batch, 3, scale.side, scale.side, device=device) for _ in range(2)]
    try:
        from lightly.loss import NTXentLoss

        criterion, name = NTXentLoss(0.1), "lightly's example"
    except ImportError:

        def criterion(a: Tensor, b: Tensor) -> Tensor:
            z = F.normalize(torch.cat([a, b]).float(), dim=1)
            logits = (z @ z.T / 0.1).fill_diagonal_(-torch.inf)
            return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(a)))

        name = "plain torch"
    runs = {"ours": ours, name: step_of(peer, lambda: criterion(peer(views[0]), peer(views[1])), device)}
    return measured(
        "SimCLR", runs, scale.batch, 0.0, scale.rounds, device, {name: installed("lightly")},
        "ours includes augmentation",
    )  # fmt: skip


def ibot(scale: Scale, device: torch.device) -> list[Row]:
    batch = pictures(scale, scale.small_batch, device)
    encoder = build_encoder(scale.vit, image_size=scale.side, seed=0)
    _, ours = our_step("ibot", encoder, scale, batch, device)
    plain, _ = our_step("ibot", build_encoder(scale.vit, image_size=scale.side, seed=0), TOY, batch, device)
    counted = operations(
        step_of(plain, lambda: plain.total(plain.loss(batch, Step.at(0, 1, 1, 0, device))), device)
    )
    return measured("iBOT 2+8 crops", {"ours": ours}, scale.small_batch, counted, scale.rounds, device, {})


def augmentation(scale: Scale, device: torch.device) -> list[Row]:
    """Both views of a batch, drawn and applied: seconds, beside one read and write of the batch."""
    from pretask.pretexts.views import simclr_views

    batch, spec = pictures(scale, scale.batch, device), simclr_views(scale.side)
    counter = [0]

    def draw_and_apply() -> None:
        counter[0] += 1
        step = Step.at(counter[0], device=device)
        for _ in range(2):
            apply_view(spec, batch["image"], draw_view(spec, scale.batch, step.generator, batch["size"]))

    compiled_apply = torch.compile(apply_view) if scale.compile else apply_view

    def compiled() -> None:
        counter[0] += 1
        step = Step.at(counter[0], device=device)
        for _ in range(2):
            compiled_apply(spec, batch["image"], draw_view(spec, scale.batch, step.generator, batch["size"]))

    runs = {"eager": draw_and_apply, "compiled": compiled}
    taken = alternate(runs, scale.rounds, 0.5 if device.type == "cuda" else 0.01)
    return [
        Row(f"two views of {scale.batch} pictures, {name}", statistics.median(values), None, unit="s")
        for name, values in taken.items()
    ]


CASES = {"augmentation": augmentation, "mae": mae, "simclr": simclr, "ibot": ibot}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--toy", action="store_true", help="toy sizes: only shows that it runs")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    rows: list[Row] = []
    for name in chosen.cases or CASES:
        try:
            rows += CASES[name](TOY if chosen.toy or device.type == "cpu" else FULL, device)
        except torch.cuda.OutOfMemoryError as error:
            print(f"{name}: {error}", flush=True)
        if device.type == "cuda":
            write("gpu", rows)
            torch.cuda.empty_cache()
            torch._dynamo.reset()
    if device.type == "cpu":
        print("no GPU: toy sizes ran through, nothing is kept")


if __name__ == "__main__":
    main()
