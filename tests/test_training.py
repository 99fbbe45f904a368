"""The loop: what a run leaves behind, that it is what one would write by hand, and how it computes."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import toys
from pretask.data.loader import batches
from pretask.errors import UsageError
from pretask.pretexts import draw
from pretask.recipe import Recipe
from pretask.task import Player, PretextTask, Step
from pretask.training.checkpoint import load_task_state
from toys import BATCH, STEPS, Crash, altered, assert_same, crash_at, kept, plan_for, rows, train


def test_it_is_the_loop_one_would_write_by_hand(tmp_path):
    """Batches, draws, rates, decay, clipping, hooks: the same bits as a bare loop in plain torch."""
    task, data = train(toys.make(), tmp_path), toys.digits()
    bare = toys.make()
    recipe, schedule = bare.recipe, plan_for(bare).schedule(bare.recipe)
    bare.prepare((data.batch(part) for part in torch.arange(60).split(BATCH)), 60)
    trained = [p for p in bare.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim == 1]
    optimiser = torch.optim.AdamW([{"params": matrices}, {"params": vectors}], betas=recipe.betas, fused=True)
    for index, batch in enumerate(batches(data, BATCH, seed=0, stop=STEPS)):
        step = Step.at(index, STEPS, 5)
        losses = bare.loss(batch, step)
        (0.5 * losses["near"] + losses["calm"]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group, decay in zip(optimiser.param_groups, (schedule.weight_decay(index), 0.0), strict=True):
            group["lr"], group["weight_decay"] = schedule.peak * schedule.shape(index), decay
        optimiser.step()
        optimiser.zero_grad()
        bare.after_step(step)
    for (name, a), b in zip(task.state_dict().items(), bare.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_log_has_what_reports_read(tmp_path):
    task = train(toys.make(), tmp_path)
    found = rows(tmp_path)
    assert [int(row["step"]) for row in found] == list(range(1, STEPS + 1))
    first, last = found[0], found[-1]
    assert float(last["epoch"]) == STEPS / 5
    total = 0.5 * float(first["loss/near"]) + float(first["loss/calm"])
    assert float(first["loss/total"]) == pytest.approx(total)
    assert float(first["chance/near"]) == pytest.approx(task.chance(BATCH)["near"])
    assert "chance/calm" not in first and float(first["metric/size"]) > 0
    schedule = plan_for(task).schedule(task.recipe)
    for row in found:
        index = int(row["step"]) - 1
        assert float(row["lr"]) == pytest.approx(schedule.peak * schedule.shape(index))
        assert float(row["weight_decay"]) == pytest.approx(schedule.weight_decay(index))
        seconds = float(row["seconds/data"]) + float(row["seconds/compute"])
        assert float(row["samples_per_second"]) == pytest.approx(BATCH / seconds)
    assert 1 <= float(last["watch/rankme"]) <= 16 and float(last["watch/feature_std"]) > 0


def test_a_long_run_logs_means_over_steps(tmp_path):
    train(toys.make("contrast"), tmp_path / "long", 400)
    found = rows(tmp_path / "long")
    assert [int(row["step"]) for row in found[:4]] == [1, 2, 4, 6] and int(found[-1]["step"]) == 400
    assert 0 < float(found[-1]["utilisation"]) < 1.5


def test_what_a_run_leaves(tmp_path):
    task = train(toys.make(), tmp_path)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["machine"]["precision"] == "32-true" and environment["command"]
    assert (tmp_path / "skipped.csv").read_text() == "path,reason\n"
    saved = load_file(tmp_path / "encoder.safetensors")
    for name, tensor in task.encoder.model.state_dict().items():
        assert torch.equal(saved[name], tensor)
    assert not list(tmp_path.rglob("*.partial")), "nothing half-written stays"


def test_randomness_of_the_caller_is_left_alone(tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train(toys.make(dropout=0.5), tmp_path / str(seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(tmp_path / "1", tmp_path / "2")


def test_the_seed_matters(tmp_path):
    for seed in (1, 2):
        train(toys.make(), tmp_path / str(seed), seed=seed)
    assert rows(tmp_path / "1")[0]["loss/near"] != rows(tmp_path / "2")[0]["loss/near"]


def test_parts_of_the_task_that_stand_still_stay_so(tmp_path):
    task = toys.make(norm=True)
    task.encoder.model[2].eval()
    train(task, tmp_path, sheets=lambda task, step: task.train())
    assert task.training and not task.encoder.model[2].training
    assert int(task.encoder.model[2].num_batches_tracked) == 0


def test_sheets_are_drawn_in_passing(tmp_path):
    """In evaluation mode, without gradients, without effect; a failure is told and survived."""
    seen, told = [], []

    def sheets(task: PretextTask, step: int) -> None:
        seen.append(step)
        assert not task.training and not torch.is_grad_enabled()
        torch.rand(3)
        if step == 12:
            raise ValueError("no ink")

    train(toys.make(dropout=0.5), tmp_path / "with", sheets=sheets, note=told.append)
    train(toys.make(dropout=0.5), tmp_path / "without")
    assert seen == [0, 2, 3, 4, 6, 8, 9, 10, 12]
    assert_same(tmp_path / "with", tmp_path / "without")
    assert any("no ink" in line for line in told)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toys.make(), tmp_path, loggers=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("loss/near")]
    assert values == pytest.approx([float(row["loss/near"]) for row in rows(tmp_path)], rel=1e-5)
    with pytest.raises(UsageError, match="tensorboard"):
        train(toys.make(), tmp_path / "other", loggers=["wandb"])


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("kind", ["toy", "duel"])
def test_a_batch_in_parts_is_the_whole_batch(tmp_path, kind, parts):
    whole = train(toys.make(kind), tmp_path / "1").state_dict()
    split = train(toys.make(kind), tmp_path / "2", accumulate=parts).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    for a, b in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        assert float(a["loss/total"]) == pytest.approx(float(b["loss/total"]), rel=1e-3, abs=1e-5)


def test_parts_draw_what_the_whole_draws():
    def drawn(number: int, parts: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        with draw.part_of(number, parts):
            draw.permutations(12 // parts, 5, generator)
            return draw.normal((12 // parts, 3), generator)

    whole = drawn(0, 1)
    assert torch.equal(torch.cat([drawn(number, 3) for number in range(3)]), whole)
    assert torch.equal(drawn(0, 1), whole), "afterwards draws are whole again"


def test_parts_are_the_rows_of_the_whole():
    data = toys.digits()
    whole = list(batches(data, 12, seed=0, stop=3))
    parts = list(batches(data, 12, seed=0, stop=3, rank=1, world=2, parts=3))
    for number, batch in enumerate(whole):
        found = torch.cat([part["index"] for part in parts[3 * number : 3 * number + 3]])
        assert torch.equal(found, batch["index"][6:])
    with pytest.raises(UsageError, match="12 cannot be shared evenly by 5 processes in 1 parts"):
        next(batches(data, 12, seed=0, stop=1, world=5))


def test_half_precision(tmp_path):
    """Close to single precision, but not the same; and resumed bit for bit."""
    precision = "bf16-mixed"
    train(toys.make(), tmp_path / "single")
    train(toys.make(), tmp_path / "whole", precision=precision)
    with pytest.raises(Crash):
        train(crash_at(toys.make(), 8), tmp_path / "cut", precision=precision, checkpoint_every=3)
    train(toys.make(), tmp_path / "cut", precision=precision, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    single, half = (rows(tmp_path / name)[-1]["loss/near"] for name in ("single", "whole"))
    assert single != half and float(half) == pytest.approx(float(single), rel=0.1)
    assert kept(tmp_path / "whole")["task/head.weight"].dtype == torch.float32


def test_an_unknown_precision_or_strategy_is_refused(tmp_path):
    with pytest.raises(UsageError, match="bf16-mixed"):
        train(toys.make(), tmp_path, precision="8-bit")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="needs a GPU"):
            train(toys.make(), tmp_path, precision="16-mixed")
    with pytest.raises(UsageError, match="fsdp"):
        train(toys.make(), tmp_path, strategy="magic")
    with pytest.raises(UsageError, match="12 cannot be shared evenly"):
        train(toys.make(), tmp_path, accumulate=5)
    with pytest.raises(UsageError, match="checkpoint_every must be positive"):
        train(toys.make(), tmp_path, checkpoint_every=0)


def test_players_learn_from_their_own_losses_only(tmp_path):
    """One step of plain SGD and Adam, against gradients taken apart by hand."""
    task, data = toys.make("duel"), toys.digits()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    step = Step.at(0, 1, 5)
    losses = task.loss(next(batches(data, BATCH, seed=0, stop=1)), step)
    named = dict(task.named_parameters())
    solver = {name: p for name, p in named.items() if not name.startswith("lens")}
    lens = {name: p for name, p in named.items() if name.startswith("lens")}
    own = torch.autograd.grad(losses["solve"], list(solver.values()), retain_graph=True)
    others = torch.autograd.grad(losses["spoil"] + losses["keep"], list(lens.values()))
    train(task, tmp_path, steps=1)
    for (name, p), gradient in zip(solver.items(), own, strict=True):
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * gradient, msg=name)
    for (name, p), gradient in zip(lens.items(), others, strict=True):
        moved = -1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(p.detach(), before[name] + moved, msg=name)


def test_a_player_without_parameters_or_with_anothers_is_refused(tmp_path):
    recipe = Recipe()
    for modules, problem in ((("nothing",), "no parameter"), (("encoder.model.1",), "two players")):
        task = toys.make("duel")
        task.players["other"] = Player(modules, ("solve",), recipe)
        with pytest.raises(UsageError, match=problem):
            train(task, tmp_path)
    task = toys.make("duel")
    task.players["spoiler"] = Player(("lens",), ("mischief",), recipe)
    with pytest.raises(UsageError, match="mischief"):
        train(task, tmp_path)
    task.stages = toys.make("staged").stages
    with pytest.raises(UsageError, match="both"):
        train(task, tmp_path)


def test_stages_follow_one_another(tmp_path):
    seen = []

    def look(task, losses, step):
        seen.append((step.stage, task.encoder.model[1].weight.clone(), task.head.weight.clone()))
        return losses

    train(altered(toys.make("staged"), look), tmp_path)
    assert [stage for stage, _, _ in seen] == [0] * 3 + [1] * 6 + [2] * 3
    encoder = [weight for _, weight, _ in seen]
    assert not torch.equal(encoder[0], encoder[3])
    assert all(torch.equal(encoder[3], weight) for weight in encoder[3:]), "frozen from the second stage on"
    assert not torch.equal(seen[4][2], seen[8][2]), "the head goes on learning"
    found = rows(tmp_path)
    assert [float(found[i]["lr"]) for i in (0, 3, 9)] == pytest.approx([1e-2, 0.0, 0.1])
    peaks = {name: group["peak"] for group in final_groups(tmp_path) for name in group["names"]}
    assert peaks == {"head.weight": 0.1, "head.bias": 0.1, "added.weight": 0.01, "added.bias": 0.01}


def final_groups(folder: Path) -> list[dict]:
    """The groups of a finished staged run's last optimiser."""
    from pretask.training.learners import make_learners

    task = toys.make("staged")
    load_task_state(task, folder)
    return make_learners(task, plan_for(task), 2)["main"].optimiser.param_groups


def test_what_needs_no_gradient_gets_none(tmp_path):
    task = toys.make("counting")
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    train(task, tmp_path, steps=30)
    pictures = toys.digits().batch(range(60))["image"].float().mean(0)
    assert F.mse_loss(task.average, pictures) < 0.1 * pictures.square().mean()
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in task.named_parameters())
    assert "lr" not in rows(tmp_path)[0]
