"""InfoXLM is the paper's method: layouts, the contrast, the divisor, the queue and the slow encoder."""

import copy

import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask import catalog
from pretask.errors import UsageError
from pretask.methods.text.infoxlm import InfoXLM
from pretask.objectives.contrastive import info_nce
from pretask.objectives.memory import Queue
from pretask.pretexts.text import read_pair
from pretask.task import Step
from pretask.training.optimisers import make_optimiser, set_rates
from pretask.training.plan import make_plan

ROW = catalog.find("infoxlm")


def make(seed: int = 0, **options) -> InfoXLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        task = InfoXLM(tiny.OWN_ENCODERS["text"](), **options)
    task.prepare([tiny.sentences(16)], 16)
    return task


def rows(text) -> list[list[int]]:
    return [row[own].tolist() for row, own in zip(text.tokens, text.attention, strict=True)]


def test_contrast_is_the_formula_without_normalisation():
    """Cross-entropy of [q.k, q.queue] / 0.25 with label 0, summed, as `XlCoCriterion.contrastive_loss`."""
    generator = torch.Generator().manual_seed(0)
    q, k, queue = (torch.randn(n, 6, generator=generator).double() for n in (5, 5, 30))
    q.requires_grad_()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.25
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="sum")
    found = 5 * info_nce(q, k, queue, 0.25, normalise=False)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, q)[0] for x in (found, expected)))
    assert (5 * info_nce(q, k, queue, 0.25) - expected).abs() > 1, "a cosine version is another"


def test_a_queue_keeps_keys_as_they_are_and_wraps():
    queue, written = Queue(7, 2, normalise=False), []
    assert queue.rows.norm(dim=1).std() > 0.1, "the first rows are not normalised either"
    for number in range(4):
        keys = torch.arange(6.0).view(3, 2) + 10 * number
        queue.enqueue(keys)
        written += keys.tolist()
    expected = [None] * 7
    for place, key in enumerate(written):
        expected[place % 7] = key
    assert queue.rows.tolist() == expected and int(queue.position) == 12 % 7


def test_layouts():
    """MMLM: two sentences of one language behind one <s>; TLM: a sentence and its translation."""
    task, batch = make(), tiny.sentences(8)
    source, target = read_pair(batch)
    known = task.encoder.vocabulary
    joined = rows(task.joined(source, target))
    for line, x, y in zip(joined, rows(source), rows(target), strict=True):
        assert line == x + y[1:] and line[0] == known.bos and line.count(known.bos) == 1
        assert line.count(known.eos) == 2 and line[-1] == known.eos
    blocks = rows(task.blocks(source, target, batch))
    assert len(blocks) == 8
    for i in range(4):
        x, y = rows(source), rows(target)
        assert blocks[2 * i] == x[2 * i] + x[2 * i + 1][1:], "the sources are all in English"
        alike = batch["pair_lang"][2 * i] == batch["pair_lang"][2 * i + 1]
        assert blocks[2 * i + 1] == y[2 * i] + (y[2 * i + 1][1:] if alike else [])
    assert len(set(batch["pair_lang"].tolist())) == 2, "both cases occur"


