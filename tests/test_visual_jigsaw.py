"""Visual Jigsaw: the answer's cross-entropy, a policy that generates what it is trained for, rewards that
teach, and an encoder that is kept."""

import pytest
import torch

import tiny
from pretask.encoders.policy import Solver, describe
from pretask.encoders.words import ASK, COMMA, END, IMAGE, PieceProcessor, Words, answer_words, question_words
from pretask.errors import UsageError
from pretask.methods.image.visual_jigsaw import VisualJigsaw, tile_side
from pretask.puzzles.puzzle import gold
from pretask.puzzles.verify import ordering_reward
from pretask.task import Step

SMALL = {"width": 32, "depth": 1, "heads": 2}


def small(kind: str = "grid", seed: int = 0, **options) -> VisualJigsaw:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VisualJigsaw(tiny.encoder(kind), **{**SMALL, **options})


def learned(task: VisualJigsaw, batch: dict, steps: int) -> VisualJigsaw:
    optimiser = torch.optim.Adam(task.parameters(), lr=3e-3)
    for _ in range(steps):
        total = task.total(task.loss(batch, Step.at(0)))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return task


@pytest.fixture(scope="module")
def knows() -> VisualJigsaw:
    """A task that has learned eight puzzles by heart."""
    return learned(small(grid=(2, 2)), tiny.images(8), 60).eval()


class TestWords:
    def test_an_answer_in_words(self):
        words = answer_words(torch.tensor([[3, 1, 2]]))
        assert words.tolist() == [[7, COMMA, 5, COMMA, 6, END]]
        assert Words(3).batch_decode(words, skip_special_tokens=True) == ["3,1,2"]
        assert Words(12)("12,1,3")["input_ids"] == [16, COMMA, 5, COMMA, 7]

    def test_a_conversation_in_words(self):
        processor = PieceProcessor(Words(3), side=8)
        pictures = [torch.rand(3, 8, 8) for _ in range(3)]
        content = [
            {"type": "text", "text": "Tile 1:"},
            *({"type": "image", "image": one} for one in pictures),
        ]
        conversation = [{"role": "user", "content": content}]
        made = processor.apply_chat_template([conversation] * 2, tokenize=True, return_dict=True)
        assert made["input_ids"] == question_words(torch.zeros(2, 3)).tolist() == [[IMAGE] * 3 + [ASK]] * 2
        assert torch.equal(made["pixel_values"], torch.stack(pictures * 2))

    def test_pictures_are_brought_to_size(self):
        from PIL import Image

        processor = PieceProcessor(Words(3), side=8, channels=1)
        found = processor.pixels(Image.new("RGB", (20, 30), (255, 255, 255)))
        assert found.shape == (1, 1, 8, 8) and found.min() > 0.999


class TestPuzzle:
    @pytest.mark.parametrize("kind", ["grid", "patches"])
    def test_the_answer_restores_the_picture(self, kind):
        task, batch = small(kind, grid=(3, 2)), tiny.images(4)
        shown, order = task.puzzle(batch, Step.at(), task.grid)
        canvas = task.canvas(batch, task.grid)
        side = task.side
        for row, answer in enumerate(gold(order).tolist()):
            for place, number in enumerate(answer):
                y, x = divmod(place, 2)
                tile = canvas[row, :, y * side : (y + 1) * side, x * side : (x + 1) * side]
                assert torch.equal(shown[row, number - 1], tile)

    def test_tiles_are_whole_patches(self):
        assert tile_side(tiny.encoder("patches"), 3) == 12  # patches of 4, a third of 32
        assert tile_side(tiny.encoder("grid"), 3) == 32  # the network's stride

    def test_a_conversation_holds_the_same_tiles(self):
        task, batch = small(), tiny.images(2)
        for puzzle, canvas in zip(
            task.pose(batch, torch.Generator()), task.canvas(batch, task.grid), strict=True
        ):
            restored = [puzzle.pictures[number - 1] for number in puzzle.answer]
            rows = [torch.cat(restored[i : i + 3], 2) for i in (0, 3, 6)]
            assert torch.equal(torch.cat(rows, 1), canvas) and puzzle.wrapper == "none"

    def test_too_few_tiles(self):
        for options in ({"grid": (1, 1)}, {"easy_grid": (0, 2)}, {"right": 1.5}):
            with pytest.raises(UsageError):
                small(**options)


