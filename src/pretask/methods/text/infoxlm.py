"""InfoXLM: words hidden in one language and in two, and which translation belongs to a sentence?
(Chi et al., NAACL 2021)"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.text import TextEncoder
from pretask.errors import UsageError
from pretask.objectives.contrastive import info_nce
from pretask.objectives.distillation import linear_warmup
from pretask.objectives.distributed import mean, world_size
from pretask.objectives.memory import Queue
from pretask.pretexts import draw
from pretask.pretexts.text import (
    Masked,
    Text,
    alternate,
    couples,
    draw_mask,
    join,
    mask_tokens,
    mix_pairs,
    read_pair,
    swap_roles,
)
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

PAPER_QUEUE, PAPER_MOMENTUM = 131_072, 0.9999
PACE = 20  # how often the paper's slow encoder forgets e-fold in a run: 200,000 steps at 0.9999
RUN_UP = 5  # updates before the contrast counts after which the slow encoder is the fast one


class Slow(nn.Module):
    """The encoder and the projection again, named alike, so that they can follow."""

    def __init__(self, encoder: TextEncoder, projection: nn.Module):
        super().__init__()
        self.encoder, self.projection = teacher_of(encoder), teacher_of(projection)


class Part(NamedTuple):
    """A loss before it is divided: its sum, and over how many tokens or pairs."""

    total: Float[Tensor, ""]
    asked: Tensor


class InfoXLM(PretextTask):
    """Three tasks on parallel text; their sums are divided by the number of all that is asked.

    - `mlm` (MMLM): `<s> x1 </s> x2 </s>`, two sentences of one language with 15 % of the tokens hidden;
    - `tlm`: `<s> x </s> y </s>`, a sentence and its translation, hidden alike, without language embeddings
      and without positions that start anew;
    - `xlco`: two pairs are mixed to one ([x1; x2], [y1; y2], orders and sides at random), tokens hidden on
      both sides. The first token behind `layer` of one side, times P, must find that of the other side,
      which a slow copy of encoder and P gives, among a queue of earlier ones: inner products without
      normalisation over `temperature`.

    The divisor counts hidden tokens and pairs together, as the official trainer's does, so that the contrast
    weighs little beside the words; each loss's own mean is among the metrics. Any token may be hidden, `<s>`
    and `</s>` too, as in the official code. There, too, each task has as many items; but each has data of its
    own, so that no pair is mixed twice in a pass, and blocks of `mlm` are 512 tokens of consecutive sentences.
    Here pairs 0 and 1 of a batch, 2 and 3, ... are mixed, twice, with other draws. Their sentences are joined
    for `mlm`; where the languages differ the first stands alone. A batch that is computed in parts is the mean
    of the parts, each divided by what is asked in it; officially the sum is divided once, by all that is asked.
    An encoder without published weights learns at 1e-3.

    Args:
        encoder: a text encoder whose tokenizer has a mask.
        layer: whose first token is contrasted, 0 being the embeddings; none takes two thirds of the depth
            (8 of 12, the base model's).
        mask_rate: share of tokens that are hidden.
        tlm_weight: of the translated pairs; 0 leaves them out.
        xlco_weight: of the contrast, lambda; 0 leaves it out.
        mix: contrast mixed pairs; else each pair by itself.
        temperature: divides the inner products.
        queue_size: earlier pairs to compare with, at most what a pass over the data gives; none takes the
            paper's 131072 and at most an eighth of a pass, so that few of them are the sentence itself.
        momentum: of the slow copy; none takes the paper's 0.9999, in runs under 200,000 steps less, so that
            as much is forgotten over the run (0.99 for 2,000 steps), and never less than 0.9.
        momentum_schedule: `constant`; `linear` from momentum_start to momentum over the run; `exponential`,
            1 - updates^-alpha, between these two.
        momentum_start: the lowest momentum of these schedules.
        momentum_alpha: of `exponential`.
        refresh_every: updates after which the slow copy is the fast one again; 0 for never.
        xlco_start: updates before the contrast counts; the slow copy stands still until shortly before.
    """

    encoder: TextEncoder
    recipe = Recipe(
        "adamw", lr=2e-4, lr_batch=0, batch_size=2048, epochs=320, weight_decay=0.01, betas=(0.9, 0.98),
        eps=1e-6, decay_vectors=True, warmup=0.05, clip=1.0, schedule="linear",
    )  # fmt: skip

    def __init__(
        self,
        encoder: TextEncoder,
        layer: int | None = None,
        mask_rate: float = 0.15,
        tlm_weight: float = 1.0,
        xlco_weight: float = 1.0,
        mix: bool = True,
        temperature: float = 0.25,
        queue_size: int | None = None,
        momentum: float | None = None,
        momentum_schedule: Literal["constant", "linear", "exponential"] = "constant",
        momentum_start: float = 0.999,
        momentum_alpha: float = 0.51,
        refresh_every: int = 0,
        xlco_start: int = 0,
    ):
        super().__init__(encoder)
        if encoder.vocabulary.mask is None:
            raise UsageError("infoxlm hides tokens, and this tokenizer has none to stand for them (<mask>)")
        self.layer = round(encoder.depth * 2 / 3) if layer is None else layer
        if not 0 <= self.layer <= encoder.depth:
            raise UsageError(f"layer {layer} is none of the encoder's: 0 (embeddings) .. {encoder.depth}")
        self.mask_rate, self.mix, self.temperature, self.queue_size = mask_rate, mix, temperature, queue_size
        self.momentum, self.momentum_schedule = momentum, momentum_schedule
        self.momentum_start, self.momentum_alpha = momentum_start, momentum_alpha
        self.refresh_every, self.xlco_start = refresh_every, xlco_start
        self.weights = {name: w for name, w in (("tlm", tlm_weight), ("xlco", xlco_weight)) if w}
        self.head = encoder.language_head()
        if "xlco" in self.weights:
            self.projection = nn.Linear(encoder.dim, encoder.dim, bias=False)
            nn.init.normal_(self.projection.weight, std=0.02)
            self.slow = Slow(encoder, self.projection)
        self.seen: list[Tensor] = []
        if not encoder.pretrained:
            self.recipe = replace(self.recipe, lr=1e-3, batch_size=256)

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Fill the queue with what the slow encoder says before training."""
        if "xlco" not in self.weights:
            return
        whole = max(num_samples, 1)
        size = min(self.queue_size or min(PAPER_QUEUE, max(whole // 8, 64)), whole)
        device, filled = next(self.parameters()).device, 0
        self.queue = Queue(size, self.encoder.dim, normalise=False).to(device)
        for number, batch in enumerate(batches):
            _, target = self.contrasted(*read_pair(batch), Step.at(number, device=device))
            keys = self.key(target)
            self.queue.enqueue(keys)
            filled += len(keys) * world_size()
            if filled >= size:
                return
        if filled:  # an incomplete batch was left out: the first ones stand in
            rows = self.queue.rows
            rows[filled:] = rows[torch.arange(size - filled, device=device) % filled]

    def hide(self, text: Text, step: Step) -> Masked:
        known = self.encoder.vocabulary
        drawn = draw_mask(len(text.tokens), self.encoder.max_length, step.generator)
        words, device = self.encoder.words, text.tokens.device
        return mask_tokens(text, drawn.to(device), known.mask or 0, words, self.mask_rate)

    def joined(self, first: Text, second: Text) -> Text:
        known = self.encoder.vocabulary
        return join(first, second, known.pad, known.bos, self.encoder.max_length)

    def blocks(self, source: Text, target: Text, batch: Batch) -> Text:
        """Sentences 2i and 2i+1 of one side as one text, then of the other side, for each i; a batch of one pair
        has its sentences alone."""
        if len(source.tokens) == 1:
            return alternate(source, target, self.encoder.vocabulary.pad)
        sides = []
        for text, lang in ((source, batch.get("lang")), (target, batch.get("pair_lang"))):
            first, second = couples(text)
            if lang is not None:
                alike = lang[: 2 * len(first.tokens)].unflatten(0, (-1, 2)).diff(dim=1) == 0
                second = Text(second.tokens, second.attention & alike)
            sides.append(self.joined(first, second))
        return alternate(sides[0], sides[1], self.encoder.vocabulary.pad)

    def recover(self, text: Text, step: Step) -> tuple[Part, Masked, Float[Tensor, "hidden vocab"]]:
        """Hide tokens and predict them: the summed cross-entropy, what was shown, and the logits."""
        masked = self.hide(text, step)
        places = self.encoder.layers(*masked.text)[-1][masked.hidden]
        logits = self.head(places, self.encoder.table).float()
        total = F.cross_entropy(logits, text.tokens[masked.hidden], reduction="sum")
        return Part(total, masked.hidden.sum()), masked, logits

    def contrasted(self, source: Text, target: Text, step: Step) -> tuple[Text, Text]:
        """Pairs with hidden tokens, mixed two by two, twice, their sides exchanged at random.

        Raises:
            UsageError: there is no other pair to mix one with.
        """
        known, count, device = self.encoder.vocabulary, len(source.tokens), source.tokens.device
        if self.mix:
            count -= count % 2
            if not count:
                raise UsageError(
                    "infoxlm mixes two pairs of sentences to one: a batch needs two pairs at least"
                )
            beside = torch.arange(count, device=device).view(-1, 2)[:, [0, 1, 1, 0]].flatten()
            source, target = source.rows(beside), target.rows(beside)
        source, target = self.hide(source, step).text, self.hide(target, step).text
        mode = draw.integers(8, (count,), step.generator).to(device)
        if not self.mix:
            return swap_roles(source, target, (mode & 4) > 0, known.pad)
        return mix_pairs(source, target, mode, known.pad, known.bos, self.encoder.max_length)

    def query(self, text: Text) -> Float[Tensor, "pairs dim"]:
        return self.projection(self.encoder.layers(*text)[self.layer][:, 0])

    @torch.no_grad()
    def key(self, text: Text) -> Float[Tensor, "pairs dim"]:
        return self.slow.projection(self.slow.encoder.layers(*text)[self.layer][:, 0])

    def contrast(self, source: Text, target: Text, step: Step) -> Part:
        """Each side finds the other among the queue, which the keys enter only after the step."""
        if not hasattr(self, "queue"):
            raise UsageError(
                "call prepare(batches, num_samples) first: infoxlm fills a queue before training"
            )
        shown, wanted = self.contrasted(source, target, step)
        query, key = self.query(shown), self.key(wanted)
        if self.training and torch.is_grad_enabled():
            self.seen.append(key)
        counts = float(step.index >= self.xlco_start)
        found = info_nce(query, key, self.queue.rows, self.temperature, normalise=False)
        momentum = self.momentum_after(step.index + 1, step.total)
        step.metrics["momentum"] = torch.tensor(momentum, device=query.device)
        return Part(counts * len(query) * found, torch.tensor(len(query), device=query.device))

    def loss(self, batch: Batch, step: Step) -> Losses:
        source, target = read_pair(batch)
        parts = {"mlm": self.recover(self.blocks(source, target, batch), step)[0]}
        if "tlm" in self.weights:
            parts["tlm"] = self.recover(self.joined(source, target), step)[0]
        if "xlco" in self.weights:
            parts["xlco"] = self.contrast(source, target, step)
        asked = mean(torch.stack([part.asked for part in parts.values()]).sum().float()).clamp(min=1)
        for name, part in parts.items():
            step.metrics[f"{name}_mean"] = part.total.detach() / part.asked.clamp(min=1)
        return {name: part.total / asked for name, part in parts.items()}

    def after_step(self, step: Step) -> None:
        if not self.seen:
            return
        for key in self.seen:
            self.queue.enqueue(key)
        self.seen.clear()
        updates = step.index + 1
        if updates >= self.xlco_start:
            follow(self.slow, self, self.momentum_after(updates, step.total))
        elif updates + RUN_UP >= self.xlco_start:
            follow(self.slow, self, 0.0)

    def momentum_after(self, updates: int, total: int) -> float:
        """The slow copy's momentum after so many updates of a run of `total`."""
        top = self.momentum
        if top is None:
            top = min(PAPER_MOMENTUM, max(1 - PACE / max(total, 1), 0.9))
        if self.refresh_every and updates % self.refresh_every == 0:
            return 0.0
        if self.momentum_schedule == "linear":
            return linear_warmup(updates, self.momentum_start, top, total + 1)
        if self.momentum_schedule == "exponential":
            return min(max(1 - updates**-self.momentum_alpha, self.momentum_start), top)
        return top

    def question(self, batch: Batch, step: Step) -> Question:
        """Which translation, tokens hidden, belongs to a sentence, tokens hidden? Padding is -1."""
        source, target = (self.hide(text, step).text for text in read_pair(batch))
        both = alternate(source, target, self.encoder.vocabulary.pad)
        rows = torch.arange(len(source.tokens), device=both.tokens.device)
        return Question(both.tokens.masked_fill(~both.attention, -1), rows.repeat_interleave(2))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        source, target = read_pair(batch)
        text, tokenizer = self.joined(source, target), self.encoder.tokenizer
        _, (shown, hidden), logits = self.recover(text, step)
        answer = text.tokens.masked_scatter(hidden, logits.argmax(1))
        found = None
        if "xlco" in self.weights:
            found = (self.query(source) @ self.key(target).T).argmax(1).tolist()
        rows = []
        for row in range(len(text.tokens)):
            panels = [
                Panel(
                    "words hidden in two languages",
                    tokenizer.spell(shown.tokens[row], hidden[row], True),
                    "hidden",
                ),
                Panel("what was there", tokenizer.spell(text.tokens[row], hidden[row]), "truth"),
                Panel("answer: the words", tokenizer.spell(answer[row], hidden[row]), "answer"),
            ]
            if found is not None:
                panels += [
                    Panel(
                        "which of these translations is it?", tokenizer.decode(source.tokens[row]), "asked"
                    ),
                    Panel("its translation", tokenizer.decode(target.tokens[row]), "truth"),
                    Panel("answer: the nearest", tokenizer.decode(target.tokens[found[row]]), "answer"),
                ]
            rows.append([replace(panel, kind="text") for panel in panels])
        return Sheet("InfoXLM", "Which words are hidden, and which translation belongs to a sentence?", rows)
