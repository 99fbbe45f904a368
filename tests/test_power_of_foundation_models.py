"""The three theorems by enumeration, what a network learns of them, and what they say of data."""

from itertools import product
from random import Random

import pytest
import torch

from pretask.studies.theory import foundation, posets
from pretask.studies.theory.bridge import chains, label_tasks
from pretask.studies.theory.categories import (
    KRONECKER,
    LATTICE,
    Z2,
    FinCat,
    Presheaf,
    coend,
    identity,
    inclusion,
    poset,
    presheaves,
    random_monoid,
    random_poset,
    transformations,
    universal_element,
    yoneda,
)


class TestTheorems:
    @pytest.mark.parametrize(
        ("name", "numbers", "pairs"),
        [
            ("cospan", (43, 3, 3, 3), 129),
            ("span", (59, 3, 3, 3), 177),
            ("Z2", (8, 1, 1, 2), 8),
            ("Kronecker", (910, 3, 3, 5), 1820),
            ("idempotent", (15, 2, 2, 3), 15),
            ("chain", (47, 3, 3, 3), 141),
        ],
    )
    def test_counts(self, name, numbers, pairs):
        cat, most = foundation.CASES[name]
        check = foundation.prompting(name, cat, most)
        assert tuple(check.counted.values()) == numbers and check.holds
        check = foundation.fine_tuning(name, cat, most)
        assert check.holds and check.counted["objects and tasks"] == pairs
        assert check.counted["of these by no prompt"] == numbers[0] - numbers[1]

    @pytest.mark.parametrize(
        ("name", "pairs"), [("cospan", 177), ("Kronecker", 50), ("chain", 141), ("Z2", 8), ("idempotent", 15)]
    )
    def test_extensions(self, name, pairs):
        check = foundation.extension(name, foundation.CASES[name][0], foundation.COPRESHEAVES[name])
        assert check.holds and check.counted["given back"] == pairs

    @pytest.mark.parametrize("seed", range(6))
    def test_random_categories(self, seed):
        rng = Random(seed)
        orders = [(random_poset(4, rng), 2), (random_poset(5, rng), 1)]
        monoids = [(random_monoid(3, rng), 3), (random_monoid(4, rng), 2)]
        for cat, most in orders + monoids:
            assert foundation.prompting("", cat, most).holds
            assert foundation.fine_tuning("", cat, most).holds
            assert foundation.extension("", cat, min(most, 2)).holds

    def test_equal_sizes_are_not_enough(self):
        """Two answers that the symmetry leaves alone, against two that it exchanges: the prompt's."""
        still = Presheaf({"*": 2}, {identity("*"): (0, 1), "*1": (0, 1)})
        assert still.sizes == yoneda(Z2, "*").sizes
        assert not foundation.prompted(Z2, still) and universal_element(Z2, still) is None
        moved = Presheaf({"*": 2}, {identity("*"): (0, 1), "*1": (1, 0)})
        assert foundation.prompted(Z2, moved) and universal_element(Z2, moved) == ("*", 0)

    def test_what_is_not_natural_is_refused(self, monkeypatch):
        """The check of theorem 2 can fail: with the Yoneda map's entries exchanged it does."""
        t = next(t for t in presheaves(Z2, 2) if foundation.prompted(Z2, t))
        assert foundation.answers_naturally(Z2, t)
        right = foundation.yoneda_map
        monkeypatch.setattr(
            foundation, "yoneda_map", lambda *args: {z: table[:1] * 2 for z, table in right(*args).items()}
        )
        assert not foundation.answers_naturally(Z2, t)

    def test_the_extension_keeps_sums(self):
        """It preserves colimits, which makes it the only such extension: checked on disjoint unions."""
        functors = list(presheaves(KRONECKER.opposite(), 2))
        tasks, rng = list(presheaves(KRONECKER, 2)), Random(0)
        for s, t, f in [(rng.choice(tasks), rng.choice(tasks), rng.choice(functors)) for _ in range(40)]:
            both = Presheaf(
                {x: s.sizes[x] + t.sizes[x] for x in KRONECKER.objects},
                {
                    m: s.tables[m] + tuple(i + s.sizes[a] for i in t.tables[m])
                    for m, (a, _) in KRONECKER.arrows.items()
                },
            )
            classes = [len(set(coend(KRONECKER, part, f).values())) for part in (s, t, both)]
            assert classes[0] + classes[1] == classes[2]

    def test_rotations_answer_for_one_picture_only(self):
        check = foundation.rotations(2)
        assert check.holds and tuple(check.counted.values()) == (2, 2, 9, 0)

    def test_minimum_power(self):
        found = {check.case: check for check in foundation.minimum_power()}
        assert all(check.holds for check in found.values())
        solved = {case: tuple(check.counted.values()) for case, check in found.items()}
        assert solved["Kronecker, its arrows exchanged"] == solved["Kronecker, the model itself"] == (25, 25)
        assert solved["Kronecker, its arrows merged"] == (25, 11)
        assert solved["cospan, one arrow never learned"][1] > 0

    def test_only_loops_survive_merged_ends(self):
        """By hand: with both ends merged a head answers graphs whose edges all are loops, and no others."""
        loops = sum(t.tables["s"] == t.tables["t"] for t in presheaves(KRONECKER, 2))
        found = {check.case: check for check in foundation.minimum_power()}
        assert found["Kronecker, its arrows merged"].counted["solved by a head"] == loops == 11


