"""CLIP beyond the tail: vocabularies, heads, correlations, neural collapse, trimmed tails, sampled prototypes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask import open_data
from pretask.data.concepts import concept_counts, singular, words
from pretask.data.tailed import NAMES, trimmed
from pretask.encoders.towers import SHARED, build
from pretask.errors import UsageError
from pretask.evaluation.imbalance import (
    by_class,
    coherence,
    collapse,
    confusion,
    correlations,
    imbalance,
    spearman,
)
from pretask.methods.image.sampled_dino import SampledDINO
from pretask.methods.multimodal.clip_imbalance import ClipImbalance
from pretask.objectives.vocabulary import CosineHead, class_weights, draw_vocabulary
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import Plan

DIGITS = "zero,one,two,three,four,five,six,seven,eight,nine"


def make(**options) -> ClipImbalance:
    torch.manual_seed(0)
    task = ClipImbalance(tiny.OWN_ENCODERS["captioned"](), **options)
    task.prepare([tiny.captioned(16)], 16)
    return task


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_vocabulary_has_the_batch_and_others_by_weight():
    label, weight = torch.tensor([7, 2, 7, 4]), torch.arange(10).float()
    counts = torch.zeros(10)
    for seed in range(400):
        chosen = draw_vocabulary(label, weight, 5, seeded(seed))
        assert chosen.tolist() == sorted(set(chosen.tolist())) and len(chosen) == 5
        assert {2, 4, 7} <= set(chosen.tolist())
        counts[chosen] += 1
    assert counts[0] == 0 and counts[9] > 2 * counts[3] > counts[1] > 0
    # by hand, as torch draws it: the batch's weights are zeroed, then n - |batch| more without replacement
    more = torch.multinomial(torch.tensor([0.0, 1, 0, 3, 0, 5, 6, 0, 8, 9]), 2, generator=seeded(3))
    assert draw_vocabulary(label, weight, 5, seeded(3)).tolist() == sorted([2, 4, 7, *more.tolist()])


def test_a_batch_with_enough_classes_is_the_vocabulary():
    label = torch.tensor([5, 1, 3, 1])
    for size in (1, 3):
        assert draw_vocabulary(label, torch.ones(8), size, seeded()).tolist() == [1, 3, 5]
    only = torch.tensor([0.0, 1, 0, 1, 1, 0, 0, 0])
    assert draw_vocabulary(label, only, 6, seeded()).tolist() == [1, 3, 4, 5], "no more have a weight"
    assert draw_vocabulary(label, torch.ones(8), 100, seeded()).tolist() == list(range(8))


def test_weights_of_classes():
    count = torch.tensor([0, 1, 4, 9])
    assert class_weights(count, "uniform").tolist() == [1, 1, 1, 1]
    assert class_weights(count, "linear").tolist() == [0, 1, 4, 9]
    assert class_weights(count, "sqrt").tolist() == [0, 1, 2, 3]


def test_the_head_is_a_scaled_cosine():
    torch.manual_seed(0)
    head, x = CosineHead(6, 4), torch.randn(3, 6)
    for row in range(3):
        for kind in range(4):
            cosine = float(F.cosine_similarity(x[row], head.weight[kind], 0).detach())
            assert head(x)[row, kind].item() == pytest.approx(cosine / 0.07, abs=1e-4)
    assert torch.allclose(head(x, torch.tensor([1, 3])), head(x)[:, [1, 3]], atol=1e-5)
    for start, end in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        head.log_scale.data.fill_(start)
        head.clamp()
        assert head.log_scale.item() == pytest.approx(end)
    assert CosineHead(400, 300).weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert not CosineHead(6, 4, fixed=torch.randn(4, 6)).weight.requires_grad


def test_labels_are_places_in_the_sorted_vocabulary():
    task, batch = make(vocabulary=8), tiny.captioned(6)
    batch["label"] = torch.tensor([9, 0, 4, 4, 9, 2])
    loss = task.loss(batch, Step.at(5))["classes"]
    step = Step.at(5)
    view = task.crop(batch, step)
    chosen = task.asked(batch["label"], step).tolist()
    assert len(chosen) == 8 and {0, 2, 4, 9} <= set(chosen) and chosen == sorted(chosen)
    logits, features = task.look(view)
    assert features.shape == (6, SHARED) and logits.shape == (6, 10)
    total = 0.0
    for row, true in enumerate(batch["label"].tolist()):
        own = logits[row].detach().double()
        total += math.log(sum(math.exp(own[kind]) for kind in chosen)) - float(own[true])
    assert loss.item() == pytest.approx(total / 6, rel=1e-4)
    whole = make(vocabulary=None)
    logits, _ = whole.look(whole.crop(batch, Step.at(5)))
    expected = F.cross_entropy(logits, batch["label"]).item()
    assert whole.loss(batch, Step.at(5))["classes"].item() == pytest.approx(expected, rel=1e-5)


def test_counts_are_those_of_the_data_and_text_does_not_learn():
    task = make()
    assert task.count.tolist() == torch.bincount(tiny.captioned(16)["label"], minlength=10).tolist()
    task.loss(tiny.captioned(8), Step.at())["classes"].backward()
    learning = {
        name.split(".")[3] for name, p in task.named_parameters() if p.requires_grad and "towers" in name
    }
    assert learning == {"image"} and task.classifier.weight.grad is not None
    task.classifier.log_scale.data.fill_(20)
    task.after_step(Step.at())
    assert task.classifier.log_scale.item() == pytest.approx(math.log(100))


def test_a_head_of_text_is_what_the_encoder_says_and_stays_that():
    task = make(head="text", names=DIGITS)
    task.total(task.loss(tiny.captioned(8), Step.at())).backward()
    assert task.classifier.weight.grad is None and task.classifier.log_scale.grad is not None
    encoder = task.encoder.eval()
    tower, head = encoder.tower("text"), encoder.model["heads"]["text"]
    for row, name in enumerate(DIGITS.split(",")):  # each name by itself, so that nothing is padded
        ids, lengths, _ = tower.tokenizer.encode([f"a {name}"], tower.max_length)
        tokens = torch.as_tensor(ids).view(1, -1)
        assert tokens.shape[1] == int(lengths[0]) and tower.tokenizer.decode(tokens[0]).strip() == f"a {name}"
        with torch.no_grad():
            first = tower(tokens, torch.ones_like(tokens, dtype=torch.bool)).prefix[0, 0]
        expected = head.weight.double() @ first.double()
        found = task.classifier.weight[row].detach().double()
        torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-3)
    rows = task.classifier.weight.detach()
    assert (rows[:, None] - rows).norm(dim=2)[~torch.eye(10, dtype=torch.bool)].min() > 1e-3
    with pytest.raises(UsageError, match="names of all 10"):
        make(head="text", names="zero,one")
    assert len(make(names=DIGITS + ",ten").classifier.weight) == 11, (
        "a class may be named and have no picture"
    )
    with pytest.raises(UsageError, match="prepare"):
        ClipImbalance(tiny.OWN_ENCODERS["captioned"]()).loss(tiny.captioned(4), Step.at())


def test_defaults_are_the_papers():
    task = make()
    assert (task.vocabulary, task.sampling, task.temperature, task.view.scale) == (
        100,
        "sqrt",
        0.07,
        (0.9, 1.0),
    )
    assert (task.recipe.optimizer, task.recipe.lr, task.recipe.lr_batch, task.recipe.epochs) == (
        "sgd",
        0.1,
        256,
        90,
    )
    assert task.view.flip == 0 and task.view.jitter == 0
    recipe = task.recipe
    assert (recipe.weight_decay, recipe.decay_vectors, recipe.momentum, recipe.warmup) == (1e-4, True, 0.9, 0)
    assert (recipe.schedule, recipe.final_lr) == ("cosine", 0.0)
    parts = groups(task.named_parameters(), Plan(recipe, 256, 10, 10).schedule(recipe), task.encoder)
    assert all(part["decays"] for part in parts), "the scale of the logits, too"


def test_untrained_towers_see_pictures_as_clip_does():
    tower = tiny.OWN_ENCODERS["captioned"]().tower("image")
    image = torch.rand(1, 3, 4, 4, generator=seeded())
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = torch.stack([(image[0, c] - mean[c]) / std[c] for c in range(3)])
    torch.testing.assert_close(tower.normalise(image)[0], expected)
    own = build(
        "image=colour_net:width=0.1;text=distilbert:dim=32,n_layers=1,n_heads=2", **tiny.album().inputs
    )
    assert own.tower("image").mean.tolist() == [[[0.0]]] * 3, "a network with numbers of its own keeps them"


def test_confusion_and_correlations():
    label, answer = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 0, 1])
    matrix = confusion(answer, label, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    accuracy, predicted = by_class(matrix)
    assert accuracy[:3].tolist() == pytest.approx([0.5, 1, 1 / 3]) and accuracy[3].isnan()
    assert predicted.tolist() == [2, 3, 1, 0]
    found = correlations(torch.tensor([4, 9, 1, 0]), matrix, size=torch.tensor([1.0, 2, 3, 4]))
    assert math.isnan(found["frequency and accuracy"]) and found[
        "frequency and predictions"
    ] == pytest.approx(1)
    assert found["frequency and size"] == pytest.approx(-0.8)


def test_ties_have_their_mean_rank():
    a, b = torch.tensor([3, 3, 1, 7, 7, 7]), torch.tensor([0.1, 0.4, 0.4, 0.4, 0.9, 0.0])

    def ranks(x):
        return [sum(o < v for o in x) + (1 + sum(o == v for o in x)) / 2 for v in x]

    expected = np.corrcoef(ranks(a.tolist()), ranks(b.tolist()))[0, 1]
    assert spearman(a, b) == pytest.approx(expected)
    assert math.isnan(spearman(torch.ones(3), torch.arange(3))) and spearman(a, -a) == pytest.approx(-1)


def test_collapse_is_the_formulas():
    rng = np.random.default_rng(0)
    label = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    h, w = rng.normal(size=(10, 5)), rng.normal(size=(4, 5))
    found = collapse(torch.from_numpy(h), torch.from_numpy(label), 4, torch.from_numpy(w))
    means = np.stack([h[label == c].mean(0) for c in range(4)])
    mu = means.mean(0)  # of classes, not of items
    between = sum(np.outer(m - mu, m - mu) for m in means) / 4
    v = [(m - mu) / np.linalg.norm(m - mu) for m in means]
    rows = [r / np.linalg.norm(r) for r in w]  # normalised, not centred
    for c in range(4):
        within = sum(np.outer(x - means[c], x - means[c]) for x in h[label == c]) / 10  # of all items
        assert found["nc1"][c].item() == pytest.approx(np.trace(within @ np.linalg.pinv(between)))
        for name, vectors in (("nc2", v), ("head nc2", rows)):
            off = [abs(vectors[c] @ vectors[k] + 1 / 3) for k in range(4) if k != c]
            assert found[name][c].item() == pytest.approx(sum(off) / 3)
            assert found[f"{name} nearest"][c].item() == pytest.approx(max(off))
    missing = collapse(torch.from_numpy(h), torch.from_numpy(label), 5)
    assert all(value.isnan().all() for value in missing.values())
    simplex = F.normalize(torch.eye(4) - 0.25, dim=0)
    assert max(part.abs().max() for part in coherence(simplex)) < 1e-6


def test_the_protocol_gives_correlations():
    x = torch.randn(200, 6, generator=seeded())
    label = torch.cat([torch.arange(4).repeat(10), torch.zeros(160, dtype=torch.long)])
    x[torch.arange(200), label] += 2
    found = {score.metric: score.value for score in imbalance((x, label), (x[:40], label[:40]))}
    assert 0 < found["balanced accuracy"] <= 1 and -1 <= found["frequency and nc1"] <= 1


def test_concepts_are_counted_once_a_caption():
    captions = [
        "Two CRANES, by the river; a crane!",
        "a construction crane",
        "my dog's house",
        "hot-dogs",
        "A house dog",
    ]
    counts = concept_counts(
        captions, [["crane"], ["dog house", "kennel"], ["hot dog"]], {0: ["construction site"]}
    )
    assert counts == [1, 2, 1]
    assert concept_counts(captions, [["crane (machine)"], ["(any) dog"]]) == [2, 3]  # brackets do not count
    assert words("Boxes, 12 berries & glass!") == {"box", "berry", "glass"}
    assert [singular(word) for word in ("bus", "leaves", "cats", "this")] == ["bus", "leaf", "cat", "this"]


def test_tails_are_trimmed():
    label = torch.tensor([0] * 5 + [1] * 3 + [2] * 4 + [3] + [1, 3, 3])
    training = torch.tensor([True] * 13 + [False] * 3)
    kept = trimmed(label, training, 4, 2, 1)
    assert label[kept].tolist() == [0] * 5 + [1] + [2] * 4 + [3] + [1, 3, 3]
    none = trimmed(label, training, 4, 2, 0)
    assert torch.bincount(label[none][training[none]], minlength=4).tolist() == [5, 0, 4, 0]
    assert len(trimmed(label, training, 4, 0, 0)) == 16


def test_made_up_tails():
    dataset = open_data("long-tailed-digits", modality="captioned", tail=20)
    train, test = dataset.split("train"), dataset.split("test")
    count = torch.bincount(train.labels, minlength=100)
    assert (count == 0).sum() == 20 and count.max() == 1000 and dataset.classes == list(NAMES)
    assert torch.bincount(test.labels).tolist() == [20] * 100
    whole = open_data("long-tailed-digits", modality="captioned", split="train")
    assert torch.bincount(whole.labels).min() == 10
    batch = test.batch(range(5))
    from pretask.data.tokens import tokenizer_of

    tokenizer = tokenizer_of(dataset.inputs["tokenizer"])
    for tokens, kind in zip(batch["tokens"], batch["label"].tolist(), strict=True):
        assert tokenizer.decode(tokens).strip() == f"a {NAMES[kind]}"


def test_few_prototypes_are_compared_and_the_same_for_both():
    torch.manual_seed(0)
    task = SampledDINO(tiny.encoder("grid"), prototypes=40, sampled=7, num_local=1)
    assert not hasattr(task, "centre") and not [name for name, _ in task.named_buffers() if "centre" in name]
    batch, step = tiny.images(4), Step.at(3)
    loss = task.loss(batch, Step.at(3))["cls"]
    views, chosen = task.views(batch, step), task.sample(step)
    assert len(set(chosen.tolist())) == 7

    def logits(head, pooled):
        low, rows = head.mlp(pooled), head.last_layer.weight_v[chosen]
        return (low / low.norm(dim=1, keepdim=True)) @ (rows / rows.norm(dim=1, keepdim=True)).T

    taught = logits(task.teacher.head, task.teacher.encoder(torch.cat(views[:2])).pooled).double()
    q = (taught / 0.04).exp().T / (taught / 0.04).exp().sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 7
        q = q / q.sum(0, keepdim=True) / 8
    target = (q * 8).T.view(2, 4, 7)
    seen = [task.encoder(torch.cat(views[:2])).pooled, task.encoder(views[2]).pooled]
    student = (logits(task.head, torch.cat(seen)).double() / 0.1).log_softmax(1).view(3, 4, 7)
    pairs = [-(target[t] * student[s]).sum(1).mean() for t in range(2) for s in range(3) if s != t]
    assert loss.item() == pytest.approx((sum(pairs) / len(pairs)).item(), rel=1e-3)
    loss.backward()
    untouched = torch.ones(40, dtype=torch.bool)
    untouched[chosen] = False
    gradient = task.head.last_layer.weight_v.grad
    assert not gradient[untouched].any() and gradient[chosen].any(1).all()


def test_sampled_dinos_defaults():
    task = SampledDINO(tiny.encoder("grid"))
    assert (task.prototypes, task.sampled, task.freeze_last_layer) == (1024, 256, 0)
    assert SampledDINO(tiny.encoder("grid", side=96)).sampled == 16384
    assert task.view_specs[0].scale == (0.14, 1.0) and task.view_specs[2].scale == (0.05, 0.14)
    assert (task.recipe.optimizer, task.recipe.lr, task.teacher_temperature) == ("sgd", 0.03, 0.04)
