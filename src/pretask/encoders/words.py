"""The few words of a small policy, and the processor that turns a conversation into them.

transformers' own tokenizer and processor classes, made here from nothing: trl drives a policy of ours with
them as it drives a large vision-language model with its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from pretask.data.batch import to_float

PAD, END, IMAGE, ASK, COMMA = range(5)
SIGNS = ("<pad>", "<end>", "<image>", "<ask>", ",")  # the numbers follow

# A word for each picture, then the signal to answer. The question's text is left out: a small policy is
# trained on one question only and cannot read.
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}<ask>"
)


class Words(PreTrainedTokenizerFast):
    """A tokenizer that knows the numbers 1 .. `numbers`, the comma and four signs."""

    def __init__(self, numbers: int = 9, **kwargs: Any):
        vocabulary = {word: i for i, word in enumerate([*SIGNS, *map(str, range(1, numbers + 1))])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SIGNS[PAD]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|,"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        super().__init__(
            tokenizer_object=tokenizer, pad_token=SIGNS[PAD], unk_token=SIGNS[PAD], eos_token=SIGNS[END],
            additional_special_tokens=[SIGNS[IMAGE], SIGNS[ASK]], padding_side="left",
        )  # fmt: skip


def number_words(numbers: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """The words of numbers from 1 on: they follow the comma."""
    return numbers + COMMA


def answer_words(answer: Int[Tensor, "batch pieces"]) -> Int[Tensor, "batch 2*pieces"]:
    """Numbers with commas between them, and the end."""
    words = torch.full((*answer.shape, 2), COMMA, device=answer.device)
    words[:, :, 0] = number_words(answer)
    words[:, -1, 1] = END
    return words.flatten(1)


def question_words(answer: Int[Tensor, "batch pieces"]) -> Int[Tensor, "batch pieces+1"]:
    """What stands before an answer: a word for each piece, and the signal to answer (`TEMPLATE`)."""
    words = torch.full((len(answer), answer.shape[1] + 1), IMAGE, device=answer.device)
    words[:, -1] = ASK
    return words


class PieceProcessor(ProcessorMixin):
    """Conversations with pictures as words and pixels.

    Args:
        tokenizer: the words.
        side: pictures are resampled to squares of so many pixels.
        channels: of the pictures.
    """

    def __init__(self, tokenizer: Words, side: int = 32, channels: int = 3, chat_template: str = TEMPLATE):
        super().__init__(tokenizer, chat_template=chat_template)
        self.side, self.channels = side, channels
        self.image_token, self.image_token_id = SIGNS[IMAGE], IMAGE

    def __call__(
        self,
        images: Sequence[Sequence[Any]] | None = None,
        text: str | Sequence[str] | None = None,
        padding: bool = False,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        words = self.tokenizer(
            text, padding=padding, return_tensors=return_tensors, return_token_type_ids=False
        )
        pictures = [picture for asked in images or () for picture in asked or ()]
        if not pictures:
            return BatchFeature(dict(words))
        return BatchFeature({**words, "pixel_values": torch.cat([self.pixels(p) for p in pictures])})

    def pixels(self, picture: Any) -> Float[Tensor, "1 chans side side"]:
        """A picture, PIL's or a tensor (C, H, W), in [0, 1] at the policy's size."""
        if not isinstance(picture, Tensor):
            array = np.array(picture.convert("RGB" if self.channels == 3 else "L"))
            picture = torch.from_numpy(array).view(*array.shape[:2], -1).permute(2, 0, 1)
        picture = to_float(picture)[None]
        if picture.shape[-2:] == (self.side, self.side):
            return picture
        size = (self.side, self.side)
        return F.interpolate(picture, size, mode="bilinear", antialias=True).clamp(0, 1)
