"""Learning by rewards: GRPO by trl, a rewarded run that goes on where it stopped, and the distance from its start."""

import copy

import pytest
import torch

import tiny
from pretask import reinforce, train
from pretask.data import open_data
from pretask.errors import PretaskError, UsageError
from pretask.methods.image.visual_jigsaw import VisualJigsaw
from pretask.posttrain import paid
from pretask.puzzles.visual_jigsaw import reward
from pretask.puzzles.write import write_puzzles
from pretask.training import checkpoint
from pretask.training.rl import GRPO, grpo, questions, settings
from test_visual_jigsaw import SMALL, small


@pytest.fixture(scope="module")
def digits():
    return open_data("digits", limit=48)


class TestGRPO:
    def test_the_papers_settings_in_trls_words(self):
        trl = pytest.importorskip("trl")
        config = trl.GRPOConfig(**settings(GRPO(steps=7, prompts=4, rollouts=16), 18, 0, 1, "unused"))
        assert (config.beta, config.epsilon, config.num_iterations, config.temperature) == (0.0, 0.2, 1, 1.0)
        assert (config.entropy_coef, config.scale_rewards, config.loss_type) == (0.0, "group", "dapo")
        assert config.num_generations == 16 and config.generation_batch_size == 64
        assert config.steps_per_generation == config.gradient_accumulation_steps == 1, "one update a batch"
        assert str(config.lr_scheduler_type.value) == "constant" and config.max_steps == 7

    def test_an_advantage_by_hand(self, digits, monkeypatch):
        """(r - mean) / (spread + 1e-6) of each group, also where rewards hardly differ."""
        trl, advantages = pytest.importorskip("trl"), []
        compute = trl.GRPOTrainer._compute_loss

        def noted(trainer, model, inputs):
            advantages.append(inputs["advantages"].double())
            return compute(trainer, model, inputs)

        monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", noted)
        paid = [0.0, 1.0, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5002]
        plan = GRPO(steps=1, prompts=2, rollouts=4)
        rows = grpo(small_on(digits), digits, plan, reward=lambda completions, **more: paid, every=1)
        expected = []
        for group in (paid[:4], paid[4:]):
            mean = sum(group) / 4
            spread = (sum((r - mean) ** 2 for r in group) / 3) ** 0.5
            expected += [(r - mean) / (spread + 1e-6) for r in group]
        assert sorted(torch.cat(advantages).tolist()) == pytest.approx(sorted(expected), rel=1e-2, abs=1e-3)
        assert rows[0]["reward"] == pytest.approx(sum(paid) / 8), "what is noted is the reward itself"
        whole = torch.tensor(paid, dtype=torch.float64).std()
        assert rows[0]["reward spread"] == pytest.approx(float(whole), rel=1e-4)

    def test_a_group_answers_one_puzzle_and_steps_differ(self, digits):
        task = small_on(digits)
        asked = questions(task, digits, GRPO(steps=3, prompts=2), seed=0)
        assert len(asked) == 6
        once, again = asked[1], asked[1]
        assert once["answer"] == again["answer"]
        assert all(torch.equal(a, b) for a, b in zip(once["images"], again["images"], strict=True))
        assert len({tuple(row["answer"]) for row in asked}) > 3
        other = questions(task, digits, GRPO(steps=3, prompts=2), seed=1)
        assert [row["answer"] for row in other] != [row["answer"] for row in asked]

    def test_rewards_teach(self, digits):
        """What is paid becomes more frequent, the encoder learns with the policy, and nothing else changes."""
        task = small_on(digits).eval()
        before = copy.deepcopy(task.state_dict())
        state = torch.get_rng_state()

        plan = GRPO(steps=12, prompts=4, rollouts=8, lr=5e-3)
        rows = grpo(task, digits, plan, reward=ones, every=1)
        assert torch.equal(torch.get_rng_state(), state) and not task.training
        assert [row["step"] for row in rows] == list(range(1, 13))
        first, last = (sum(row["reward"] for row in part) / 3 for part in (rows[:3], rows[-3:]))
        assert last > 1.5 * first, rows
        changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
        assert any(name.startswith("encoder.") for name in changed) and "solver.place" in changed
        assert all(p.grad is None for p in task.parameters())

    def test_the_seed_decides(self, digits):
        plan, found = GRPO(steps=2, prompts=2, rollouts=4), []
        for seed, noise in ((0, 1), (0, 2), (1, 1)):
            torch.manual_seed(noise)
            task = small_on(digits)
            grpo(task, digits, plan, seed=seed, reward=lengths)
            found.append(task.solver.head.weight.detach().clone())
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])

    def test_equal_rewards_teach_nothing(self, digits):
        """No KL term, no entropy bonus, no decay: where all answers are paid alike nothing moves."""
        task = small_on(digits)
        before = [p.detach().clone() for p in task.parameters()]
        rows = grpo(
            task, digits, GRPO(steps=2, prompts=2, rollouts=4), reward=lambda completions, **more: [0.5] * 8
        )
        assert all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))
        assert rows[-1]["groups without spread"] == 1.0

    def test_impossible_plans(self):
        for wrong in ({"steps": 0}, {"rollouts": 1}, {"prompts": 0}):
            with pytest.raises(UsageError):
                GRPO(**wrong)

    def test_trl_drives_the_policy_on_a_written_data_set(self, photo_folder, tmp_path):
        """The parquet files and the reward as a person would use them, with the small policy in the place of
        a large model."""
        trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
        written = write_puzzles(
            "visual-jigsaw", photo_folder(4), tmp_path / "out", options={"wrapper": "none"}
        )
        task = small()
        told = []
        trainer = trl.GRPOTrainer(
            model=task.policy(), processing_class=task.processor(), reward_funcs=reward,
            train_dataset=datasets.Dataset.from_parquet(str(written.files[0]), cache_dir=str(tmp_path / "c")),
            args=trl.GRPOConfig(**settings(GRPO(steps=1, prompts=2, rollouts=2), 18, 0, 1, str(tmp_path / "t"))),
        )  # fmt: skip
        with torch.random.fork_rng():
            trainer.train()
        told = trainer.state.log_history[0]
        assert {"reward", "exact", "correct"} <= set(told)


