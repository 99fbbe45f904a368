"""Any transformers model of text as an encoder; its weights stay transformers' own."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.tokens import tokenizer_of
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.errors import UsageError, need
from pretask.pretexts.text import read_text
from pretask.task import Batch

SPARE = 1024  # tokens by which a published model's table may exceed its tokenizer's: tables are rounded up
HASHED = 4096  # columns of a bag of tokens at most
PLAIN = (bool, int, float, str)


class LanguageHead(nn.Module):
    """From a place's features to a logit for each token (the head of BERT and RoBERTa): a dense layer with
    GELU and layer normalisation, then the encoder's own table of tokens with a bias.

    The table is handed over, not held: it is the encoder's parameter.

    Args:
        dim: width of the features.
        vocab_size: tokens.
        embed_dim: width of the table.
        eps: of the normalisation.
    """

    def __init__(self, dim: int, vocab_size: int, embed_dim: int, eps: float = 1e-5):
        super().__init__()
        self.dense = nn.Linear(dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim, eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(
        self, x: Float[Tensor, "*places dim"], table: Float[Tensor, "vocab embed_dim"]
    ) -> Float[Tensor, "*places vocab"]:
        return F.linear(self.norm(F.gelu(self.dense(x))), table, self.bias)


class TextEncoder(Encoder):
    """A transformers model with one face.

    Dropout is off: it would read the global random state, and the recipes that continue from published
    weights do without. `pooled` is the mean over a text's tokens.

    Args:
        model: the bare model, without any head.
        name: what builds it again, arguments behind a colon included.
        inputs: what `build` was told of the data.
        head: state of a published language head, if the weights came with one.

    Attributes:
        tokenizer: what made numbers of the text.
        depth: layers.
        max_length: tokens of the longest text it takes.
        words: all tokens that are text.
    """

    modality: ClassVar[str] = "text"
    words: Tensor

    def __init__(
        self, model: nn.Module, name: str, inputs: dict[str, Any], head: dict[str, Tensor] | None = None
    ):
        super().__init__()
        self.model, self.name, self.inputs = model, name, inputs
        self.dim: int = self.model.config.hidden_size
        self.depth: int = self.model.config.num_hidden_layers
        self.tokenizer = tokenizer_of(inputs["tokenizer"])
        self.vocabulary = self.tokenizer.vocabulary
        self.max_length: int = inputs["max_length"]
        self.published_head = head
        words = torch.ones(self.vocabulary.size, dtype=torch.bool)
        words[list(self.vocabulary.special)] = False
        self.register_buffer("words", words.nonzero().flatten(), persistent=False)

    @property
    def reading(self) -> dict[str, Any]:
        return self.inputs

    @property
    def table(self) -> Float[Tensor, "vocab embed_dim"]:
        """The tokens' embeddings."""
        return self.model.get_input_embeddings().weight

    def language_head(self) -> LanguageHead:
        """A head that predicts tokens: the published one if the weights came with one, else a fresh one."""
        eps = getattr(self.model.config, "layer_norm_eps", 1e-5)
        vocab_size, embed_dim = self.table.shape
        head = LanguageHead(self.dim, vocab_size, embed_dim, eps)
        if self.published_head is not None:
            head.load_state_dict(self.published_head)
        return head

    def layers(
        self, tokens: Int[Tensor, "batch length"], attention: Bool[Tensor, "batch length"] | None = None
    ) -> tuple[Float[Tensor, "batch length dim"], ...]:
        """The features behind each layer; at 0 the embeddings, at `depth` the last.

        Raises:
            UsageError: the text is longer than the encoder can place.
        """
        if tokens.shape[1] > self.max_length:
            raise UsageError(
                f"the encoder places {self.max_length} tokens and was given {tokens.shape[1]}: read the text "
                "with a smaller max_length, or build the encoder with a larger one"
            )
        mask = None if attention is None else attention.long()
        return self.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states

    def forward(
        self, tokens: Int[Tensor, "batch length"], attention: Bool[Tensor, "batch length"] | None = None
    ) -> Features:
        """Features of each token; `prefix` is that of the first one where it stands for the whole text."""
        x = self.layers(tokens, attention)[-1]
        prefix = x[:, : int(self.vocabulary.bos is not None)]
        return Features(mean_over(x, attention), x, prefix, (x.shape[1],))

    def encode(self, batch: Batch) -> Features:
        """What protocols judge; padding carries the mean, so that whoever averages all tokens gets it."""
        tokens, attention = read_text(batch)
        found = self(tokens, attention)
        return found._replace(tokens=torch.where(attention[..., None], found.tokens, found.pooled[:, None]))


