"""The verifier: labels, formats and the graded reward, beside a reward written from the formula."""

import random
import re

import pytest
import torch

from pretask.pretexts.permutation import shuffle
from pretask.puzzles.puzzle import gold
from pretask.puzzles.verify import boxed, check_format, extract, integers, ordering_reward, repeats
from pretask.puzzles.visual_jigsaw import reward


def said(answer: str) -> str:
    return rf"<think>so it is</think> \boxed{{{answer}}}"


class TestLabel:
    def test_a_cycle_of_three(self):
        """Shown bca of abc: a stands third, b first, c second. The forward permutation would say 2, 3, 1."""
        assert gold(torch.tensor([1, 2, 0])).tolist() == [3, 1, 2]

    def test_it_is_the_place_of_each_piece(self):
        for seed in range(20):
            order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
            listed = order.tolist()
            assert gold(order).tolist() == [listed.index(piece) + 1 for piece in range(9)]
            pieces = torch.arange(9.0)[None]
            displayed = shuffle(pieces, order[None])[0]
            assert [float(displayed[number - 1]) for number in gold(order).tolist()] == pieces[0].tolist()


class TestFormat:
    @pytest.mark.parametrize(
        ("text", "good"),
        [
            (said("1,2"), True),
            ("<think>a\nb</think>\n\nso \\boxed{2,1}.\n", True),
            (" " + said("1,2"), False),  # it must start with the tag
            ("So: " + said("1,2"), False),
            ("<think>a</think> 1,2", False),
            ("\\boxed{1,2}", False),
            ("<think>\\boxed{1}", False),
            ("<think></think>\\boxed{}", True),
        ],
    )
    def test_boxed(self, text, good):
        assert check_format(text) is good

    def test_other_wrappers(self):
        assert check_format("<think>a</think><answer>1</answer>", "answer")
        assert not check_format("<answer>1</answer>", "answer")
        assert check_format("1,2", "none")

    @pytest.mark.parametrize(
        ("text", "content"),
        [
            (r"\boxed{1} then \boxed{ 2,3 }", "2,3"),
            (r"\boxed{a{b}c}", "a{b}c"),
            (r"\boxed{1", "None"),
            ("nothing", "None"),
            (r"\boxed{1} \boxed{2", "None"),
        ],
    )
    def test_last_box(self, text, content):
        assert boxed(text) == content

    def test_extract(self):
        assert extract("<answer>1</answer><answer> 2,1 </answer>", "answer") == "2,1"
        assert extract(" 1,2 ", "none") == " 1,2 "

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("3, 1 ,2", [3, 1, 2]),
            ("", []),
            ("1,,2", []),
            ("1;2", []),
            ("1,2,x", []),
            ("-1,0", [-1, 0]),
            ("1.0", []),
        ],
    )
    def test_integers(self, text, numbers):
        assert integers(text) == numbers

    def test_repetition(self):
        line = "one two three four five six seven"
        assert not repeats("\n".join([line] * 3))
        assert repeats("\n".join([line] * 4))
        assert repeats("\n\n".join([line, line.upper(), " " + line, line]))
        assert not repeats("\n".join([line, line, "short", line, line]))
        assert not repeats("\n".join(["one two three four five six"] * 9))


def naive(text: str, right: list[int], bare: bool) -> float:
    """Section 6 of the paper's code, said again step by step."""
    lines = [line.strip().lower() for line in text.split("\n") if line.strip()]
    penalty = 0.0
    for place in range(len(lines) - 3):
        same = all(lines[place + more] == lines[place] for more in range(4))
        if same and len(lines[place].split()) >= 7:
            penalty = -0.5
    if bare:
        form, answer = 0.0, text
    else:
        if not re.match(r"^<think>(.|\n)*</think>(.|\n)*\\boxed\{(.|\n)*\}(.|\n)*$", text):
            return 0.0
        form, answer = 0.2, text[text.rindex("\\boxed{") + 7 :].split("}")[0]
    numbers = []
    for part in answer.split(","):
        if not re.fullmatch(r"\s*[+-]?\d+\s*", part):
            numbers = []
            break
        numbers.append(int(part))
    if numbers == right:
        return form + 1.0 + penalty
    paid = 0.0
    if len(set(numbers)) == len(right) and len(right) > 4:
        paid = 0.2 * sum(numbers[i] == right[i] for i in range(len(right))) / len(right)
    return form + paid + penalty


