"""A small vision-language policy: pictures in, a few words out; a transformers model that trl can train.

One encoder for all pieces, an embedding of the place where a piece is displayed, a Transformer over the
pieces, and a decoder that writes the answer word by word: what a large model does, in well under a million
parameters. The decoder is transformers' Llama, so that `generate` and its cache are theirs.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, LlamaConfig, LlamaModel, PreTrainedModel

from pretask.encoders.base import Encoder
from pretask.encoders.words import ASK, END, IMAGE, PAD, Words
from pretask.errors import UsageError


class PolicyConfig(LlamaConfig):
    """The decoder's sizes; `image_token_id` is the word a picture stands for."""

    model_type = "pretask-policy"

    def __init__(self, image_token_id: int = IMAGE, **kwargs: Any):
        self.image_token_id = image_token_id
        super().__init__(**kwargs)


class Solver(nn.Module):
    """What reads the pieces' features and writes the answer: all of the policy but the encoder.

    Args:
        features: numbers that describe one piece.
        words: what it can write.
        pieces: the most that can be displayed at once.
        width: of every layer.
        depth: layers of the Transformer over pieces, and as many of the decoder.
        heads: attention heads.
    """

    def __init__(
        self, features: int, words: Words, pieces: int, width: int = 96, depth: int = 2, heads: int = 4
    ):
        super().__init__()
        self.pieces = pieces
        self.project = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width))
        self.place = nn.Parameter(torch.randn(pieces, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.mix = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.config = PolicyConfig(
            vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=depth,
            num_attention_heads=heads, num_key_value_heads=heads, pad_token_id=PAD, eos_token_id=END,
            bos_token_id=None, max_position_embeddings=512, tie_word_embeddings=False,
        )  # fmt: skip
        self.decoder = LlamaModel(self.config)
        self.head = nn.Linear(width, len(words), bias=False)

    def embed(
        self, tokens: Int[Tensor, "batch length"], features: Float[Tensor, "pieces features"] | None
    ) -> Float[Tensor, "batch length width"]:
        """Words as vectors, with the pieces (in reading order over the batch) where the words say so.

        Raises:
            UsageError: more pieces than there are places for, or another number than the words speak of.
        """
        vectors = self.decoder.embed_tokens(tokens)
        where = tokens == IMAGE
        if (
            features is None or not where.any()
        ):  # behind the first word `generate` has the pieces in its cache
            return vectors
        counts = where.sum(1)
        most = int(counts.max())
        if most > self.pieces or len(features) != int(counts.sum()):
            raise UsageError(
                f"the question speaks of {int(counts.sum())} pieces, at most {most} at once; given are "
                f"{len(features)}, and there is place for {self.pieces}"
            )
        there = torch.arange(most, device=tokens.device) < counts[:, None]
        projected = self.project(features)
        slots = projected.new_zeros(len(tokens), most, projected.shape[1])
        slots = slots.masked_scatter(there[:, :, None], projected) + self.place[:most].to(slots.dtype)
        mixed = self.mix(slots, src_key_padding_mask=None if there.all() else ~there)
        return vectors.masked_scatter(where[:, :, None], mixed[there].to(vectors.dtype))

    def logits(
        self, tokens: Int[Tensor, "batch length"], features: Float[Tensor, "pieces features"]
    ) -> Float[Tensor, "batch length words"]:
        """The next word's logits behind every word."""
        vectors = self.embed(tokens, features)
        return self.head(self.decoder(inputs_embeds=vectors, use_cache=False).last_hidden_state)


class Backbone(nn.Module):
    """Encoder and solver up to the last hidden state, called as transformers' models are."""

    def __init__(self, encoder: Encoder, solver: Solver):
        super().__init__()
        self.encoder, self.solver = encoder, solver

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        features = None
        if pixel_values is not None and (input_ids == IMAGE).any():
            # rollouts of one question show the same pieces: each is encoded once
            different, which = pixel_values.flatten(1).unique(dim=0, return_inverse=True)
            features = describe(self.encoder, different.view(-1, *pixel_values.shape[1:]))[which]
        return self.solver.decoder(inputs_embeds=self.solver.embed(input_ids, features), **kwargs)


class Policy(PreTrainedModel, GenerationMixin):
    """Encoder and solver as one transformers model; both stay the caller's own modules.

    Args:
        encoder: any image encoder.
        solver: made for the number of features `describe` gives.
    """

    config_class = PolicyConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, encoder: Encoder, solver: Solver):
        super().__init__(solver.config)
        self.model = Backbone(encoder, solver)
        self.lm_head = solver.head
        self.generation_config = GenerationConfig(
            eos_token_id=END, pad_token_id=PAD, suppress_tokens=[PAD, IMAGE, ASK]
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.model.solver.decoder.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        kept = kwargs.pop("logits_to_keep", 0)
        output = self.model(input_ids, pixel_values, **kwargs)
        output["logits"] = self.lm_head(output.last_hidden_state[:, -kept:])
        return output


def describe(
    encoder: Encoder, pieces: Float[Tensor, "pieces chans side side"]
) -> Float[Tensor, "pieces features"]:
    """What the encoder says of each piece: its vector, and the vector of every place in it.

    Places are kept apart because what lies at a piece's border tells its neighbour.
    """
    features = encoder(pieces)
    return torch.cat([features.pooled, features.tokens.flatten(1)], dim=1)
