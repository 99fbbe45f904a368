"""LENS: gradients that do not mix, a lens that starts as nothing, and the features that are kept."""

import copy

import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.encoders import load_encoder, save_encoder
from pretask.encoders.lens import LensedEncoder, LensNet
from pretask.errors import UsageError
from pretask.export import export
from pretask.methods.image.barlow_twins import BarlowTwins
from pretask.methods.image.jigsaw import Jigsaw
from pretask.methods.image.lens import FGSM, Lens, same_draws
from pretask.methods.image.patch_puzzle import standardised
from pretask.methods.image.pirl import PIRL
from pretask.methods.image.relative_location import RelativeLocation
from pretask.methods.image.rotation import Rotation
from pretask.methods.image.simclr import SimCLR
from pretask.methods.image.simsiam import SimSiam
from pretask.methods.joint import Joint
from pretask.objectives.adversarial import fast_gradient_sign, least_likely
from pretask.task import Step
from pretask.training.learners import make_learners
from pretask.training.optimisers import set_rates
from pretask.training.plan import make_plan


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def awake(task: Lens) -> Lens:
    """With a lens that does change pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(task.lens.edit.last.weight, std=0.05)
    return task


def lens(kind: str = "grid", **options) -> Lens:
    return seeded(lambda: Lens(tiny.encoder(kind), **options))


def gradients(task: Lens, batch: dict, step: Step) -> dict[str, torch.Tensor]:
    """As the loop forms them: both players from one forward pass."""
    task.zero_grad()
    learners = make_learners(task, make_plan(task.recipe, 100, max_steps=10), 0)
    losses = task.loss(batch, step)
    assert set(learners) == {"features", "lens"}
    learners["features"].own_gradients(learners["features"].total(task, losses), keep_graph=True)
    learners["lens"].own_gradients(learners["lens"].total(task, losses), keep_graph=False)
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


class TestPlayers:
    @pytest.mark.parametrize("keep", ["both", "plain", "lensed"])
    @pytest.mark.parametrize("adversary", ["least_likely", "full"])
    def test_each_learns_from_its_own_losses_alone(self, keep, adversary):
        """Against two separate passes: one with a lens that is constant, one with a network that is."""
        task = awake(lens(adversary=adversary, keep=keep, reconstruction_weight=0.3))
        batch, naive = tiny.images(4), copy.deepcopy(task)
        found = gradients(task, batch, Step.at(1))
        assert set(found) == {name for name, p in task.named_parameters() if p.requires_grad}

        turned, turns = naive.base.puzzle(batch, Step.at(1))
        with torch.no_grad():
            constant = naive.lens(turned)
        body, head = naive.base.encoder, naive.base.head
        loss = F.cross_entropy(head(body(constant).pooled), turns)
        loss = loss + F.cross_entropy(head(body(turned).pooled), turns)
        loss.backward()
        expected = {name: p.grad for name, p in naive.named_parameters() if p.grad is not None}
        assert not any("lens." in name for name in expected)

        frozen = copy.deepcopy(task)
        frozen.base.requires_grad_(False)
        frozen.zero_grad()
        lensed = frozen.lens(turned)
        logits = frozen.base.head(frozen.base.encoder(lensed).pooled)
        if adversary == "full":
            against = -F.cross_entropy(logits, turns)
        else:
            against = F.cross_entropy(logits, logits.softmax(1).argmin(1))
        change = (lensed - turned).square().sum((1, 2, 3)).mean()
        (against + 0.3 * change).backward()
        expected |= {name: p.grad for name, p in frozen.named_parameters() if p.grad is not None}
        assert set(expected) == set(found)
        for name, gradient in expected.items():
            scale = gradient.abs().max().clamp(min=1e-4)
            assert (found[name] - gradient).abs().max() < 1e-3 * scale, name

    def test_gradients_lie_in_memory_as_their_parameters(self):
        """Convolutions on channels-last pictures give them otherwise, and a fused optimiser mixes them up."""
        task = awake(lens())
        found = gradients(task, tiny.images(4), Step.at())
        assert any(gradient.ndim == 4 for gradient in found.values())
        for name, parameter in task.named_parameters():
            assert found[name].stride() == parameter.stride(), name

    def test_a_lens_that_is_the_only_learner_raises_the_loss(self):
        """Ascent, not descent: the direction is what is easy to get wrong."""
        task, batch = awake(lens(adversary="full", reconstruction_weight=0.0)).eval(), tiny.images(8)
        found = []
        for _ in range(15):
            losses = task.loss(batch, Step.at())
            found.append(float(losses["lensed"].detach()))
            grads = torch.autograd.grad(losses["adversary"], list(task.lens.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(task.lens.parameters(), grads, strict=True):
                    parameter -= 0.05 * gradient / (gradient.norm() + 1e-8)
        assert found[-1] > 1.1 * found[0]

    def test_the_least_likely_class(self):
        logits = torch.randn(20, 5, requires_grad=True)
        assert torch.equal(least_likely(logits), logits.softmax(1).argmin(1))
        assert not least_likely(logits).requires_grad

    @pytest.mark.parametrize(
        "wrap", [Lens, FGSM, lambda task: Joint({"a": task, "b": Rotation(task.encoder)})]
    )
    def test_what_the_task_holds_at_its_peak_stays_held(self, wrap):
        """Within a lens, the attack or beside another task."""
        task = seeded(lambda: wrap(SimSiam(tiny.encoder("grid"))))
        learner = make_learners(task, make_plan(task.recipe, 100, max_steps=10), 0)
        groups = next(iter(learner.values())).optimiser.param_groups
        held = {name for group in groups if group["held"] for name in group["names"]}
        assert held and held == {name for name, _ in task.named_parameters() if "predictor." in name}

    def test_what_decays_by_itself_in_the_task_still_does(self):
        task = seeded(lambda: Lens(RelativeLocation(tiny.encoder("grid"), embedding_dim=6)))
        learner = make_learners(task, make_plan(task.recipe, 100, max_steps=10), 0)["features"]
        set_rates(learner.optimiser, learner.schedule, 3)
        groups = learner.optimiser.param_groups
        fast = {name for group in groups if group["weight_decay"] == 5e-4 for name in group["names"]}
        assert fast == {"base.hidden.0.weight", "base.head.weight"}

    def test_the_lens_has_a_recipe_of_its_own(self):
        players = lens(lens_lr=2e-3).players
        assert (players["lens"].recipe.optimizer, players["lens"].recipe.lr) == ("adam", 2e-3)
        assert players["lens"].recipe.lr_batch == 0 and players["lens"].recipe.weight_decay == 0
        assert players["features"].recipe == Rotation.recipe
        wrapped = seeded(lambda: Lens(BarlowTwins(tiny.encoder("grid")), lens_lr=2e-3))
        optimiser = make_learners(wrapped, make_plan(wrapped.recipe, 100, max_steps=10), 0)["lens"].optimiser
        assert {group["peak"] for group in optimiser.param_groups} == {2e-3}, "biases too, unlike the task's"


class TestLens:
    def test_at_first_every_picture_stays_as_it_is(self):
        task, image = lens(), torch.rand(2, 3, 20, 20)
        assert torch.equal(task.lens(image), image)
        losses = task.loss(tiny.images(4), Step.at())
        assert losses["reconstruction"] == 0
        torch.testing.assert_close(losses["lensed"], losses["plain"], rtol=1e-4, atol=1e-5)

    def test_the_reconstruction_is_summed_over_values_and_averaged_over_inputs(self):
        task, batch = awake(lens()), tiny.images(3)
        turned, _ = task.base.puzzle(batch, Step.at())
        total = 0.0
        with torch.no_grad():
            for x, y in zip(turned, task.lens(turned), strict=True):
                total += float((x - y).double().square().sum())
            found = task.loss(batch, Step.at())["reconstruction"]
        assert float(found) == pytest.approx(total / 12, rel=1e-4)

    def test_a_high_price_keeps_the_picture(self):
        changes = {}
        for price in (0.0, 1e5):
            task = awake(lens("patches", reconstruction_weight=price))
            optimiser = torch.optim.Adam(task.lens.parameters(), lr=3e-3)
            batch = tiny.images(4)
            for _ in range(60):
                losses = task.loss(batch, Step.at())
                optimiser.zero_grad()
                (losses["adversary"] + price * losses["reconstruction"]).backward()
                optimiser.step()
            changes[price] = float(task.loss(batch, Step.at())["reconstruction"].detach())
        assert changes[1e5] < 0.02 * changes[0.0], changes

    def test_it_acts_on_what_the_encoder_sees(self):
        """After turning, and on patches where there are patches; the plain branch has the same draws."""
        for base, shapes in ((Rotation, {(3, 32, 32)}), (PIRL, {(3, 8, 8), (3, 32, 32)})):
            task = seeded(lambda base=base: Lens(base(tiny.encoder("patches"))))
            task.prepare([tiny.images(16)], 16)
            seen, edits = [], []
            hook = task.inner.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0]))
            own = task.lens.register_forward_hook(
                lambda m, args, out, edits=edits: edits.append((*args, out))
            )
            task.loss(tiny.images(4), Step.at())
            hook.remove()
            own.remove()
            assert len(edits) == len(seen) // 2
            assert {tuple(before.shape[1:]) for before, _ in edits} == shapes
            for (before, after), plain in zip(edits, seen[len(edits) :], strict=True):
                assert torch.equal(before, plain) and torch.equal(before, after)

    def test_nothing_stays_hooked(self):
        task = awake(lens())
        task.loss(tiny.images(4), Step.at())
        task.preview(tiny.images(4), Step.at())
        assert not task.inner._forward_pre_hooks and not task.base.head._forward_hooks
        assert len(copy.deepcopy(task).loss(tiny.images(4), Step.at())) == 4

    def test_tasks_without_classes_get_the_full_adversary(self):
        task = awake(seeded(lambda: Lens(tiny.encoder("grid"), task="simclr")))
        assert task.adversary == "full" and isinstance(task.base, SimCLR)
        losses = task.loss(tiny.images(4), Step.at())
        assert torch.equal(losses["adversary"], -losses["lensed"])
        assert lens().adversary == "least_likely"

    @pytest.mark.parametrize("cls", [Jigsaw, RelativeLocation])
    def test_patch_puzzles_are_asked_for_the_least_likely_order(self, cls):
        """By hand: every patch through lens and encoder, every picture in every order asked."""
        base = seeded(lambda: cls(tiny.encoder("grid"), embedding_dim=6, dropout=0.0))
        task = awake(seeded(lambda: Lens(base)))
        assert task.adversary == "least_likely"
        losses = task.loss(tiny.images(4), Step.at(2))
        step = Step.at(2)
        patches, asked = base.patches(tiny.images(4), step), base.asked(step)
        flat = standardised(patches.flatten(0, 1), 255)
        flat = F.interpolate(flat, (base.shown,) * 2, mode="bilinear")
        body = task.inner
        pooled = body(task.lens(flat * body.std + body.mean)).pooled
        each = base.embed(pooled).unflatten(0, (4, 9))
        shown = [each[n, base.orders[number]].flatten() for n in range(4) for number in asked.tolist()]
        logits = base.head(base.hidden(torch.stack(shown)))
        expected = F.cross_entropy(logits, logits.softmax(1).argmin(1))
        assert losses["adversary"].item() == pytest.approx(expected.item(), rel=1e-3)
        assert expected.item() > F.cross_entropy(logits, asked.repeat(4)).item() > 0

    def test_what_makes_no_sense_is_refused(self):
        with pytest.raises(UsageError, match="names no classes"):
            Lens(tiny.encoder("grid"), task="simclr", adversary="least_likely")
        with pytest.raises(UsageError, match="players"):
            Lens(lens())
        task = lens(keep="plain")
        with pytest.raises(UsageError, match="jointly"):
            Joint({"lens": task, "rotation": Rotation(task.encoder)})

    def test_the_same_draws_leave_the_step_alone(self):
        step = Step.at(3)
        again = same_draws(step)
        first = torch.rand(4, generator=again.generator)
        assert torch.equal(first, torch.rand(4, generator=step.generator))
        assert again.metrics is not step.metrics


class TestFGSM:
    def test_is_one_step_up_the_gradient(self):
        task = seeded(lambda: FGSM(Rotation(tiny.encoder("grid")), epsilon=0.03)).eval()
        batch = tiny.images(4)
        losses = task.loss(batch, Step.at())
        turned, turns = task.base.puzzle(batch, Step.at())
        turned.requires_grad_()
        plain = F.cross_entropy(task.base.head(task.encoder(turned).pooled), turns)
        (gradient,) = torch.autograd.grad(plain, turned)
        attacked = turned + 0.03 * gradient.sign()
        logits = task.base.head(task.encoder(attacked).pooled)
        torch.testing.assert_close(losses["plain"], plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses["attacked"], F.cross_entropy(logits, turns), rtol=1e-4, atol=1e-5)
        assert losses["attacked"] > losses["plain"]
        losses["attacked"].backward()
        assert all(p.grad is not None for p in task.parameters() if p.requires_grad)

    def test_looks_without_gradients(self):
        task = seeded(lambda: FGSM(SimCLR(tiny.encoder("grid")))).eval()
        with torch.no_grad():
            losses = task.loss(tiny.images(4), Step.at())
        assert not any(value.requires_grad for value in losses.values())

    def test_the_step_does_not_touch_parameters(self):
        weight, x = torch.ones(3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
        (change,) = fast_gradient_sign((x * weight * torch.tensor([1.0, -2.0, 0.0])).sum(), [x], 0.1)
        assert change.tolist() == [[pytest.approx(0.1), pytest.approx(-0.1), 0.0]] * 2
        assert weight.grad is None and x.grad is None


class TestFeatures:
    @pytest.mark.parametrize("kind", ["grid", "patches"])
    def test_both_are_the_pictures_and_the_edited_ones(self, kind):
        task, image = awake(lens(kind)).eval(), torch.rand(3, 3, 32, 32)
        plain, lensed = task.inner(image), task.inner(task.lens(image))
        both = task.encoder(image)
        torch.testing.assert_close(
            both.pooled, torch.cat([plain.pooled, lensed.pooled], 1), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            both.tokens, torch.cat([plain.tokens, lensed.tokens], 2), atol=1e-4, rtol=1e-4
        )
        assert both.prefix.shape[1] == plain.prefix.shape[1] and both.grid == plain.grid
        assert task.encoder.dim == 2 * task.inner.dim == both.pooled.shape[1]
        alone = LensedEncoder(task.inner, task.lens, "lensed")
        torch.testing.assert_close(alone(image).pooled, lensed.pooled)

    def test_plain_is_the_encoder_itself(self):
        task = lens(keep="plain")
        assert task.encoder is task.inner and not isinstance(task.encoder, LensedEncoder)

    def test_they_survive_a_file(self, tmp_path):
        task, image = awake(lens(lens_width=8, lens_levels=2)).eval(), torch.rand(2, 3, 32, 32)
        save_encoder(task.encoder, tmp_path / "encoder.safetensors")
        read = load_encoder(tmp_path / "encoder.safetensors").eval()
        assert isinstance(read, LensedEncoder) and read.keep == "both"
        assert torch.equal(read(image).pooled, task.encoder(image).pooled)
        apart = task.encoder.fresh_copy()
        torch.nn.init.zeros_(apart.lens.edit.last.weight)
        assert torch.equal(read(image).pooled, task.encoder(image).pooled)

    def test_timm_gets_the_network_alone_and_is_told_so(self, tmp_path):
        task = awake(lens()).eval()
        save_encoder(task.encoder, tmp_path / "encoder.safetensors")
        card = (export(tmp_path / "encoder.safetensors", tmp_path / "timm") / "README.md").read_text()
        assert "without the lens" in card
        image = torch.rand(2, 3, 32, 32)
        folder = export(tmp_path / "encoder.safetensors", tmp_path / "torch", "torch")
        program = torch.export.load(folder / "encoder.pt2").module()
        torch.testing.assert_close(program(image), task.encoder(image).pooled, atol=1e-4, rtol=1e-4)

    def test_a_wrong_number_of_channels_is_explained(self):
        with pytest.raises(UsageError, match="channels"):
            lens().encoder(torch.rand(2, 5, 32, 32))

    def test_a_lens_can_be_put_before_another_encoder(self):
        task, other = awake(lens()), tiny.encoder("patches")
        moved = LensedEncoder(other, task.lens)
        assert moved(torch.rand(2, 3, 32, 32)).pooled.shape == (2, 2 * other.dim)
        assert LensNet(3, 8, 2).shape == {"width": 8, "levels": 2}