class TestLoss:
    def test_against_the_formula(self):
        """The mean over all words of -log p(word | tiles, words before it), word by word."""
        task, batch = small(), tiny.images(3)
        losses = task.loss(batch, Step.at())
        shown, order = task.puzzle(batch, Step.at(), task.grid)
        policy, costs = task.policy(), []
        for row in range(3):
            words = [IMAGE] * 9 + [ASK]
            for place, number in enumerate(gold(order)[row].tolist()):
                for word in (COMMA + number, END if place == 8 else COMMA):
                    tokens = torch.tensor([words])
                    # batch statistics are those of all tiles together
                    features = describe(task.encoder, shown.flatten(0, 1))[9 * row : 9 * row + 9]
                    hidden = task.solver.decoder(inputs_embeds=task.solver.embed(tokens, features))
                    logits = policy.lm_head(hidden.last_hidden_state[0, -1])
                    costs.append(-logits.double().log_softmax(0)[word])
                    words.append(word)
        expected = torch.stack(costs).mean().item()
        assert task.total(losses).item() == pytest.approx(expected, rel=1e-4)
        assert losses["order"].item() == pytest.approx(torch.stack(costs[0::2]).mean().item(), rel=1e-4)

    def test_flawed_answers(self):
        task = small(right=4 / 9)
        answer = gold(torch.stack([torch.randperm(9) for _ in range(200)]))
        flawed = task.flaw(answer, Step.at())
        assert torch.equal(flawed.sort().values, torch.arange(1, 10).expand(200, 9)), "still orders"
        kept = (flawed == answer).sum(1)
        assert task.kept == 4 and kept.min() == 4, "four at least; of the others one stays by chance"
        assert kept.double().mean().item() == pytest.approx(5, abs=0.3)
        assert ((flawed == answer).double().mean(0) - 5 / 9).abs().max() < 0.12, "wherever they stand"
        losses = task.loss(tiny.images(4), Step.at())
        assert set(losses) == {"order", "guess", "format"} == set(task.weights)

    def test_easy_puzzles_are_asked_besides_flawed_ones(self):
        assert small(right=0.5).chance(4).keys() == {"order", "guess"}
        assert small(right=0.5).chance(4)["order"] == pytest.approx(torch.tensor(24.0).log().item() / 4)
        assert small().chance(4)["order"] == pytest.approx(torch.tensor(362880.0).log().item() / 9)


class TestPolicy:
    def test_what_was_learned_is_generated(self, knows):
        shown, order = knows.puzzle(tiny.images(8), Step.at(0), knows.grid)
        written = knows.solve(shown)
        right = [
            ordering_reward(text, answer, wrapper="none").exact
            for text, answer in zip(written, gold(order).tolist(), strict=True)
        ]
        assert sum(right) >= 6, written

    def test_generating_is_predicting_word_by_word(self, knows):
        """With its cache `generate` sees what the loss sees."""
        shown, _ = knows.puzzle(tiny.images(4), Step.at(1), knows.grid)
        asked = question_words(torch.zeros(4, 4, dtype=torch.long))
        policy, pixels = knows.policy(), shown.flatten(0, 1)
        with torch.no_grad():
            made = policy.generate(
                input_ids=asked, attention_mask=torch.ones_like(asked), pixel_values=pixels, do_sample=False,
                max_new_tokens=8, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
            whole = knows.solver.logits(made.sequences, describe(knows.encoder, pixels))
        there = torch.stack(made.logits, 1)
        assert torch.allclose(whole[:, 4 : 4 + there.shape[1]], there, atol=1e-4)

    def test_the_modules_are_the_tasks_own(self, knows):
        own = {id(p) for p in knows.parameters()}
        assert {id(p) for p in knows.policy().parameters()} == own

    def test_rollouts_are_encoded_once(self):
        task = small().eval()
        pixels = torch.rand(9, 3, 32, 32)
        seen = []
        task.encoder.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
        asked = question_words(torch.zeros(5, 9, dtype=torch.long))
        with torch.no_grad():
            many = task.policy()(asked, pixels.repeat(5, 1, 1, 1))["logits"]
            one = task.policy()(asked[:1], pixels)["logits"]
        assert seen == [9, 9] and torch.allclose(many, one.expand_as(many), atol=1e-5)

    def test_puzzles_of_several_sizes_in_a_batch(self):
        task = small().eval()
        features = torch.randn(5, describe(task.encoder, torch.zeros(1, 3, 32, 32)).shape[1])
        both = torch.tensor([[IMAGE, IMAGE, ASK, ASK], [IMAGE, IMAGE, IMAGE, ASK]])
        joint = task.solver.embed(both, features)
        alone = task.solver.embed(both[:1], features[:2]), task.solver.embed(both[1:], features[2:])
        assert torch.allclose(joint, torch.cat(alone), atol=1e-5)

    def test_where_a_piece_is_displayed_matters(self):
        task = small().eval()
        features = torch.randn(9, describe(task.encoder, torch.zeros(1, 3, 32, 32)).shape[1])
        asked = question_words(torch.zeros(1, 9, dtype=torch.long))
        turned = task.solver.logits(asked, features.roll(1, 0))
        assert not torch.allclose(task.solver.logits(asked, features), turned, atol=1e-3)

    def test_more_pieces_than_places(self):
        task = small()
        with pytest.raises(UsageError, match="10 pieces"):
            task.solver.logits(question_words(torch.zeros(1, 10)), torch.zeros(10, 1))
        with pytest.raises(UsageError, match="given are 3"):
            task.solver.logits(question_words(torch.zeros(1, 9)), torch.zeros(3, 1))

    def test_it_stays_below_a_million_parameters(self):
        solver = Solver(features=512, words=Words(9), pieces=9)
        assert sum(p.numel() for p in solver.parameters()) < 600_000


def test_the_sheet_shows_what_is_written(knows):
    sheet = knows.preview(tiny.images(2), Step.at(0))
    for panels in sheet.rows:
        captions = [panel.caption for panel in panels]
        assert captions[1].startswith("answer: ") and captions[2].startswith("it writes: ")
    shown, order = knows.puzzle(tiny.images(2), Step.at(0), knows.grid)
    restored = knows.arranged(shown[0], ",".join(map(str, gold(order)[0].tolist())))
    assert torch.equal(restored, knows.canvas(tiny.images(2), knows.grid)[0])
    assert knows.arranged(shown[0], "9,x").abs().max() == 0 == knows.arranged(shown[0], "7,0,-1").abs().max()
