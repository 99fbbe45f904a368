"""Optimisers from a recipe: LARS against loops, who decays, who learns at which rate."""

from math import sqrt

import pytest
import torch
from torch import nn

import tiny
from pretask import catalog
from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.recipe import Recipe
from pretask.registry import task_class
from pretask.training.optimisers import LARS, layer_scales, make_optimiser, set_rates
from pretask.training.plan import make_plan


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 3)


def made(recipe: Recipe, net: nn.Module, steps: int = 10, batch: int = 32):
    schedule = make_plan(recipe, 1000, batch_size=batch, max_steps=steps).schedule(recipe)
    return make_optimiser(net.named_parameters(), schedule, net.encoder), schedule


def norm(values) -> float:
    return sqrt(sum(float(v) ** 2 for v in values))


@pytest.mark.parametrize("adapt", [True, False])
def test_lars_against_loops(adapt):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    lr, momentum, decay, trust = 0.2, 0.9, 0.1, 1e-3
    parameter = nn.Parameter(weight.clone())
    group = {"params": [parameter], "adapt": adapt}
    optimiser = LARS([group], lr=lr, momentum=momentum, weight_decay=decay, trust=trust)
    w, m = weight.flatten().tolist(), [0.0] * 12
    for _ in range(4):
        gradient = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimiser.step()
        g = gradient.flatten().tolist()
        if adapt:
            g = [gi + decay * wi for gi, wi in zip(g, w, strict=True)]
            g = [gi * trust * norm(w) / norm(g) for gi in g]
        m = [momentum * mi + gi for mi, gi in zip(m, g, strict=True)]
        w = [wi - lr * mi for wi, mi in zip(w, m, strict=True)]
    torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(w, dtype=torch.float64))


def test_lars_starts_from_zero_weights_and_stands_still_without_a_gradient():
    parameter, idle = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimiser = LARS([parameter, idle], lr=1.0, momentum=0.0)
    parameter.grad = torch.ones(2, 2)
    optimiser.step()
    assert torch.equal(parameter.detach(), -torch.ones(2, 2))  # no ratio of norms to go by
    assert torch.equal(idle.detach(), torch.ones(2, 2))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_biases_and_norms_never_decay(name):
    net = Net()
    optimiser, schedule = made(Recipe(name, weight_decay=0.1, weight_decay_end=0.3), net)
    set_rates(optimiser, schedule, 5)
    decays = {n: g["weight_decay"] for g in optimiser.param_groups for n in g["names"]}
    expected = pytest.approx(schedule.weight_decay(5))
    assert decays == {
        "encoder.0.weight": expected, "encoder.0.bias": 0.0, "encoder.1.weight": 0.0, "encoder.1.bias": 0.0,
        "head.weight": expected, "head.bias": 0.0,
    }  # fmt: skip
    if name == "lars":
        assert all(g["adapt"] == (g["weight_decay"] > 0) for g in optimiser.param_groups)


def test_biases_and_norms_decay_and_are_adapted_where_a_recipe_says_so():
    net = Net()
    optimiser, schedule = made(Recipe("lars", weight_decay=0.1, decay_vectors=True), net)
    set_rates(optimiser, schedule, 0)
    (group,) = optimiser.param_groups
    assert group["weight_decay"] == 0.1 and group["adapt"] and len(group["params"]) == 6


def test_official_codes_without_groups_decay_all():
    slugs = ("moco", "simsiam", "swav", "deepcluster-v2", "simclr", "byol", "barlow-twins", "vicreg", "pirl")
    assert [task_class(slug).recipe.decay_vectors for slug in slugs] == [True] * 4 + [False] * 5