class BagOfTokens(Encoder):
    """How often each token occurs, as the features of a text; nothing is learned.

    Args:
        inputs: what `build` was told of the data; beyond 4096 tokens several share a column.
    """

    modality: ClassVar[str] = "text"

    def __init__(self, inputs: dict[str, Any]):
        super().__init__()
        self.model, self.name, self.inputs = nn.Identity(), "raw", inputs
        self.vocabulary = tokenizer_of(inputs["tokenizer"]).vocabulary
        self.dim = min(self.vocabulary.size, HASHED)
        self.max_length, self.depth = inputs["max_length"], 0

    @property
    def reading(self) -> dict[str, Any]:
        return self.inputs

    def forward(
        self, tokens: Int[Tensor, "batch length"], attention: Bool[Tensor, "batch length"] | None = None
    ) -> Features:
        special = torch.tensor(self.vocabulary.special, device=tokens.device)
        counted = (~torch.isin(tokens, special)).float()
        if attention is not None:
            counted = counted * attention
        counts = counted.new_zeros(len(tokens), self.dim).scatter_add_(1, tokens % self.dim, counted)
        x = counts[:, None]
        return Features(counts, x, x[:, :0], (1,))

    def layers(
        self, tokens: Int[Tensor, "batch length"], attention: Bool[Tensor, "batch length"] | None = None
    ) -> tuple[Float[Tensor, "batch 1 dim"], ...]:
        return (self(tokens, attention).tokens,)

    def encode(self, batch: Batch) -> Features:
        return self(*read_text(batch))


def mean_over(
    x: Float[Tensor, "batch length dim"], attention: Bool[Tensor, "batch length"] | None
) -> Float[Tensor, "batch dim"]:
    """The mean over a text's tokens."""
    if attention is None or x.shape[1] != attention.shape[1]:
        return x.mean(1)
    weight = attention.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


def build(name: str, *, tokenizer: str, max_length: int = 512, pretrained: bool = False) -> Encoder:
    """The encoder a name stands for.

    Args:
        name: a transformers architecture (`bert`, `xlm-roberta`, `albert` ...) with arguments of its
            configuration behind a colon, to be trained from nothing: `xlm-roberta:num_hidden_layers=4`;
            or a folder or a name on the hub with published weights; or `raw`.
        tokenizer: the JSON of what made numbers of the text.
        max_length: tokens of the longest text.
        pretrained: only published weights will do.

    Raises:
        UsageError: there is no such model, or it cannot take these arguments or this text.
    """
    inputs = {"tokenizer": tokenizer, "max_length": max_length}
    if name == "raw":
        return BagOfTokens(inputs)
    transformers = need("transformers", "text")
    kind, arguments = split_name(name)
    if kind in transformers.CONFIG_MAPPING and not pretrained:
        return fresh(kind, arguments, inputs)
    if arguments:
        raise UsageError(f"encoder '{kind}': published weights take no arguments, and {arguments} are given")
    return published(kind, inputs)


def fresh(kind: str, arguments: dict[str, Any], inputs: dict[str, Any]) -> TextEncoder:
    """A model from its configuration, with random weights."""
    transformers = need("transformers", "text")
    known = tokenizer_of(inputs["tokenizer"]).vocabulary
    given: dict[str, Any] = {
        "vocab_size": known.size,
        "pad_token_id": known.pad,
        "bos_token_id": known.bos,
        "eos_token_id": known.eos,
        # RoBERTa counts positions from behind the padding token
        "max_position_embeddings": inputs["max_length"] + known.pad + 1,
        **{key: number_in(value) for key, value in arguments.items()},
    }
    try:
        config = transformers.CONFIG_MAPPING[kind](**given)
        config.update(without_dropout(config, arguments))
        model = transformers.AutoModel.from_config(config, **without_pooler(config))
    except UsageError:
        raise
    except Exception as error:  # the library raises errors of its own
        raise UsageError(
            f"encoder '{kind}' with {arguments}: {' '.join(str(error).split())[:300]}"
        ) from error
    extra = ",".join(f"{key}={value}" for key, value in arguments.items())
    return TextEncoder(model, f"{kind}:{extra}" if extra else kind, inputs)


