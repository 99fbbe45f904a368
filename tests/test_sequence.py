"""A stream of classes: its order, its memory, what was learned and what forgotten."""

import numpy as np
import pytest
import torch

import tiny
from pretask.data.dataset import Dataset, Memory
from pretask.data.loader import Order, batches, task_of_class
from pretask.errors import UsageError
from pretask.evaluation.protocols import evaluate
from pretask.evaluation.sequence import (
    Learned,
    backward_transfer,
    final_accuracy,
    forgetting,
    forward_transfer,
    learn_sequence,
)
from pretask.methods.image.cler import CLER
from pretask.objectives.memory import Reservoir, reservoir_places
from pretask.recipe import Recipe
from pretask.task import Step
from pretask.training.plan import make_plan


def digits(count: int, start: int = 0) -> Dataset:
    batch = tiny.images(count, start=start)
    return Dataset(
        Memory({"image": batch["image"]}), "digits", channels=3, image_size=32, targets=batch["label"],
        classes=[str(number) for number in range(10)],
    )  # fmt: skip


class TestOrder:
    def test_lower_groups_come_first_and_are_shuffled_among_themselves(self):
        groups = torch.arange(60) % 3
        order = Order(60, 10, 0, groups)
        drawn = torch.cat([order[number] for number in range(6)])
        assert sorted(drawn.tolist()) == list(range(60))
        assert groups[drawn].tolist() == sorted(groups.tolist())
        assert drawn[:20].tolist() != sorted(drawn[:20].tolist())

    def test_a_batch_is_a_function_of_its_number(self):
        groups = torch.arange(60) % 3
        order = Order(60, 10, 5, groups)
        forwards = [order[number].tolist() for number in range(12)]
        again = Order(60, 10, 5, groups)
        assert [again[number].tolist() for number in reversed(range(12))] == forwards[::-1]
        assert forwards[:6] != forwards[6:], "the next pass has another order within tasks"

    @pytest.mark.parametrize(("count", "size"), [(60, 10), (62, 10), (6, 8)])
    def test_all_passes_over_a_task_come_before_the_next_task(self, count, size):
        """A, A, B, B, not A, B, A, B; each pass in an order of its own."""
        groups, passes = torch.arange(count) % 2, 3
        order = Order(count, size, 4, groups, passes)
        steps = max(1, count // size) * passes
        drawn = [order[number] for number in range(steps)]
        expected = []
        for task in range(2):
            for epoch in range(passes):
                mixed = np.random.default_rng([4, epoch]).permutation(count).tolist()
                mixed = (mixed * size)[: max(count, size)]  # fewer than a batch are repeated
                expected += [row for row in mixed if groups[row] == task]
        assert torch.cat(drawn).tolist() == expected[: steps * size]
        again = Order(count, size, 4, groups, passes)
        assert all(torch.equal(again[n], drawn[n]) for n in reversed(range(steps))), (
            "from wherever it goes on"
        )
        stream = [batch["label"] for batch in batches(digits(80), 8, seed=0, stop=20, tasks=5, passes=2)]
        tasks = task_of_class(10, 5)[torch.cat(stream)]
        assert tasks.tolist() == sorted(tasks.tolist()) and len(tasks.unique()) == 5

    def test_tasks_are_consecutive_classes(self):
        assert task_of_class(10, 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert task_of_class(10, 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert task_of_class(2, 5).unique().numel() == 2
        stream = list(batches(digits(80), 8, seed=0, stop=10, tasks=5))
        tasks = task_of_class(10, 5)[torch.cat([batch["label"] for batch in stream])]
        assert tasks.tolist() == sorted(tasks.tolist()) and len(tasks.unique()) == 5

    def test_without_labels_there_is_no_order(self):
        unlabelled = Dataset(Memory({"image": torch.zeros(8, 3, 8, 8)}), "things", 3, 8)
        with pytest.raises(UsageError, match="no labels"):
            next(batches(unlabelled, 4, seed=0, stop=1, tasks=2))

    def test_a_stream_is_passed_once_by_default(self):
        recipe = Recipe("sgd", epochs=1, tasks=5)
        assert make_plan(recipe, 1000, batch_size=10).steps == 100
        assert make_plan(recipe, 1000, batch_size=10, epochs=3).steps == 300


class TestReservoir:
    @pytest.mark.parametrize("seen", [0, 3, 5, 40])
    def test_places_are_those_of_the_loop(self, seen):
        size, rng = 5, np.random.default_rng(seen)
        for _ in range(50):
            drawn = [int(rng.integers(seen + i + 1)) for i in range(7)]
            held = {}
            for i in range(7):
                n = seen + i
                if n < size:
                    held[n] = i
                elif drawn[i] < size:
                    held[drawn[i]] = i
            rows, places = reservoir_places(seen, size, torch.tensor(drawn))
            assert dict(zip(places.tolist(), rows.tolist(), strict=True)) == held

    def test_every_picture_is_kept_equally_often(self):
        """40 pictures, 4 places, 500 reservoirs: each is kept in a tenth of them, give or take chance."""
        kept = torch.zeros(40)
        for seed in range(500):
            reservoir = Reservoir(4, (1, 1, 1))
            generator = torch.Generator().manual_seed(seed)
            for part in torch.arange(40).split(7):
                reservoir.add(torch.zeros(len(part), 1, 1, 1), part, generator)
            assert len(reservoir) == 4 and int(reservoir.seen) == 40
            kept[reservoir.labels] += 1
        assert kept.sum() == 2000, "no picture is kept twice"
        chi_squared = ((kept - 50).square() / (50 * 0.9)).sum()
        assert chi_squared < 39 + 4 * (2 * 39) ** 0.5

    def test_pictures_of_bytes_come_back_exactly(self):
        image = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
        reservoir = Reservoir(8, (3, 4, 4))
        reservoir.add(image.float() / 255, torch.arange(6), torch.Generator())
        places = reservoir.draw(10, torch.Generator().manual_seed(0))
        assert sorted(places.tolist()) == list(range(6)), "what is empty is not drawn, and nothing twice"
        images, labels = reservoir.get(places)
        assert torch.equal(images, image[labels].float() / 255)


class TestScores:
    results = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.8, 0.2], [0.6, 0.3, 0.7]]).double()

    def test_formulas(self):
        assert final_accuracy(self.results) == pytest.approx((0.6 + 0.3 + 0.7) / 3)
        assert forgetting(self.results) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.3)) / 2)
        assert backward_transfer(self.results) == pytest.approx(((0.6 - 0.9) + (0.3 - 0.8)) / 2)
        untrained = torch.tensor([0.5, 0.05, 0.1]).double()
        assert forward_transfer(self.results, untrained) == pytest.approx(((0.1 - 0.05) + (0.2 - 0.1)) / 2)

    def test_forgetting_is_never_negative_for_the_last_row_counts(self):
        better = torch.tensor([[0.2, 0.0], [0.9, 0.5]])
        assert forgetting(better) == 0 and backward_transfer(better) == pytest.approx(0.7)

    def test_items_weigh_every_task_alike(self):
        right, task = torch.tensor([1.0, 0, 0, 0, 1]).double(), torch.tensor([0, 0, 0, 0, 1])
        learned = Learned(torch.tensor([[0.0, 0.0], [0.25, 1.0]]), torch.zeros(2), right, task)
        assert float(learned.items.mean()) == pytest.approx(final_accuracy(learned.results))


