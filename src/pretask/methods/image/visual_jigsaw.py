"""Visual Jigsaw: a policy that reads shuffled tiles writes the list of numbers that restores the picture (Wu
et al., "Visual Jigsaw Post-Training Improves MLLMs").

The paper post-trains a large vision-language model by GRPO (`pretask.puzzles` makes its data and its reward);
here is the same in small. What `pretask train` does is the supervised start, next-token cross-entropy of the
answer, and `pretask reinforce` goes on from there with the verifier's reward.
"""

from __future__ import annotations

from math import lgamma
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require, to_float
from pretask.encoders.image import ImageEncoder
from pretask.encoders.stride import stride
from pretask.errors import UsageError, need
from pretask.pretexts import draw
from pretask.pretexts.permutation import from_tiles, shuffle, tiles
from pretask.puzzles.puzzle import Puzzle, gold
from pretask.puzzles.verify import integers
from pretask.puzzles.visual_jigsaw import image_puzzle, reward
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

if TYPE_CHECKING:
    from pretask.encoders.policy import Policy
    from pretask.encoders.words import PieceProcessor

Grid = tuple[int, int]


class VisualJigsaw(PretextTask):
    """Write the order of a picture's shuffled tiles.

    Each tile is a picture of its own: the encoder sees one at a time, at the size of whole patches or of its
    stride at least. `order` is the cross-entropy of the numbers, `format` that of the commas and the end.

    Args:
        encoder: any image encoder.
        grid: rows and columns of the puzzle.
        right: share of the numbers that are right in the answers it is shown; the others are shuffled. Below
            1 it is shown easy puzzles besides, with right answers: a start for `pretask reinforce` that knows
            what is asked and is not good at it (`guess` is then the cross-entropy of the flawed numbers).
        easy_grid: rows and columns of an easy puzzle.
        width: of the policy's layers.
        depth: layers over the tiles, and as many of the decoder.
        heads: attention heads.
    """

    encoder: ImageEncoder
    recipe = Recipe("adamw", lr=2e-3, lr_batch=0, batch_size=64, epochs=100, weight_decay=0.05, clip=1.0)
    reward = staticmethod(reward)

    def __init__(
        self,
        encoder: ImageEncoder,
        grid: tuple[int, int] = (3, 3),
        right: float = 1.0,
        easy_grid: tuple[int, int] = (2, 2),
        width: int = 96,
        depth: int = 2,
        heads: int = 4,
    ):
        super().__init__(encoder)
        need("transformers", "rl")
        from pretask.encoders.policy import Solver, describe
        from pretask.encoders.words import Words

        if min(*grid, *easy_grid) < 1 or min(count(grid), count(easy_grid)) < 2:
            raise UsageError(f"a puzzle has two tiles at least, not {grid} and {easy_grid}")
        if not 0 <= right <= 1:
            raise UsageError(f"right is a share of the numbers, between 0 and 1, not {right}")
        self.grid, self.easy_grid, self.flawed = grid, easy_grid, right < 1
        self.kept = round(right * count(grid))
        self.side = tile_side(encoder, max(grid))
        self.words = Words(max(count(grid), count(easy_grid)))
        training = encoder.training
        with torch.no_grad():
            blank = next(encoder.parameters()).new_zeros(1, encoder.in_chans, self.side, self.side)
            features = describe(encoder.eval(), blank).shape[1]
        encoder.train(training)
        self.solver = Solver(features, self.words, max(count(grid), count(easy_grid)), width, depth, heads)
        # numbers and the signs behind them are equally many: half of each is the mean over all words
        self.weights = {"order": 0.5, "format": 0.5, **({"guess": 0.5} if self.flawed else {})}

    def puzzle(
        self, batch: Batch, step: Step, grid: Grid
    ) -> tuple[Float[Tensor, "batch tiles chans side side"], Int[Tensor, "batch tiles"]]:
        """Shuffled tiles, and which tile is displayed at each place."""
        whole = tiles(self.canvas(batch, grid), *grid)
        order = draw.permutations(len(whole), count(grid), step.generator).to(whole.device)
        return shuffle(whole, order), order

    def canvas(self, batch: Batch, grid: Grid) -> Float[Tensor, "batch chans height width"]:
        """The pictures at the size of all their tiles."""
        image = to_float(require(batch, "image", 4))
        size = (grid[0] * self.side, grid[1] * self.side)
        if image.shape[-2:] == size:
            return image
        return F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)

    def read(
        self, shown: Float[Tensor, "batch tiles chans side side"], answer: Int[Tensor, "batch tiles"]
    ) -> tuple[Float[Tensor, "batch words"], Float[Tensor, "batch words known"]]:
        """The cross-entropy of every word of the answer, and the logits."""
        from pretask.encoders.policy import describe
        from pretask.encoders.words import answer_words, question_words

        asked, words = question_words(answer), answer_words(answer)
        features = describe(self.encoder, shown.flatten(0, 1))
        logits = self.solver.logits(torch.cat([asked, words[:, :-1]], dim=1), features)
        logits = logits[:, asked.shape[1] - 1 :].float()
        return F.cross_entropy(logits.transpose(1, 2), words, reduction="none"), logits

    def loss(self, batch: Batch, step: Step) -> Losses:
        from pretask.encoders.words import number_words

        shown, order = self.puzzle(batch, step, self.easy_grid if self.flawed else self.grid)
        costs, logits = self.read(shown, gold(order))
        right = logits[:, 0::2].argmax(2) == number_words(gold(order))
        step.metrics["correct"] = right.float().mean()
        losses = {"order": costs[:, 0::2].mean(), "format": costs[:, 1::2].mean()}
        if self.flawed:
            shown, order = self.puzzle(batch, step, self.grid)
            costs, _ = self.read(shown, self.flaw(gold(order), step))
            losses["guess"] = costs[:, 0::2].mean()
            losses["format"] = losses["format"] + costs[:, 1::2].mean()
        return losses

    def flaw(self, answer: Int[Tensor, "batch tiles"], step: Step) -> Int[Tensor, "batch tiles"]:
        """The answers with all but `kept` of their numbers, wherever these stand, shuffled."""
        pieces = answer.shape[1]
        where = draw.permutations(len(answer), pieces, step.generator)[:, self.kept :].to(answer.device)
        order = draw.permutations(len(answer), pieces - self.kept, step.generator).to(answer.device)
        return answer.scatter(1, where, answer.gather(1, where).gather(1, order))

    def policy(self) -> Policy:
        """Encoder and solver as a transformers model: what `generate` asks and trl trains."""
        from pretask.encoders.policy import Policy

        return Policy(self.encoder, self.solver)

    def processor(self) -> PieceProcessor:
        """What turns conversations and pictures into the policy's input."""
        from pretask.encoders.words import PieceProcessor

        return PieceProcessor(self.words, self.side, self.encoder.in_chans)

    @property
    def answer_length(self) -> int:
        """Words of an answer."""
        return 2 * count(self.grid)

    def pose(self, batch: Batch, generator: torch.Generator) -> list[Puzzle]:
        """A puzzle of each picture as a conversation, the tiles in an order of the generator's."""
        return [
            image_puzzle(picture, torch.randperm(count(self.grid), generator=generator), self.grid, "none")
            for picture in self.canvas(batch, self.grid)
        ]

    @torch.no_grad()
    def solve(self, shown: Float[Tensor, "batch tiles chans side side"], sample: bool = False) -> list[str]:
        """What the policy writes, taking the likeliest word each time, or a sampled one (by torch's global
        randomness, as transformers does)."""
        from pretask.encoders.words import question_words

        asked = question_words(torch.zeros(shown.shape[:2], dtype=torch.long, device=shown.device))
        written = self.policy().generate(
            input_ids=asked, attention_mask=torch.ones_like(asked), pixel_values=shown.flatten(0, 1),
            max_new_tokens=2 * shown.shape[1], do_sample=sample,
        )  # fmt: skip
        return self.words.batch_decode(written[:, asked.shape[1] :], skip_special_tokens=True)

    def question(self, batch: Batch, step: Step) -> Question:
        """Where does a tile belong? The order asks that of all tiles at once."""
        shown, order = self.puzzle(batch, step, self.grid)
        source = torch.arange(len(shown), device=shown.device).repeat_interleave(order.shape[1])
        return Question(shown.flatten(0, 1), source, order.flatten())

    def preview(self, batch: Batch, step: Step) -> Sheet:
        shown, order = self.puzzle(batch, step, self.grid)
        answers = self.solve(shown)
        pictures, restored = (
            from_tiles(parts, *self.grid) for parts in (shown, shuffle(shown, gold(order) - 1))
        )
        rows = [
            [
                Panel("the tiles in the order shown", pictures[row]),
                Panel(f"answer: {join(gold(order)[row].tolist())}", restored[row], "truth"),
                Panel(f"it writes: {answers[row]}", self.arranged(shown[row], answers[row]), "answer"),
            ]
            for row in range(len(shown))
        ]
        return Sheet("Visual Jigsaw", "In which order do the tiles make a picture?", rows)

    def arranged(
        self, shown: Float[Tensor, "tiles chans side side"], answer: str
    ) -> Float[Tensor, "chans height width"]:
        """The picture an answer makes; black where it names no tile."""
        named = integers(answer)
        parts = torch.zeros_like(shown)
        for place, number in enumerate(named[: len(shown)]):
            if 1 <= number <= len(shown):
                parts[place] = shown[number - 1]
        return from_tiles(parts[None], *self.grid)[0]

    def chance(self, batch_size: int) -> dict[str, float]:
        """An order guessed number by number, without saying one twice: ln(K!) / K a number."""
        asked = {"order": self.easy_grid, "guess": self.grid} if self.flawed else {"order": self.grid}
        return {name: lgamma(count(grid) + 1) / count(grid) for name, grid in asked.items()}


def count(grid: Grid) -> int:
    return grid[0] * grid[1]


def join(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def tile_side(encoder: ImageEncoder, parts: int) -> int:
    """A tile's share of the input's side; whole patches of a transformer, and at least the stride of a
    convolutional encoder, whose last layers would see nothing but padding in less.
    """
    whole, share = stride(encoder), -(-encoder.image_size // parts)
    if hasattr(encoder, "patch_size"):
        return -(-share // whole) * whole
    return max(share, whole)