def test_loss_is_the_official_one_step_by_step():
    """Each part is a sum; all are divided by hidden tokens of both kinds and pairs together."""
    task, batch = make(layer=1), tiny.sentences(8)
    step = Step.at(0, 10, 5)
    losses = copy.deepcopy(task).loss(batch, step)
    again = Step.at(0, 10, 5)
    source, target = read_pair(batch)
    sums, counts = [], []
    for text in (task.blocks(source, target, batch), task.joined(source, target)):
        shown, hidden = task.hide(text, again)
        states = task.encoder.model(
            input_ids=shown.tokens, attention_mask=shown.attention.long(), output_hidden_states=True
        ).hidden_states
        log_p = task.head(states[-1], task.encoder.table).log_softmax(-1)
        sums.append(-log_p.gather(-1, text.tokens[..., None])[..., 0][hidden].sum())
        counts.append(int(hidden.sum()))
    shown, wanted = task.contrasted(source, target, again)
    with torch.no_grad():
        slow = task.slow.encoder.model(
            input_ids=wanted.tokens, attention_mask=wanted.attention.long(), output_hidden_states=True
        ).hidden_states
        key = slow[1][:, 0] @ task.slow.projection.weight.T
    fast = task.encoder.model(
        input_ids=shown.tokens, attention_mask=shown.attention.long(), output_hidden_states=True
    ).hidden_states
    query = fast[1][:, 0] @ task.projection.weight.T
    total = 0.0
    for q, k in zip(query, key, strict=True):
        logits = torch.stack([q @ k, *(q @ row for row in task.queue.rows)]) / 0.25
        total = total - logits.log_softmax(0)[0]
    sums.append(total)
    assert len(query) == 8
    counts.append(8)  # as many mixed pairs as there are pairs
    for name, value in zip(("mlm", "tlm", "xlco"), sums, strict=True):
        assert losses[name].item() == pytest.approx(value.item() / sum(counts), rel=1e-4), name
    assert step.metrics["mlm_mean"].item() == pytest.approx(sums[0].item() / counts[0], rel=1e-4)
    assert losses["xlco"] < 0.2 * losses["mlm"], "the contrast weighs little beside the words"


def test_pairs_are_mixed_for_the_contrast():
    """Each with its neighbour, as many items as pairs; orders and sides in all eight ways, each pair's
    translation on the other side."""
    task, batch, seen = make(mask_rate=0.0), tiny.sentences(8), set()
    x, y = map(rows, read_pair(batch))
    for index in range(30):
        shown, wanted = task.contrasted(*read_pair(batch), Step.at(index))
        mixed = list(zip(rows(shown), rows(wanted), strict=True))
        assert len(mixed) == 8
        for i, pair in enumerate(mixed):
            ways = {}
            for mode in range(8):
                s = [x[i], x[i ^ 1]][:: -1 if mode & 1 else 1]
                t = [y[i], y[i ^ 1]][:: -1 if mode & 2 else 1]
                two = s[0] + s[1][1:], t[0] + t[1][1:]
                ways[mode] = two[::-1] if mode & 4 else two
            found = [mode for mode, way in ways.items() if way == pair]
            assert len(found) == 1
            seen.add(found[0])
    assert seen == set(range(8))
    with pytest.raises(UsageError, match="two pairs at least"):
        task.contrasted(*read_pair(tiny.sentences(1)), Step.at())
    assert len(task.contrasted(*read_pair(tiny.sentences(7)), Step.at())[0].tokens) == 6


def test_the_recipe_is_the_papers():
    """Adam of fairseq: one group, which decays; epsilon 1e-6."""
    task = make()
    plan = make_plan(task.recipe, 100_000, max_steps=200_000)
    schedule = plan.schedule(task.recipe)
    optimiser = make_optimiser(task.named_parameters(), schedule, task.encoder)
    set_rates(optimiser, schedule, 0)
    (group,) = optimiser.param_groups
    assert group["weight_decay"] == 0.01 and any(p.ndim == 1 for p in group["params"])
    assert group["eps"] == 1e-6 and group["betas"] == (0.9, 0.98)


def test_without_mixing_only_sides_are_exchanged():
    task, batch = make(mask_rate=0.0, mix=False), tiny.sentences(8)
    x, y = map(rows, read_pair(batch))
    found = list(zip(*map(rows, task.contrasted(*read_pair(batch), Step.at())), strict=True))
    assert all(pair in ((a, b), (b, a)) for pair, a, b in zip(found, x, y, strict=True))
    assert 0 < sum(pair[0] == a for pair, a in zip(found, x, strict=True)) < 8