def published(name: str, inputs: dict[str, Any]) -> TextEncoder:
    """A model with published weights; it is kept under the name of its configuration, which needs no network
    to be built again."""
    transformers = need("transformers", "text")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        config.update(without_dropout(config, {}))
        whole = type(config) in transformers.AutoModelForMaskedLM._model_mapping
        if whole:
            masked = transformers.AutoModelForMaskedLM.from_pretrained(name, config=config)
            model, head = masked.base_model, published_head(masked)
        else:
            kwargs = without_pooler(config)
            model, head = transformers.AutoModel.from_pretrained(name, config=config, **kwargs), None
    except (OSError, ValueError) as error:
        near = ", ".join(("bert", "xlm-roberta", "albert", "distilbert"))
        raise UsageError(
            f"there is no text encoder '{name}': give an architecture ({near} ...), a folder, or a name on "
            f"the hub that is cached or can be reached ({' '.join(str(error).split())[:200]})"
        ) from error
    known = tokenizer_of(inputs["tokenizer"]).vocabulary.size
    if not known <= config.vocab_size < known + SPARE:
        raise UsageError(
            f"'{name}' knows {config.vocab_size} tokens and the text was cut into {known} kinds: "
            f"read the text with tokenizer='{name}'"
        )
    positions = config.max_position_embeddings - (
        config.pad_token_id + 1 if "roberta" in config.model_type else 0
    )
    inputs = {**inputs, "max_length": min(inputs["max_length"], positions)}
    encoder = TextEncoder(model, full_name(config), inputs, head)
    encoder.pretrained = True
    return encoder


def full_name(config: Any) -> str:
    """An architecture with whatever differs from its defaults, as `fresh` takes it."""
    usual = type(config)().to_dict()
    said = {
        key: value
        for key, value in config.to_dict().items()
        if isinstance(value, PLAIN)
        and key in usual
        and "drop" not in key
        and (usual[key] != value or key in SAID)
    }
    extra = ",".join(f"{key}={value}" for key, value in sorted(said.items()) if key not in UNSAID)
    return f"{config.model_type}:{extra}" if extra else config.model_type


SAID = ("vocab_size", "max_position_embeddings", "pad_token_id")  # else the tokenizer would decide
UNSAID = {"transformers_version", "dtype", "torch_dtype", "_name_or_path"}
"""What a configuration says that is no argument of it."""


def number_in(value: Any) -> Any:
    """`1e-5` is text to YAML."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def without_dropout(config: Any, given: dict[str, Any]) -> dict[str, float]:
    """All rates of dropout as zero.

    Raises:
        UsageError: another rate was asked for.
    """
    rates = {
        key for key, value in config.to_dict().items() if "drop" in key and isinstance(value, (int, float))
    }
    asked = [key for key in rates if given.get(key)]
    if asked:
        raise UsageError(f"{asked[0]}: dropout reads the global random state, so text encoders do without")
    return dict.fromkeys(rates, 0.0)


def without_pooler(config: Any) -> dict[str, bool]:
    """What leaves out the layer behind the first token, which BERT's second task trained; unused here."""
    model = need("transformers", "text").AutoModel._model_mapping[type(config)]
    accepted = inspect.signature(model.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


def published_head(masked: Any) -> dict[str, Tensor] | None:
    """A masked language model's head as the state of a `LanguageHead`, if it is built like one."""
    inside = masked.base_model_prefix
    own = [module for name, module in masked.named_modules() if not name.startswith(inside)]
    out = masked.get_output_embeddings()
    dense = [m for m in own if isinstance(m, nn.Linear) and m is not out]
    norm = [m for m in own if isinstance(m, nn.LayerNorm)]
    if len(dense) != 1 or len(norm) != 1 or out is None or out.bias is None:
        return None
    state = {"dense": dense[0], "norm": norm[0]}
    found = {
        f"{name}.{key}": value for name, module in state.items() for key, value in module.state_dict().items()
    }
    return {key: value.detach().clone() for key, value in {**found, "bias": out.bias}.items()}
