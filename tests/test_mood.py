"""MOOD: BEiT's pretext with its own optimisation; its score is tested in test_ood.py."""

import torch

import tiny
from pretask.methods.image.beit import BEiT
from pretask.methods.image.mood import MOOD
from pretask.methods.image.moodv2 import MOODv2
from pretask.task import Step


def made(kind):
    torch.manual_seed(0)
    task = kind(tiny.encoder("patches"), words=16)
    task.prepare([tiny.images(16)], 16)
    return task


def test_the_question_is_that_of_beit_and_the_optimisation_its_own():
    batch = tiny.images(4)
    one, other = (made(kind).loss(batch, Step.at()) for kind in (MOOD, BEiT))
    assert one["words"].item() == other["words"].item()
    assert MOOD.recipe.lr == 5e-4 and MOODv2.recipe.lr == 1.5e-3
    assert MOOD.recipe.betas == (0.9, 0.999)


def test_75_of_196_patches_are_covered_at_most():
    assert int(196 * 0.3827) == 75


def test_blocks_are_skipped_in_training_alone_and_crops_are_the_official_ones():
    torch.manual_seed(0)
    task, batch = made(MOOD), tiny.images(4)
    losses = []
    for rate, training in ((0.0, True), (0.9, True), (0.9, False)):
        task.drop_path = rate
        losses.append(task.train(training).loss(batch, Step.at())["words"].item())
    assert losses[0] != losses[1] and losses[0] == losses[2]
    assert [kind(tiny.encoder("patches"), words=16).view.scale for kind in (BEiT, MOOD, MOODv2)] == [
        (0.08, 1.0), (0.08, 1.0), (0.2, 1.0),
    ]  # fmt: skip