def test_both_sides_of_the_contrast_are_masked():
    task, batch = make(), tiny.sentences(16)
    mixed = task.contrasted(*read_pair(batch), Step.at())
    for text in mixed:
        share = (text.tokens == task.encoder.vocabulary.mask).sum() / text.attention.sum()
        assert 0.08 < share < 0.17, "80 % of 15 %"
    bos = task.encoder.vocabulary.bos
    held = [
        {tuple(sorted(t for t in line if t != bos)) for line in pair}
        for pair in zip(*map(rows, mixed), strict=True)
    ]
    assert all(held[i] != held[i + 1] for i in range(0, 16, 2)), "what is mixed twice is hidden anew"


def test_keys_enter_the_queue_after_the_step():
    task, batch = make().train(), tiny.sentences(8)
    before = task.queue.rows.clone()
    step = Step.at(0, 100, 10)
    losses = task.loss(batch, step)
    assert torch.equal(task.queue.rows, before), "a batch's own keys are no negatives"
    task.total(losses).backward()
    task.after_step(step)
    changed = (task.queue.rows != before).any(1)
    assert int(changed.sum()) == 8 and int(task.queue.position) == 8 % len(before)
    assert all(p.grad is None for p in task.slow.parameters())


def test_the_queue_is_filled_before_training_with_what_the_slow_encoder_says():
    task, (first, second) = make(queue_size=6, layer=1), (tiny.sentences(4), tiny.sentences(4, start=4))
    with torch.no_grad():  # the slow encoder is asked, not the one that learns
        for parameter in task.slow.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))

    def keys(batch: dict, number: int) -> torch.Tensor:
        _, wanted = task.contrasted(*read_pair(batch), Step.at(number))
        shown = {"input_ids": wanted.tokens, "attention_mask": wanted.attention.long()}
        with torch.no_grad():
            states = task.slow.encoder.model(**shown, output_hidden_states=True).hidden_states
        return states[1][:, 0] @ task.slow.projection.weight.T

    task.prepare([first, second, first], 16)
    expected = torch.cat([keys(first, 0), keys(second, 1)])
    wrapped = torch.cat([expected[6:], expected[2:6]])  # the ring of six goes on at its beginning
    assert torch.allclose(task.queue.rows, wrapped, atol=1e-5) and int(task.queue.position) == 2
    assert make(queue_size=10**6).queue.rows.shape[0] == 16, "never more than a pass gives"
    task.prepare([first], 16)  # an incomplete pass
    assert torch.allclose(task.queue.rows[:4], keys(first, 0), atol=1e-5)
    assert torch.equal(task.queue.rows[4:], task.queue.rows[:2])


def test_it_needs_its_queue():
    with torch.random.fork_rng():
        task = InfoXLM(tiny.OWN_ENCODERS["text"]())
    with pytest.raises(UsageError, match="prepare"):
        task.loss(tiny.sentences(4), Step.at())


def test_the_slow_copy_starts_equal_and_follows_with_its_projection():
    task, batch = make(momentum=0.75).train(), tiny.sentences(8)
    fast, slow = task.state_dict(), task.slow.state_dict()
    assert all(torch.equal(value, fast[name]) for name, value in slow.items())
    before = {name: value.clone() for name, value in slow.items()}
    step = Step.at(0, 100, 10)
    task.loss(batch, step)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter += 1
    task.after_step(step)
    for name, value in task.slow.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.25, msg=name)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {1: 0.99, 2000: 0.99}),
        ({"momentum": 0.999}, {1: 0.999, 7: 0.999}),
        ({"momentum": 1.0, "momentum_schedule": "linear"}, {1: 0.9990005, 1000: 0.9995, 2000: 1.0}),
        (
            {"momentum": 0.9995, "momentum_schedule": "exponential", "momentum_start": 0.5},
            {1: 0.5, 100: 1 - 100**-0.51, 2000: 1 - 2000**-0.51},
        ),
        ({"momentum": 0.9, "refresh_every": 5}, {4: 0.9, 5: 0.0, 6: 0.9, 10: 0.0}),
    ],
)
def test_momentum_schedules(options, expected):
    task = make(**options)
    for updates, value in expected.items():
        assert task.momentum_after(updates, 2000) == pytest.approx(value, abs=1e-9)


