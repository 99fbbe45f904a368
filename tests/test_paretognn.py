"""ParetoGNN against its formulas, in float64 with loops where that is the plainest way to say them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretask.data import open_data
from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.graph.paretognn import TASKS, ParetoGNN
from pretask.methods.joint import Joint
from pretask.objectives.balance import min_norm_weights
from pretask.objectives.decorrelation import decorrelation
from pretask.objectives.reconstruction import scaled_cosine_error
from pretask.pretexts.graph import Graph, augmented, hidden_nodes, permutation, with_self_loops
from pretask.task import Step
from pretask.training.optimisers import make_optimiser, set_rates
from pretask.training.plan import make_plan


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return with_self_loops(open_data("karate").samples.graph)


def task(seed: int = 0, **options) -> ParetoGNN:
    encoder = build_encoder("gcn:widths=[12,8]", "graph", in_dim=18, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ParetoGNN(encoder, **{"predictor_dim": 10, **options})


def batch() -> dict:
    return open_data("karate").batch(torch.arange(34))


def test_the_optimiser_decays_all():
    method = task()
    schedule = make_plan(method.recipe, 34, max_steps=10).schedule(method.recipe)
    optimiser = make_optimiser(method.named_parameters(), schedule, method.encoder)
    set_rates(optimiser, schedule, 0)
    (group,) = optimiser.param_groups
    assert group["weight_decay"] == 1e-5 and any(p.ndim == 1 for p in group["params"])


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=dice(seed), dtype=torch.float64)


class TestObjectives:
    def test_scaled_cosine_error(self):
        a, b = numbers(5, 4), numbers(5, 4, seed=1)
        total = 0.0
        for x, y in zip(a, b, strict=True):
            cosine = float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
            total += (1 - cosine) ** 3 / 5
        assert float(scaled_cosine_error(a, b)) == pytest.approx(total, rel=1e-12)
        assert float(scaled_cosine_error(a, 3 * a)) == pytest.approx(0, abs=1e-12)

    def test_decorrelation(self):
        a, b, count = numbers(7, 3), numbers(7, 3, seed=1) * 2 + 1, 7
        z = []
        for x in (a, b):
            mean = x.sum(0) / count
            std = (((x - mean) ** 2).sum(0) / (count - 1)).sqrt()
            z.append((x - mean) / std)
        apart = math.sqrt(sum(float(v) ** 2 for v in ((z[0] - z[1]) / count).flatten()))
        repeated = 0.0
        for x in z:
            inside = 0.0
            for i in range(3):
                for j in range(3):
                    entry = float(sum(x[n, i] * x[n, j] for n in range(count))) / count
                    inside += ((i == j) - entry) ** 2
            repeated += math.sqrt(inside)
        assert float(decorrelation(a, b, 0.5)) == pytest.approx(apart + 0.5 * repeated, rel=1e-12)


class TestTasks:
    def test_recon(self, graph):
        """Hidden nodes show the mask token, are hidden once more before the decoder, and alone are asked."""
        method = task()
        nn.init.normal_(method.mask_token)
        hidden = hidden_nodes(34, 0.5, dice())
        x = graph.x.clone()
        x[hidden] = method.mask_token.detach()
        encoded = method.decoder.bridge(method.encoder.nodes(Graph(x, graph.edge_index)))
        encoded[hidden] = 0
        degree = torch.bincount(graph.edge_index[0]).float()
        dense = torch.zeros(34, 34)
        dense[graph.edge_index[1], graph.edge_index[0]] = 1
        spread = dense / degree.sqrt() / degree.sqrt()[:, None]
        rebuilt = spread @ encoded @ method.decoder.weight.weight.T + method.decoder.weight.bias
        cosine = F.cosine_similarity(rebuilt[hidden], graph.x[hidden])
        assert method.recon(graph, hidden).item() == pytest.approx(
            (1 - cosine).pow(3).mean().item(), rel=1e-4
        )

    def test_recon_draws(self, graph):
        part, hidden = task().draw_recon(graph, dice())
        assert hidden.sum() == 17 and part.x is graph.x
        assert abs(part.edge_index.shape[1] / graph.edge_index.shape[1] - 0.65) < 0.15

    def test_ming(self, graph):
        method, order = task(), permutation(34, dice())
        real, fake = (
            method.encoder.nodes(graph),
            method.encoder.nodes(Graph(graph.x[order], graph.edge_index)),
        )
        summary = torch.sigmoid(real.mean(0))
        total = 0.0
        for h, truth in ((real, 1), (fake, 0)):
            for row in h:
                chance = torch.sigmoid(row @ (method.discriminator.weight @ summary)).item()
                total -= math.log(chance if truth else 1 - chance) / 34
        assert method.ming(graph, order).item() == pytest.approx(total, rel=1e-4)
        bound = 8**-0.5
        assert 0.9 * bound < method.discriminator.weight.abs().max() <= bound

    def test_minsg(self, graph):
        """The denominator holds both views of every node, without the node's own similarity to itself."""
        method = task(temperature=0.2)
        views = [augmented(graph, 0.3, 0.3, dice(seed)) for seed in (1, 2)]
        one, other = (
            F.normalize(method.projector(method.encoder.nodes(view)).double()).detach() for view in views
        )
        total = 0.0
        for a, b in ((one, other), (other, one)):
            for i in range(34):
                terms = sum(math.exp(float(a[i] @ a[j]) / 0.2) for j in range(34) if j != i)
                terms += sum(math.exp(float(a[i] @ b[j]) / 0.2) for j in range(34))
                total -= (float(a[i] @ b[i]) / 0.2 - math.log(terms)) / 68
        assert method.minsg(*views).item() == pytest.approx(total, rel=1e-4)

    def test_decor_has_no_head(self, graph):
        method = task(tasks=("decor",), decor_weight=0.1)
        views = [augmented(graph, 0.2, 0.2, dice(seed)) for seed in (1, 2)]
        expected = decorrelation(*(method.encoder.nodes(view).double() for view in views), 0.1)
        assert method.decor(*views).item() == pytest.approx(expected.item(), rel=1e-4)
        assert {name.partition(".")[0] for name, _ in method.named_parameters()} == {"encoder"}

    def test_link(self, graph):
        method = task()
        blocks, kept, pairs, joined = method.draw_link(graph, dice())
        assert len(blocks) == 3 and joined.sum() == 10 and pairs.shape == (2, 20)
        seen = graph.x[blocks[0].nodes] * kept / 0.6
        h = method.encoder.blocks(seen, blocks)
        h = torch.relu(method.link_hidden(h / h.norm(dim=1, keepdim=True)))
        total = 0.0
        for u, v, truth in zip(*pairs.tolist(), joined.tolist(), strict=True):
            chance = torch.sigmoid(method.link_out(h[u] * h[v])).item()
            total -= math.log(chance if truth else 1 - chance) / 20
        assert method.link(graph.x, blocks, kept, pairs, joined).item() == pytest.approx(total, rel=1e-4)

    def test_link_asks_for_edges_of_the_graph_and_its_self_loops(self, graph):
        method, edges, loops = (
            task(positives=100, negatives=2),
            set(map(tuple, graph.edge_index.T.tolist())),
            0,
        )
        blocks, kept, pairs, joined = method.draw_link(graph, dice())
        seeds = blocks[-1].nodes[: blocks[-1].size]
        named = seeds[pairs]
        for a, b in named[:, joined].T.tolist():
            assert (a, b) in edges
            loops += a == b
        assert loops > 5 and torch.equal(named[0, ~joined], named[0, joined].repeat_interleave(2))
        assert abs(float(kept.float().mean()) - 0.6) < 0.1

    def test_what_minsg_sees(self):
        graph = with_self_loops(open_data("blocks").samples.graph)
        seeds = torch.tensor([3, 99])
        method = task()
        assert method.part(graph, seeds, 0, dice()) is graph, "no multiplier, the whole graph"
        assert method.part(graph, seeds, 450, dice()) is graph, "not more nodes than that"
        around = method.part(graph, seeds, 449, dice())
        assert 2 < around.num_nodes < 900
        drawn = task(saint=True).part(graph, seeds, 100, dice())
        assert 100 < drawn.num_nodes <= 200 and drawn.num_nodes != around.num_nodes

    def test_all_and_none(self):
        found = task().loss(batch(), Step.at())
        assert tuple(found) == TASKS
        only = task(tasks=("recon", "link")).loss(batch(), Step.at())
        assert tuple(only) == ("link", "recon"), "the order of looking, not of naming"
        for wrong in (("recon", "colour"), ()):
            with pytest.raises(UsageError, match="there are link"):
                task(tasks=wrong)


