"""Two gloo processes with 8 samples each give the loss and the gradients of one with all 16."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pretask.encoders import build_encoder
from pretask.encoders.heads import mlp
from pretask.methods.image.cler import CLER
from pretask.methods.image.dino import DINO
from pretask.methods.image.ibot import IBOT
from pretask.methods.image.pirl import PIRL
from pretask.objectives.contrastive import (
    bank_cross_entropy,
    bank_nce,
    bank_probability,
    info_nce,
    multi_positive,
    nt_xent,
)
from pretask.objectives.cookbook import cmc, corinfomax, emp_ssl, msn, power_law, spectral_contrastive
from pretask.objectives.cookbook_clusters import bag_of_words, obow, prototype_nce, sela
from pretask.objectives.distillation import Centre, sharpen, soft_cross_entropy, view_loss
from pretask.objectives.distributed import SyncBatchNorm, gather, mean, rank, sync_batch_norm, world_size
from pretask.objectives.memory import MemoryBank, Partition, Queue
from pretask.task import Step

TOTAL, WORLD = 16, 2

# Of the joined batch's rows that are this process's: the module that learns, its loss, and what is done after
# the backward pass with the tensors that must agree then.
After = Callable[[], dict[str, Tensor]]
Case = Callable[[slice], tuple[nn.Module, Tensor, After]]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear() -> nn.Linear:
    layer = nn.Linear(6, 5, bias=False).double()
    layer.weight.data = numbers(5, 6, seed=99)
    return layer


def two_views(own: slice) -> tuple[nn.Linear, Tensor, Tensor]:
    net = linear()
    return net, net(numbers(TOTAL, 6)[own]), net(numbers(TOTAL, 6, seed=1)[own])


def ntxent(own: slice):
    net, a, b = two_views(own)
    return net, nt_xent(a, b, 0.3), dict


def moco(own: slice):
    net, a, b = two_views(own)
    queue = Queue(24, 5).double()
    loss = info_nce(a, b, queue.rows, 0.2)
    queue.enqueue(F.normalize(b, dim=1))  # as MoCo does, before the backward pass
    return net, loss, lambda: {"queue": queue.rows, "position": queue.position}


def spectral(own: slice):
    net, a, b = two_views(own)
    return net, spectral_contrastive(a, b), dict


def siamese(own: slice):
    net, a, b = two_views(own)
    net.prototypes = nn.Parameter(numbers(7, 5, seed=5))
    return net, msn(torch.cat([a, b]), a.detach(), net.prototypes, prior=power_law(7)), dict


def two_memories(own: slice):
    net, a, b = two_views(own)
    index = torch.arange(TOTAL)[own]
    banks = MemoryBank(16, 5, seed=1).double(), MemoryBank(16, 5, seed=2).double()
    partitions = Partition(16).double(), Partition(16).double()
    loss = cmc((a, b), banks[0].draw(index, 7, Step.at(3).generator), banks, partitions, 0.3)
    return net, loss, lambda: {str(n): z.value for n, z in enumerate(partitions)}


def volume(own: slice):
    net, a, b = two_views(own)
    loss, means, covariances = corinfomax(a, b, torch.zeros(2, 5), torch.eye(5).repeat(2, 1, 1))
    return net, loss, lambda: {"means": means, "covariances": covariances}


def patches(own: slice):
    net, a, b = two_views(own)
    return net, emp_ssl(torch.stack([a, b, a + b])), dict


def labels(own: slice):
    net, a, _ = two_views(own)
    said = a.log_softmax(1)
    code = sela(said.detach())
    loss = -(code * said).sum(1).mean()
    return net, loss, lambda: {"columns": mean(code.mean(0))}


def prototypes(own: slice):
    net, a, _ = two_views(own)
    phi, others = torch.linspace(0.1, 0.3, 7, dtype=torch.float64), torch.tensor([3, 4, 6])
    return net, prototype_nce(a, torch.arange(TOTAL)[own] % 3, numbers(7, 5, seed=5), phi, others), dict


def words(own: slice):
    net, a, b = two_views(own)
    torch.manual_seed(0)
    net.generator, vocabulary = mlp(4, 8, 5, batch_norm=True).double(), numbers(9, 4, seed=5)
    bag, distance = bag_of_words(numbers(TOTAL, 3, 4, seed=6)[own], vocabulary, torch.tensor(0.5))
    return net, obow(torch.cat([a, b]), bag, vocabulary, net.generator), lambda: {"distance": distance}


def supcon(where: str) -> Case:
    def case(own: slice):
        net, a, b = two_views(own)
        group = torch.arange(TOTAL)[own] % 5
        return net, multi_positive(torch.cat([a, b]), group.repeat(2), 0.3, where), dict

    return case


def bank(form: str) -> Case:
    def case(own: slice):
        net, a, b = two_views(own)
        memory, z, step = MemoryBank(40, 5).double(), Partition(40).double(), Step.at(3)
        index = torch.arange(TOTAL)[own] * 2 % 33
        loss = 0
        for x in (a, b):
            logits = memory.scores(F.normalize(x, dim=1), memory.draw(index, 7, step.generator)) / 0.3
            if form == "nce":
                loss = loss + bank_nce(z(logits.exp()), 40)
            else:
                loss = loss + {"ce": bank_cross_entropy, "probability": bank_probability}[form](logits)

        def after():
            memory.update(index, F.normalize(b, dim=1))
            return {"rows": memory.rows, "z": z.value}

        return net, loss, after

    return case


def dino_loss(own: slice):
    net = linear()
    views = [net(numbers(TOTAL, 6, seed=seed)[own]) for seed in range(4)]
    centre = Centre(5).double()
    teacher = torch.cat([numbers(TOTAL, 5, seed=seed)[own] for seed in (7, 8)])
    centre.observe(teacher.mean(0))
    target = sharpen(teacher, centre.value, 0.04)
    loss = view_loss(torch.cat(views), target, len(teacher) // 2)
    centre.update()
    return net, loss, lambda: {"centre": centre.value}


def patch_loss(own: slice):
    net, a, b = two_views(own)
    return net, soft_cross_entropy(a, b.softmax(1), a.new_full((len(a),), 1 / len(a)), 0.1), dict


def batch_norm(own: slice):
    torch.manual_seed(0)
    net = sync_batch_norm(nn.Sequential(mlp(6, 7, 5, batch_norm=True, last_norm="plain")).double())
    out = net(numbers(TOTAL, 6)[own])
    loss = (out * numbers(TOTAL, 5, seed=1)[own]).sum(1).mean() + out.sin().mean()
    return net, loss, lambda: {"seen": torch.cat([x.flatten().double() for x in net.buffers()])}


def conv_norm(own: slice):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=None)).double()
    net = sync_batch_norm(net)
    out = net(numbers(TOTAL, 2, 5, 5)[own])
    return net, (out**3).mean(), lambda: {"mean": net[1].running_mean, "var": net[1].running_var}


def statistics(own: slice):  # the two building blocks: a loss of the joined batch's mean and spread
    net, a, _ = two_views(own)
    centred = a - mean(a.mean(0))
    joined = gather(a)
    return net, mean(centred.square().mean(0)).log().sum() + (a @ joined.T).sin().mean(), dict


def task(build: Callable[[nn.Module], nn.Module], encoder: str) -> Case:
    def case(own: slice):
        torch.manual_seed(0)
        method = build(build_encoder(encoder, image_size=32, seed=0))
        method.prepare([], TOTAL)
        method = sync_batch_norm(method)
        image = numbers(TOTAL, 3, 32, 32).sigmoid().float()
        step = Step.at(0, total=10)
        losses = method({"image": image[own], "index": torch.arange(TOTAL)[own]}, step)

        def after():
            method.after_step(step)
            return {n: value for n, value in method.named_buffers() if "centre" in n or "bank" in n}

        return method, method.total(losses), after

    return case


def stream(own: slice):
    """The second task of a stream of classes: some are masked, and what the processes saw is replayed."""
    torch.manual_seed(0)
    method = CLER(build_encoder(VIT, image_size=32, seed=0), "both", num_tasks=2, buffer_size=12)
    image, label = numbers(2 * TOTAL, 3, 32, 32).sigmoid().float(), torch.arange(2 * TOTAL) * 4 // (2 * TOTAL)
    batches = [{"image": image[rows][own], "label": label[rows][own]} for rows in torch.arange(32).split(TOTAL)]
    method.prepare(batches, 2 * TOTAL)
    step = Step.at(0, total=10)
    method.loss(batches[0], step)
    method.after_step(step)
    step = Step.at(1, total=10)
    losses = method.loss(batches[1], step)
    assert losses["replay"] > 0

    def after():
        method.after_step(step)
        return {name: value.double() for name, value in method.named_buffers()}

    return method, method.total(losses), after


VIT, RESNET = "vit_tiny_patch16_224:depth=2,embed_dim=24,num_heads=2", "resnet18"
CASES: dict[str, tuple[Case, float]] = {
    "nt_xent": (ntxent, 1e-10),
    "info_nce": (moco, 1e-10),
    "spectral contrastive": (spectral, 1e-10),
    "msn": (siamese, 1e-10),
    "cmc": (two_memories, 1e-10),
    "corinfomax": (volume, 1e-10),
    "emp": (patches, 1e-10),
    "sela": (labels, 1e-10),
    "prototype nce": (prototypes, 1e-10),
    "obow": (words, 1e-10),
    "multi_positive outside": (supcon("outside"), 1e-10),
    "multi_positive inside": (supcon("inside"), 1e-10),
    "bank nce": (bank("nce"), 1e-10),
    "bank cross-entropy": (bank("ce"), 1e-10),
    "bank probability": (bank("probability"), 1e-10),
    "dino": (dino_loss, 1e-10),
    "patch": (patch_loss, 1e-10),
    "batch norm": (batch_norm, 1e-10),
    "conv norm": (conv_norm, 1e-10),
    "mean and gather": (statistics, 1e-10),
    "DINO": (task(lambda e: DINO(e, prototypes=32, num_local=2), VIT), 1e-4),
    "IBOT": (task(lambda e: IBOT(e, prototypes=32, num_local=2), VIT), 1e-4),
    "PIRL": (task(lambda e: PIRL(e, "both", loss="nce", num_negatives=5), VIT), 1e-4),
    "PIRL with batch norm": (task(PIRL, RESNET), 2e-3),
    "CLER's stream": (stream, 1e-4),
}


def measure(name: str, own: slice) -> dict[str, Tensor]:
    """Loss, gradients and memories, the first two averaged over processes as DDP does."""
    module, loss, after = CASES[name][0](own)
    names, parameters = zip(*((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = {"loss": loss} | {n: g for n, g in zip(names, grads, strict=True) if g is not None}
    found = {key: value.detach().clone() for key, value in found.items()}
    if dist.is_initialized():
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    after = {f"after {key}": value.detach().clone().contiguous() for key, value in after().items()}
    return {f"{name}/{key}": value.contiguous() for key, value in (found | after).items()}


def worker(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=process, world_size=WORLD)
    share = TOTAL // WORLD
    found: dict[str, Tensor] = {}
    for name in CASES:
        found |= measure(name, slice(process * share, (process + 1) * share))
    save_file(found, f"{folder}/{process}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [load_file(folder / f"{process}.safetensors") for process in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name, two_processes):
    alone = measure(name, slice(0, TOTAL))
    assert any(key.count("/") and "after" not in key and not key.endswith("/loss") for key in alone)
    for process in two_processes:
        assert {key for key in process if key.startswith(f"{name}/")} == set(alone)
        for key, expected in alone.items():
            tolerance = CASES[name][1]
            scale = max(expected.abs().max().item(), 1e-3) if expected.numel() else 1.0
            difference = (process[key] - expected).abs().max().item()
            assert difference <= tolerance * scale, f"{key}: {difference} of {scale}"


def test_alone_nothing_is_gathered():
    x = torch.ones(2, 3)
    assert gather(x) is x and mean(x) is x and world_size() == 1 and rank() == 0


@pytest.mark.parametrize("training", [True, False])
def test_alone_a_synced_norm_is_the_old_one(training):
    def model():  # timm's norm with an activation in it
        return build_encoder("resnet10t", image_size=32, seed=0).train(training)

    old, new = model(), sync_batch_norm(model())
    assert any(isinstance(m, SyncBatchNorm) for m in new.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in new.modules())
    assert list(old.state_dict()) == list(new.state_dict())
    image = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(old(image).pooled, new(image).pooled)
    for a, b in zip(old.buffers(), new.buffers(), strict=True):
        torch.testing.assert_close(a, b)