def test_the_papers_momentum_in_a_run_as_long_as_the_papers():
    assert make().momentum_after(1, 200_000) == pytest.approx(0.9999)
    assert make().momentum_after(1, 10) == 0.9


def test_before_its_start_the_contrast_is_without_effect_and_the_slow_copy_waits():
    task, batch = make(xlco_start=10, momentum=0.5).train(), tiny.sentences(8)
    for index, same in ((0, True), (3, True), (4, False), (8, False), (9, False)):
        other, step = copy.deepcopy(task), Step.at(index, 100, 10)
        losses = other.loss(batch, step)
        assert losses["xlco"] == 0 and "xlco_mean" in step.metrics
        with torch.no_grad():
            other.head.bias += 1  # no part of the encoder
            other.encoder.table.add_(1)
        other.after_step(step)
        gap = (other.slow.encoder.table - task.slow.encoder.table).mean().item()
        expected = 0.0 if same else (0.5 if index == 9 else 1.0)
        assert gap == pytest.approx(expected, abs=1e-5), index
    assert task.loss(batch, Step.at(10, 100, 10))["xlco"] > 0


def test_the_layer_is_the_base_models_eighth():
    task = make()
    assert task.layer == 1, "two thirds of two layers"
    assert make(layer=2).layer == 2
    with pytest.raises(UsageError, match="layer 3"):
        make(layer=3)


def test_gradients_of_the_contrast_stop_at_its_layer():
    task, batch = make(layer=1), tiny.sentences(8)
    task.loss(batch, Step.at())["xlco"].backward()
    blocks = task.encoder.model.encoder.layer
    assert blocks[0].output.dense.weight.grad is not None and blocks[1].output.dense.weight.grad is None


def test_parts_can_be_left_out():
    batch = tiny.sentences(8)
    assert set(make(tlm_weight=0, xlco_weight=0).loss(batch, Step.at())) == {"mlm"}
    task = make(xlco_weight=0)
    assert set(task.loss(batch, Step.at())) == {"mlm", "tlm"} and not hasattr(task, "slow")
    assert make(xlco_weight=0.5).weights["xlco"] == 0.5


def test_a_single_pair_stands_alone_and_nothing_hidden_costs_nothing():
    task, batch = make(xlco_weight=0, tlm_weight=0), tiny.sentences(1)
    source, target = read_pair(batch)
    assert rows(task.blocks(source, target, batch)) == rows(source) + rows(target)
    assert task.loss(batch, Step.at())["mlm"].isfinite()
    task.mask_rate = 0.0
    nothing = task.loss(batch, Step.at())["mlm"]
    nothing.backward()
    assert nothing == 0 and not any(p.grad.any() for p in task.parameters() if p.grad is not None)


def test_a_tokenizer_without_a_mask_is_refused():
    encoder = tiny.OWN_ENCODERS["text"]()
    encoder.vocabulary = encoder.vocabulary._replace(mask=None)
    with pytest.raises(UsageError, match="mask"):
        InfoXLM(encoder)


def test_the_sheet_shows_blanks_words_and_translations():
    task, batch = make().eval(), tiny.sentences(4)
    with torch.no_grad():
        sheet = task.preview(batch, Step.at())
    for row, panels in enumerate(sheet.rows):
        hidden, truth, _, asked, translation, _ = panels
        assert "____" in hidden.content and "[" in truth.content
        assert asked.content == task.encoder.tokenizer.decode(batch["tokens"][row])
        assert translation.content == task.encoder.tokenizer.decode(batch["pair"][row])
        assert all(panel.kind == "text" for panel in panels)