class TestBalance:
    def by_hand(self, method: ParetoGNN) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """As the official code does it: each task's gradient by itself, the weights, and once more forward
        with the weighted sum of the losses as they are."""
        shared, gradients = list(method.encoder.parameters()), {}
        for name, value in method.terms(batch(), Step.at()):
            method.zero_grad()
            value.backward()
            flat = torch.cat([p.grad.flatten() for p in shared]).double()
            gradients[name] = flat / flat.norm()
        g = torch.stack(list(gradients.values()))
        weights = dict(zip(gradients, min_norm_weights(g @ g.T).tolist(), strict=True))
        method.zero_grad()
        sum(weights[name] * value for name, value in method.terms(batch(), Step.at())).backward()
        return weights, {name: p.grad.clone() for name, p in method.named_parameters()}

    def test_one_walk_is_the_official_two(self):
        method = task()
        weights, expected = self.by_hand(copy.deepcopy(method))
        step = Step.at()
        losses = method.loss(batch(), step)
        method.total(losses).backward()
        plain = dict(method.terms(batch(), Step.at()))
        for name, value in losses.items():
            assert value.item() == pytest.approx(plain[name].item(), rel=1e-5), "the values are the losses'"
            assert float(step.metrics[f"weight of {name}"]) == pytest.approx(weights[name], abs=1e-4)
        for name, p in method.named_parameters():
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(p.grad, expected[name], atol=1e-3 * scale + 1e-7, rtol=1e-3)

    def test_the_direction_helps_every_task_that_counts(self):
        """<d, g_t> >= |d|^2 for the normalised gradients: no task loses."""
        method, shared = task(), None
        gradients = []
        for _, value in method.terms(batch(), Step.at()):
            shared = list(method.encoder.parameters())
            flat = torch.cat([g.flatten() for g in torch.autograd.grad(value, shared, retain_graph=True)])
            gradients.append(flat / flat.norm())
        g = torch.stack(gradients).double()
        weights = min_norm_weights(g @ g.T)
        d = weights @ g
        assert ((g @ d)[weights > 0] >= d.square().sum() - 0.02).all()
        assert (weights > 0.01).sum() >= 3

    def test_a_sum_counts_alike(self):
        method = task(balance="sum")
        losses = method.loss(batch(), Step.at())
        method.total(losses).backward()
        other = copy.deepcopy(method)
        other.zero_grad()
        sum(value for _, value in other.terms(batch(), Step.at())).backward()
        for p, q in zip(method.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    def test_without_gradients_losses_are_plain(self):
        method = task()
        with torch.no_grad():
            looked = method.loss(batch(), Step.at())
        assert {name: float(v) for name, v in looked.items()} == {
            name: pytest.approx(v.item(), rel=1e-5) for name, v in method.loss(batch(), Step.at()).items()
        }

    def test_evaluation_has_the_statistics_of_recon(self, graph):
        """Momentum 0.99, and recon looks last."""
        method = task()
        method.loss(batch(), Step.at())
        step, seen = Step.at(), {}
        other = task()

        def note(module, inputs):
            seen["last"] = inputs[0]

        other.encoder.model.norms[0].register_forward_pre_hook(note)
        dict(other.terms(batch(), step))
        last = method.encoder.model.norms[0].running_mean
        torch.testing.assert_close(last, seen["last"].mean(0).detach(), atol=0.02, rtol=0.05)

    def test_any_mix_can_be_balanced(self):
        encoder = build_encoder("gcn:widths=[12,8]", "graph", in_dim=18, seed=0)
        tasks = {name: ParetoGNN(encoder, (name,), predictor_dim=10) for name in ("recon", "ming")}
        step = Step.at()
        mixed = Joint(tasks, balance="pareto")
        losses = mixed.loss(batch(), step)
        assert set(losses) == {"recon/recon", "ming/ming"}
        weights = {name: float(step.metrics[f"weight of {name}"]) for name in losses}
        assert sum(weights.values()) == pytest.approx(1)
        mixed.total(losses).backward()
        found = [p.grad.clone() for p in mixed.parameters()]
        mixed.zero_grad()
        plain = dict(mixed.terms(batch(), Step.at()))
        sum(weights[name] * value for name, value in plain.items()).backward()
        for gradient, p in zip(found, mixed.parameters(), strict=True):
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(gradient, p.grad, atol=1e-4 * scale + 1e-7, rtol=1e-3)