class TestCreation:
    same = inclusion(LATTICE, LATTICE)

    def decode(self, *seen):
        return {x: foundation.decode(seen, LATTICE, LATTICE, self.same, x) for x in LATTICE.objects}

    def test_all_eight_are_found_from_three(self):
        assert self.decode("1", "2", "3") == {x: [x] for x in LATTICE.objects}

    def test_two_leave_two_candidates(self):
        found = self.decode("1", "2")
        assert all(len(candidates) == 2 and x in candidates for x, candidates in found.items())

    def test_the_seen_must_be_dense(self):
        """Every object is found exactly where the seen ones are dense: Hom(c, d) = Nat(N(c), N(d))."""
        for seen in [("1", "2", "3"), ("1", "2"), ("12", "13", "23"), ("0", "1", "2", "3"), ("123",)]:
            known = LATTICE.full(seen)
            near = {}
            for c in LATTICE.objects:
                h = yoneda(LATTICE, c)
                near[c] = Presheaf({z: h.sizes[z] for z in seen}, {m: h.tables[m] for m in known.arrows})
            dense = all(
                len(list(transformations(known, near[c], near[d]))) == len(LATTICE.hom(c, d))
                for c, d in product(LATTICE.objects, repeat=2)
            )
            assert dense == (self.decode(*seen) == {x: [x] for x in LATTICE.objects})

    def test_conditions(self):
        found = {check.case: check for check in foundation.creation()}
        assert all(check.holds for check in found.values())
        full = next(check for case, check in found.items() if "not full" in case)
        assert full.counted["taken for another"] == 1
        faithful = next(check for case, check in found.items() if "not faithful" in case)
        assert faithful.counted["without candidate"] == 1
        poorer = poset(LATTICE.objects, lambda x, y: f"{x}<{y}" in LATTICE.arrows and (x, y) != ("1", "12"))
        assert foundation.decode("123", poorer, LATTICE, inclusion(poorer, LATTICE), "12") == ["2"]

    def test_naturality_among_the_seen_decides(self):
        """z has a symmetry; it exchanges the two arrows z -> x and fixes the two z -> y."""
        arrows = {"s": ("z", "z"), "p": ("z", "x"), "q": ("z", "x"), "u": ("z", "y"), "w": ("z", "y")}
        after = {("s", "s"): "1_z", ("p", "s"): "q", ("q", "s"): "p", ("u", "s"): "u", ("w", "s"): "w"}
        cat = FinCat("zxy", arrows, after)
        assert foundation.decode("z", cat, cat, inclusion(cat, cat), "x") == ["z", "x"]
        assert foundation.decode("z", cat, cat, inclusion(cat, cat), "y") == ["y"]


class TestLearned:
    def test_orders_and_down_sets(self):
        generator = torch.Generator().manual_seed(0)
        below = posets.random_order(30, generator)
        assert below.diagonal().all() and not (below & below.T).fill_diagonal_(False).any()
        assert torch.equal((below.float() @ below.float()) > 0, below), "transitive"
        tasks = posets.down_sets(below, 50, generator)
        for task in tasks:
            assert all(task[x] for x, y in product(range(30), repeat=2) if below[x, y] and task[y])
        assert len(tasks) == 50 and tasks.any(1).all()

    def test_prompts_solve_the_representable_and_heads_all(self):
        prompt, head = posets.solved("prompt", 0), posets.solved("head", 0)
        assert prompt["solved of the representable"] == 1 and prompt["solved of the others"] == 0
        assert head["solved"] == 1

    def test_merged_objects_are_lost(self):
        generator = torch.Generator().manual_seed(0)
        below = posets.random_order(12, generator)
        tasks = posets.down_sets(below, 20, generator)
        merged = posets.merge(torch.randn(12, 16, generator=generator), tasks)
        same = [(x, y) for x in range(12) for y in range(x) if torch.equal(merged[x], merged[y])]
        assert len(same) == 1
        x, y = same[0]
        answers = posets.heads(merged, tasks)
        assert torch.equal(answers[:, x], answers[:, y])
        apart = tasks[:, x] != tasks[:, y]
        assert apart.any() and not (answers == tasks).all(1)[apart].any()


class TestBridge:
    def test_chains_of_nearest_neighbours(self):
        """1 and 2 are each other's nearest, 0 leads to them; so do 3 and 4 among themselves."""
        centres = torch.tensor([[0.0], [1.5], [2.5], [10.0], [11.0]])
        expected = torch.zeros(5, 5, dtype=torch.bool)
        expected[:3, 1:3] = expected[3:, 3:] = True
        assert torch.equal(chains(centres), expected | torch.eye(5, dtype=torch.bool))

    def test_islands_are_prompted_and_mixtures_are_not(self):
        generator = torch.Generator().manual_seed(0)
        place = torch.arange(4).repeat_interleave(50)  # four islands of 50 items
        far = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
        features = far[place] + torch.randn(200, 2, generator=generator)
        for labels, tasks, prompted in (
            (place, 4, 4),  # a class an island
            (place // 2, 2, 0),  # two islands a class: a task, but no single prompt for it
            (torch.arange(200) % 2, 0, 0),  # classes that cut through islands
        ):
            found = label_tasks(features, labels, 8 if tasks else 60)
            if tasks:
                assert (found["tasks"], found["purity"]) == (tasks, 1.0)
            else:
                assert found["tasks"] < found["classes with a cluster"]
            if prompted == 0:
                assert found["solved by one prompt"] == 0