def small_on(dataset) -> VisualJigsaw:
    from pretask.encoders import build_encoder

    encoder = build_encoder(tiny.ENCODERS["grid"], seed=0, **dataset.inputs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisualJigsaw(encoder, **SMALL)


def lengths(completions, **columns) -> list[float]:
    return [float(len(text[0]["content"])) for text in completions]


def test_from_a_run_to_a_rewarded_run(tmp_path):
    """`pretask train`, then `pretask reinforce`: the encoder is kept and judged like any other."""
    run = train(
        "visual-jigsaw", "digits", tiny.ENCODERS["grid"], tmp_path / "run", options=SMALL, max_steps=2,
        batch_size=8, evaluate=False,
    )  # fmt: skip
    with pytest.raises(UsageError, match="'partail'"):
        reinforce(run.folder, rewards={"partail": 0.0})
    rewarded = reinforce(run.folder, steps=2, prompts=2, rollouts=4, lr=1e-2, rewards={"partial": 0.5})
    assert rewarded.folder == tmp_path / "run-grpo"
    assert [row["step"] for row in rewarded.metrics] == [1, 2] and "reward" in rewarded.metrics[0]
    assert rewarded.config["plan"]["recipe"]["kl"] == 0.0 and rewarded.config["init"] == str(run.folder)
    kept, loaded = rewarded.load_encoder(), rewarded.load_task()
    for a, b in zip(kept.parameters(), loaded.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {score["arm"] for score in rewarded.scores} >= {"encoder", "pixels"}
    assert (rewarded.folder / "report.html").is_file() and (
        rewarded.folder / "preview" / "step-2.png"
    ).is_file()
    with pytest.raises(UsageError, match="holds a run"):
        reinforce(run.folder, steps=1, prompts=1, rollouts=2)


def test_a_run_that_poses_no_puzzles(tmp_path):
    run = train(
        "rotation",
        "digits",
        tiny.ENCODERS["grid"],
        tmp_path / "run",
        max_steps=1,
        batch_size=8,
        evaluate=False,
    )
    with pytest.raises(UsageError, match="rotation, which poses no puzzles"):
        reinforce(run.folder)


def test_settings_of_the_reward():
    task = small()
    assert paid(task, None) is task.reward
    assert paid(task, {"partial": 0.0})(["2,1,3,4,5"], [[1, 2, 3, 4, 5]], ["none"]) == [0.0]
    with pytest.raises(UsageError, match="formula"):
        paid(task, {"log_metric": print})


def ones(completions, **columns) -> list[float]:
    return [text[0]["content"].count("1") / 8 for text in completions]


class Stopped(Exception):
    pass


def stop_after(step: int):
    """Breaks off a training when a step has been noted and its checkpoint has been written."""

    def note(done: int, row: dict[str, float]) -> None:
        if done > step:
            raise Stopped

    return note


class TestGoingOn:
    PLAN = GRPO(steps=4, prompts=2, rollouts=4, lr=5e-3)

    def test_it_ends_where_an_unbroken_training_does_bit_for_bit(self, digits, tmp_path):
        whole, broken = small_on(digits), small_on(digits)
        rows = grpo(whole, digits, self.PLAN, reward=lengths, every=1, folder=tmp_path / "whole")
        with pytest.raises(Stopped):
            grpo(
                broken,
                digits,
                self.PLAN,
                reward=lengths,
                every=1,
                note=stop_after(2),
                folder=tmp_path / "broken",
            )
        torch.manual_seed(5)
        again = small_on(digits)
        rest = grpo(
            again, digits, self.PLAN, reward=lengths, every=1, folder=tmp_path / "broken", resume=True
        )
        assert [row["step"] for row in rest] == [3, 4] and rest == rows[2:]
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
        (_, one), (_, other) = (checkpoint.read(tmp_path / name) for name in ("whole", "broken"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert any(name.startswith(checkpoint.OPTIMISER) for name in one)

    def test_what_is_done_is_not_done_again(self, digits, tmp_path):
        grpo(small_on(digits), digits, self.PLAN, reward=lengths, every=1, folder=tmp_path)
        assert grpo(small_on(digits), digits, self.PLAN, folder=tmp_path, resume=True) == []

    def test_another_plan_is_refused(self, digits, tmp_path):
        grpo(small_on(digits), digits, GRPO(steps=1, prompts=2, rollouts=4), reward=lengths, folder=tmp_path)
        with pytest.raises(PretaskError, match="other settings"):
            grpo(small_on(digits), digits, self.PLAN, folder=tmp_path, resume=True)

    def test_a_run_goes_on_from_the_command_that_started_it(self, tmp_path, monkeypatch):
        run = train(
            "visual-jigsaw", "digits", tiny.ENCODERS["grid"], tmp_path / "run", options=SMALL, max_steps=1,
            batch_size=8, evaluate=False,
        )  # fmt: skip
        asked = {"steps": 3, "prompts": 2, "rollouts": 4, "evaluate": False}
        reinforce(run.folder, out=tmp_path / "whole", **asked)
        written = checkpoint.save

        def once(*args, **more):
            written(*args, **more)
            raise Stopped

        monkeypatch.setattr(checkpoint, "save", once)
        with pytest.raises(Stopped):
            reinforce(run.folder, out=tmp_path / "broken", **asked)
        monkeypatch.setattr(checkpoint, "save", written)
        with pytest.raises(UsageError, match="'plan'"):
            reinforce(run.folder, out=tmp_path / "broken", resume=True, **asked | {"steps": 5})
        again = reinforce(run.folder, out=tmp_path / "broken", resume=True, **asked)
        assert [row["step"] for row in again.metrics] == [1, 2, 3]
        (_, one), (_, other) = (checkpoint.read(tmp_path / name) for name in ("whole", "broken"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_divergence_from_the_start_is_measured_and_paid_for(digits):
    """It is nothing at first, grows as the policy learns what is paid, and grows less where it costs."""
    far = {}
    for kl in (1e-9, 10.0):
        plan = GRPO(steps=12, prompts=4, rollouts=8, lr=5e-3, kl=kl)
        rows = grpo(small_on(digits), digits, plan, reward=ones, every=1)
        assert rows[0]["divergence"] == pytest.approx(0, abs=1e-5)
        far[kl] = sum(row["divergence"] for row in rows[-4:])
    assert 0 < far[10.0] < 0.8 * far[1e-9], far
    without = grpo(small_on(digits), digits, GRPO(steps=1, prompts=2, rollouts=4), reward=ones, every=1)
    assert "divergence" not in without[0]
