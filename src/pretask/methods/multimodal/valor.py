"""VALOR: captions find films by sight, by sound and by both, and are told from them (Liu et al., TPAMI 2024).

Follows TXH-mercury/VALOR. Each group of kinds of data (`tva`, `tv`, `ta`: text with video and audio, with either)
is trained alike, so that any of them will do later.
"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.parts import Parts
from pretask.encoders.valor import GROUPS, ValorEncoder
from pretask.errors import UsageError
from pretask.objectives.distributed import mean
from pretask.objectives.fine import fine_similarity, gathered, symmetric_nce
from pretask.pretexts.draw import uniform
from pretask.pretexts.text import Masked, Text, draw_mask, mask_each
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

COLDEST = 1e-3  # the temperature is learned without bounds: below 0 likeness would turn into unlikeness
ALONE = {
    "contra": ("heads.", "weighers.", "both.", "temperature"),
    "caption": ("words.", "places.", "kinds.", "fit."),
}
"""What only one of the tasks trains."""


class Valor(PretextTask):
    """Contrast of captions with groups of kinds of data, and captions told word by word from each group.

    A batch whose data lack a kind trains the groups that are left. A sample without sound in a batch that has some
    brings slices of zeros, and so does a recording of nothing but zeros, which the authors' code would give a
    spectrum. Frames are chosen as slices of sound are, one of each equally long segment, at random while training.
    The authors keep 40 word pieces of a caption besides its first and last token: data read with `max_length=42`.
    Nothing is dropped out. Of their optimiser epsilon is taken from the code theirs stems from (unsure).

    Args:
        encoder: of films with sound and captions, `valor`.
        tasks: what is trained on which groups, in the authors' words: `contra%tva%tv%ta_caption%tva%tv%ta`.
        contrast_weight: of the contrast beside the captions (1.5 for the base model).
        mask_rate: chance that a word of a caption is hidden, above 0.
    """

    encoder: ValorEncoder
    recipe = Recipe(
        "adamw", lr=1e-4, lr_batch=0, batch_size=512, epochs=20, weight_decay=0.01, betas=(0.9, 0.98), eps=1e-6,
        warmup=0.1, clip=5.0, schedule="linear",
    )  # fmt: skip

    def __init__(
        self,
        encoder: ValorEncoder,
        tasks: str = "contra%tva%tv%ta_caption%tva%tv%ta",
        contrast_weight: float = 1.5,
        mask_rate: float = 0.6,
    ):
        super().__init__(encoder)
        if not isinstance(encoder, ValorEncoder):
            raise UsageError(
                f"valor trains a 'valor' of films; '{getattr(encoder, 'name', encoder)}' is none"
            )
        if not 0 < mask_rate <= 1:
            raise UsageError(f"mask_rate is above 0 and at most 1, not {mask_rate}")
        self.groups = read_tasks(tasks)
        self.mask_rate = mask_rate
        if "contra" in self.groups:
            self.weights = {"contrast": contrast_weight}
        for task, modules in ALONE.items():
            for name, parameter in encoder.model.named_parameters():
                if task not in self.groups and name.startswith(modules):
                    parameter.requires_grad_(False)

    def tokens(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Tokens of frames and slices, of the kinds of data that there are."""
        read = {"v": ("video", self.encoder.frames, self.encoder.size.frames),
                "a": ("audio", self.encoder.sounds, self.encoder.size.slices)}  # fmt: skip
        found = {}
        for key, (name, tokens, count) in read.items():
            if name in batch:
                unit = uniform((len(batch[name]), count), step.generator) if self.training else None
                found[key] = tokens(batch, unit)
        return found

    def loss(self, batch: Batch, step: Step) -> Losses:
        text = self.encoder.read(batch)
        tokens = self.tokens(batch, step)
        losses: Losses = {}
        for task, groups in self.groups.items():
            there = [group[1:] for group in groups if set(group[1:]) <= tokens.keys()]
            if not there:
                raise UsageError(
                    f"the batch has {', '.join(sorted(batch))}: too little for any of the groups {', '.join(groups)}"
                )
            if task == "contra":
                losses["contrast"] = self.contrast(text, tokens, there, step)
            else:
                losses["caption"] = self.told(self.hide(text, step), text, tokens, there)
        return losses

    def parts(self, text: Text, tokens: dict[str, Tensor]) -> dict[str, Parts]:
        """All words; of frames and slices the class tokens."""
        found = {"t": self.encoder.parts("t", self.encoder.bert(text), text.attention)}
        return found | {key: self.encoder.parts(key, x[:, :, 0]) for key, x in tokens.items()}

    def contrast(self, text: Text, tokens: dict[str, Tensor], groups: list[str], step: Step) -> Tensor:
        """Multimodal grouping alignment: the mean over groups of a symmetric InfoNCE over all processes."""
        parts = {key: gathered(own) for key, own in self.parts(text, tokens).items()}
        found = []
        for group in groups:
            score = self.score(parts, group)
            found.append(symmetric_nce(score, self.encoder.model.temperature.clamp(min=COLDEST)))
            truth = torch.arange(len(score), device=score.device)
            step.metrics[f"found_{group}"] = (score.argmax(1) == truth).float().mean()
        return torch.stack(found).mean()

    def score(self, parts: dict[str, Parts], group: str) -> Float[Tensor, "captions films"]:
        return fine_similarity(parts["t"], self.encoder.group({key: parts[key] for key in group}))

    def hide(self, text: Text, step: Step) -> Masked:
        """Words of a caption, its first token never; the same for all groups."""
        place = torch.arange(text.tokens.shape[1], device=text.tokens.device)
        count, length = text.tokens.shape
        drawn = draw_mask(count, length, step.generator).to(text.tokens.device)
        known, words = self.encoder.vocabulary, self.encoder.words
        return mask_each(
            text, drawn, int(known.mask or 0), words, self.mask_rate, text.attention & (place > 0)
        )

    def told(self, masked: Masked, text: Text, tokens: dict[str, Tensor], groups: list[str]) -> Tensor:
        """Multimodal grouping captioning: cross-entropy of the hidden words, each at its own place, from the words
        up to it and from what a group's data show; the mean over groups."""
        truth = text.tokens[masked.hidden]
        found = []
        for group in groups:
            feature = self.encoder.bert(masked.text, self.encoder.looked_at(group, tokens))
            logits = self.encoder.logits(feature[masked.hidden]).float()
            found.append(F.cross_entropy(logits, truth, reduction="sum"))
        return torch.stack(found).mean() / mean(masked.hidden.sum().float())

    def chance(self, batch_size: int) -> dict[str, float]:
        known = {"contrast": log(max(batch_size, 2)), "caption": log(self.encoder.vocabulary.size)}
        return {name: known[name] for name in known if {"contrast": "contra"}.get(name, name) in self.groups}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        text, spell = self.encoder.read(batch), self.encoder.tokenizer
        masked, tokens = self.hide(text, step), self.tokens(batch, step)
        group = "".join(tokens)
        answer = text.tokens.clone()
        feature = self.encoder.bert(masked.text, self.encoder.looked_at(group, tokens))
        answer[masked.hidden] = self.encoder.logits(feature[masked.hidden]).argmax(1)
        parts = self.parts(text, tokens)
        nearest = self.score(parts, group).argmax(0).tolist()
        rows = []
        for row in range(len(text.tokens)):
            panels = []
            if "v" in tokens:
                panels.append(Panel("what is seen", batch["video"][row], kind="video"))
            if "a" in tokens:
                panels.append(Panel("what is heard", batch["audio"][row], kind="audio"))
            hidden = masked.hidden[row]
            panels += [
                Panel("words hidden", spell.spell(masked.text.tokens[row], hidden, True), "hidden", "text"),
                Panel("what was there", spell.spell(text.tokens[row], hidden), "truth", "text"),
                Panel("answer: the words", spell.spell(answer[row], hidden), "answer", "text"),
                Panel("answer: the caption", spell.decode(text.tokens[nearest[row]]), "answer", "text"),
            ]
            rows.append(panels)
        return Sheet(
            "VALOR", "Which caption belongs to what is seen and heard, and which words are hidden?", rows
        )


def read_tasks(text: str) -> dict[str, list[str]]:
    """`contra%tva%tv%ta_caption%tva` as groups by task.

    Raises:
        UsageError: it is something else.
    """
    found = {}
    for part in text.split("_"):
        name, *groups = part.split("%")
        if name not in ("contra", "caption") or not groups or not set(groups) <= set(GROUPS) or name in found:
            raise UsageError(
                f"tasks '{text}' are written like contra%tva%tv%ta_caption%tva%tv%ta, with groups of "
                f"{', '.join(GROUPS)}"
            )
        found[name] = groups
    return found