class TestReward:
    def test_against_the_formula_said_again(self):
        rng = random.Random(0)
        long = "all work and no play makes me dull"
        seen = set()
        for _ in range(600):
            k = rng.choice([3, 4, 5, 9])
            right = rng.sample(range(1, k + 1), k)
            answer = list(right)
            for _ in range(rng.choice([0, 0, 1, 3])):
                i, j = rng.randrange(k), rng.randrange(k)
                answer[i], answer[j] = answer[j], answer[i]
            change = rng.choice(["", "", "twice", "longer", "shorter", "beyond", "words"])
            answer[0] = {"twice": answer[1], "beyond": k + 5}.get(change, answer[0])
            answer = answer[:-1] if change == "shorter" else answer + [answer[0]] * (change == "longer")
            text = "so be it" if change == "words" else ", ".join(map(str, answer))
            bare = rng.random() < 0.3
            if not bare:
                thought = "\n".join([long] * rng.choice([0, 1, 3, 4]))
                text = rng.choice(["", "", "", "x"]) + f"<think>\n{thought}\n</think>\\boxed{{{text}}}"
            found = ordering_reward(text, right, wrapper="none" if bare else "boxed").total
            assert found == pytest.approx(naive(text, right, bare)), text
            seen.add(round(found, 3))
        assert len(seen) > 12, "the cases differ"

    def test_figures(self):
        right = [3, 1, 2, 5, 4]
        assert ordering_reward(said("3,1,2,5,4"), right).total == pytest.approx(1.2)
        assert ordering_reward(said("1,3,2,5,4"), right).total == pytest.approx(0.2 + 0.2 * 3 / 5)
        assert ordering_reward(said("1,1,2,5,4"), right).total == pytest.approx(0.2), "no permutation"
        assert ordering_reward("3,1,2,5,4", right).total == 0.0, "a wrong format costs all and no more"
        assert ordering_reward("3,1,2,5,4", right, wrapper="none").total == 1.0, "and there no bonus"

    def test_few_pieces_are_not_partly_right_in_the_code(self):
        assert ordering_reward(said("1,2,4,3"), [1, 2, 3, 4]).total == pytest.approx(0.2)
        assert ordering_reward(said("1,2,4,3"), [1, 2, 3, 4], formula="paper").total == pytest.approx(0.3)

    def test_what_passes_as_a_permutation(self):
        right = [1, 2, 3, 4, 5]
        for text, places in (("1,2,3,4,99", 4), ("1,2,3,5,4,4", 3)):
            assert ordering_reward(said(text), right).accuracy == pytest.approx(0.2 * places / 5)
            assert ordering_reward(said(text), right, strict=True).accuracy == 0
            assert ordering_reward(said(text), right, formula="paper").accuracy == 0

    def test_only_the_code_minds_repetition(self):
        text = "<think>" + "\n".join(["a b c d e f g"] * 5) + "</think>\\boxed{2,1}"
        assert ordering_reward(text, [2, 1]).total == pytest.approx(
            0.2 + 1.0
        )  # the tag stands on the first line
        text = text.replace("<think>", "<think>\n")
        assert ordering_reward(text, [2, 1]).total == pytest.approx(0.2 + 1.0 - 0.5)
        assert ordering_reward(text, [2, 1], formula="paper").total == pytest.approx(1.2)

    def test_a_true_permutation_is_never_wrong_in_one_place(self):
        paid = {
            ordering_reward(said(",".join(map(str, torch.randperm(5) + 1))), [1, 2, 3, 4, 5]).accuracy
            for _ in range(300)
        }
        assert max(paid - {1.0}) <= 0.2 * 3 / 5 + 1e-9

    def test_as_trl_calls_it(self):
        told = {}
        texts = [said("2,1,3,4,5"), said("1,2,3,4,5"), "no"]
        conversations = [[{"role": "assistant", "content": text}] for text in texts]
        columns = {"prompts": [None] * 3, "wrapper": ["boxed"] * 3, "trainer_state": None}
        answers = [[1, 2, 3, 4, 5]] * 3
        paid = reward(conversations, answer=answers, log_metric=told.__setitem__, **columns)
        assert paid == reward(texts, answers) == pytest.approx([0.32, 1.2, 0.0])
        assert told == {"exact": pytest.approx(1 / 3), "correct": pytest.approx((0.6 + 1) / 3)}
        assert reward(texts, answers, partial=0.0) == pytest.approx([0.2, 1.2, 0.0])