def test_what_a_recipe_names_does_not_decay():
    net = Net()
    net.register_parameter("pos_embed", nn.Parameter(torch.ones(1, 4, 2)))
    net.register_parameter("other", nn.Parameter(torch.ones(1, 4, 2)))
    optimiser, _ = made(Recipe(weight_decay=0.1, undecayed=("pos_embed",)), net)
    decays = {n for g in optimiser.param_groups for n in g["names"] if g["decays"]}
    assert decays == {"encoder.0.weight", "head.weight", "other"}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_step_is_torchs_own(name):
    """Decay, momentum and betas of the recipe arrive where they should."""
    recipe = Recipe(name, lr=0.05, lr_batch=0, weight_decay=0.1, momentum=0.8, betas=(0.7, 0.9), warmup=0.0)
    nets = [Net(), Net()]
    nets[1].load_state_dict(nets[0].state_dict())
    ours, schedule = made(recipe, nets[0])
    weights = [p for p in nets[1].parameters() if p.ndim > 1]
    rest = [p for p in nets[1].parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    theirs = {
        "adamw": lambda: torch.optim.AdamW(groups, betas=(0.7, 0.9)),
        "adam": lambda: torch.optim.Adam(groups, betas=(0.7, 0.9)),
        "sgd": lambda: torch.optim.SGD(groups, momentum=0.8),
    }[name]()
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    for index in range(5):
        for net, optimiser in zip(nets, (ours, theirs), strict=True):
            optimiser.zero_grad()
            net.head(net.encoder(x)).square().sum().backward()
        set_rates(ours, schedule, index)
        for group in theirs.param_groups:
            group["lr"] = 0.05 * schedule.shape(index)
        ours.step()
        theirs.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_groups_have_rates_of_their_own():
    net = Net()
    recipe = Recipe(lr=0.1, lr_batch=64, warmup=0.0, groups=(("head.weight", 0.2), ("head", 0.4)))
    optimiser, schedule = made(recipe, net, batch=32)
    set_rates(optimiser, schedule, 5)
    rates = {n: g["lr"] for g in optimiser.param_groups for n in g["names"]}
    half = schedule.shape(5) * 32 / 64
    assert rates["encoder.0.weight"] == pytest.approx(0.1 * half)
    assert rates["head.weight"] == pytest.approx(0.2 * half)
    assert rates["head.bias"] == pytest.approx(0.4 * half)


def test_vectors_may_have_a_rate_of_their_own_and_rates_may_be_held():
    net = Net()
    recipe = Recipe(lr=0.1, lr_batch=0, warmup=0.0, vector_lr=0.02, held=("head.",), groups=(("head.weight", 0.3),))
    optimiser, schedule = made(recipe, net)
    set_rates(optimiser, schedule, 5)
    rates = {n: g["lr"] for g in optimiser.param_groups for n in g["names"]}
    shape = schedule.shape(5)
    assert 0 < shape < 1
    expected = {"encoder.0.weight": 0.1 * shape, "encoder.0.bias": 0.02 * shape, "encoder.1.weight": 0.02 * shape,
                "encoder.1.bias": 0.02 * shape, "head.weight": 0.3, "head.bias": 0.02}  # fmt: skip
    assert rates == pytest.approx(expected)
    assert not any(g["held"] for g in made(Recipe(), net)[0].param_groups)


def test_parameters_may_have_a_decay_of_their_own():
    net = Net()
    optimiser, schedule = made(Recipe(weight_decay=0.04, weight_decay_end=0.4, decays=(("head.", 0.5),)), net)
    for index in (0, 5):
        set_rates(optimiser, schedule, index)
        decays = {n: g["weight_decay"] for g in optimiser.param_groups for n in g["names"]}
        assert (decays["head.weight"], decays["head.bias"]) == (0.5, 0.0)
        assert decays["encoder.0.weight"] == schedule.weight_decay(index) != 0.5


def test_layers_learn_more_slowly_the_lower_they_are():
    encoder = build_encoder("vit_tiny_patch16_224:depth=3,embed_dim=12,num_heads=2", image_size=16)
    scales = layer_scales(encoder, 0.5)
    assert set(scales) == {name for name, _ in encoder.named_parameters()}
    assert scales["model.norm.weight"] == 0.5
    for block in range(3):
        assert scales[f"model.blocks.{block}.mlp.fc1.weight"] == pytest.approx(0.5 ** (3 - block))
    assert scales["model.patch_embed.proj.weight"] == pytest.approx(0.5**4)
    task = nn.Module()
    task.encoder, task.head = encoder, nn.Linear(12, 2)
    optimiser, _ = made(Recipe(lr=1.0, lr_batch=0, layer_decay=0.5), task)
    peaks = {n: g["peak"] for g in optimiser.param_groups for n in g["names"]}
    assert peaks["head.weight"] == 1.0
    assert peaks["encoder.model.blocks.0.mlp.fc1.weight"] == pytest.approx(0.125)


def test_what_has_no_layers_cannot_decay_by_layer():
    with pytest.raises(UsageError, match="layer_decay"):
        layer_scales(Net().encoder, 0.5)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(UsageError, match="adamw, adam, sgd or lars"):
        made(Recipe("rmsprop"), Net())  # type: ignore[arg-type]


@pytest.mark.parametrize("slug", ["simmim", "mood", "moodv2", "beit", "eva"])
def test_of_masked_transformers_the_mask_token_decays_and_positions_do_not(slug):
    """As the official codes of BEiT, EVA and SimMIM group them."""
    row = catalog.find(slug)
    task = tiny.task(row)
    task.prepare([tiny.BATCHES["image"](16)], 16)
    matrices = {name for name, p in task.named_parameters() if p.ndim > 1 and p.requires_grad}
    spared = {name for name in matrices if name.rpartition(".")[2] in task.recipe.undecayed}
    assert "mask_token" in matrices - spared
    assert {name.rpartition(".")[2] for name in spared} <= {"cls_token", "pos_embed"} and spared