def naive_results(task, train_set, test_set, tasks: int) -> list[list[float]]:
    """The same stream in a loop of its own, tested sample by sample."""
    group, rows = task_of_class(10, tasks), []
    optimiser = torch.optim.SGD(task.parameters(), lr=task.recipe.lr)
    stream = list(batches(train_set, 8, seed=0, stop=len(train_set) // 8, tasks=tasks))
    for index, batch in enumerate(stream):
        step = Step.at(index, len(stream), len(stream))
        optimiser.zero_grad()
        task.total(task.loss(batch, step)).backward()
        optimiser.step()
        task.after_step(step)
        later = [int(group[label]) for b in stream[index + 1 :] for label in b["label"]]
        while len(rows) < tasks and min(later, default=tasks) > len(rows):
            task.eval()
            row = []
            for number in range(tasks):
                members = [i for i in range(len(test_set)) if group[test_set.labels[i]] == number]
                hits = 0
                for i in members:
                    one = test_set.batch([i])
                    with torch.no_grad():
                        hits += int(task.classify(task.pictures(one)).argmax() == one["label"][0])
                row.append(hits / len(members))
            task.train()
            rows.append(row)
    return rows


def test_a_sequence_is_its_loop():
    def task():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return CLER(tiny.encoder("grid"), num_tasks=2, buffer_size=12)

    train_set, test_set = digits(64), digits(40, start=64)
    learned = learn_sequence(task(), train_set, test_set, tasks=2, batch_size=8)
    naive = task()
    naive.prepare([train_set.batch(range(64))], 64)
    torch.testing.assert_close(
        learned.results, torch.tensor(naive_results(naive, train_set, test_set, 2)).double()
    )
    assert float(learned.items.mean()) == pytest.approx(final_accuracy(learned.results))


def test_a_sequence_judges_any_encoder():
    scores = evaluate(tiny.encoder("patches"), digits(60), digits(40, start=60), ["sequence"])
    assert [score.metric for score in scores] == [
        "accuracy", "forgetting", "backward transfer", "forward transfer",
    ]  # fmt: skip
    results = torch.tensor(scores[0].detail["results"])
    assert results.shape == (5, 5)
    assert scores[0].value == pytest.approx(float(scores[0].items.mean()))
    assert scores[1].value == pytest.approx(forgetting(results))


def test_a_task_without_samples_is_refused():
    train_set, test_set = digits(64), digits(40, start=64)
    few = test_set.subset((test_set.labels < 5).nonzero().flatten())
    with pytest.raises(UsageError, match="every one"):
        learn_sequence(CLER(tiny.encoder("grid")), train_set, few, tasks=5)
    with pytest.raises(UsageError, match="two tasks"):
        learn_sequence(CLER(tiny.encoder("grid")), train_set, test_set, tasks=1)
