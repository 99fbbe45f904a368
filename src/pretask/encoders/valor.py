"""The networks of VALOR: frames, slices of sound and words, each with a transformer, and words that look at both
(Liu et al., TPAMI 2024)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec
from pretask.encoders.image import build as build_image
from pretask.encoders.parts import Parts, joined
from pretask.encoders.text import LanguageHead, fresh
from pretask.errors import UsageError
from pretask.pretexts.audio import frame_sizes, log_mel, mel_filters, segment_places, slices
from pretask.pretexts.text import Text, read_text, widen
from pretask.task import Batch

MEL_MEAN, MEL_DEVIATION, LOWEST = -4.2677393, 4.5689974, 20.0
MOST = 32  # frames or slices that have a place
GROUPS = ("tva", "tv", "ta")


class Size(NamedTuple):
    """The arguments behind the name; VALOR-B has width, text_width 768, depth, text_depth 12, embed 512, slice
    512.

    Args:
        width: of frames' and slices' tokens.
        depth: blocks of their transformers.
        heads: attention heads of all.
        text_width: of words' tokens.
        text_depth: layers of the text's transformer, which is also the decoder.
        embed: width of what is compared.
        patch: side of a frame's patch in pixels; 0 takes a size that suits the frames.
        frames: of a film that are looked at.
        slices: of its sound that are listened to.
        slice: moments of a slice, 10 ms each.
        mels: bands of the sound.
        mel_patch: side of a patch of a slice.
        compare: `fine` lets each part find its best partner, `coarse` compares the mean frame, the mean slice and
            the text's first token.
    """

    width: int = 192
    depth: int = 4
    heads: int = 3
    text_width: int = 192
    text_depth: int = 4
    embed: int = 256
    patch: int = 0
    frames: int = 4
    slices: int = 1
    slice: int = 64
    mels: int = 64
    mel_patch: int = 16
    compare: str = "fine"


class ValorModel(nn.Module):
    """What is kept.

    Args:
        size: of the networks.
        text: a BERT with cross-attention.
        vocab_size: of the text.
        in_chans: of the frames.
        image_size: side of the frames in pixels.
    """

    def __init__(self, size: Size, text: nn.Module, vocab_size: int, in_chans: int, image_size: int):
        super().__init__()
        arguments = f"embed_dim={size.width},depth={size.depth},num_heads={size.heads}"
        spec = EncoderSpec(f"vit_tiny_patch16_224:{arguments}", in_chans, image_size, size.patch or None)
        self.vision, self.audio, self.text = build_image(spec), spectrogram_transformer(size), text
        self.heads = nn.ModuleDict()
        self.places, self.kinds, self.fit = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        for key, width in (("t", size.text_width), ("v", size.width), ("a", size.width)):
            self.heads[key] = nn.Linear(width, size.embed, bias=False)
        for key in "va":
            self.places[key] = nn.Parameter(0.02 * torch.randn(MOST, size.text_width))
            self.kinds[key] = nn.Parameter(0.02 * torch.randn(size.text_width))
            alike = size.width == size.text_width
            layers = [nn.Linear(size.width, size.text_width), nn.LayerNorm(size.text_width, 1e-12)]
            self.fit[key] = nn.Identity() if alike else nn.Sequential(*layers)
        if size.compare == "fine":
            self.weighers = nn.ModuleDict({key: weigher(size.embed) for key in "tva"})
        else:
            self.both = nn.Linear(2 * size.embed, size.embed)
        self.words = LanguageHead(size.text_width, vocab_size, size.text_width, 1e-12)
        self.temperature = nn.Parameter(torch.tensor(0.07))


def weigher(dim: int) -> nn.Module:
    """How much a part counts."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))


def spectrogram_transformer(size: Size) -> nn.Module:
    """A vision transformer on bands and moments of sound, with a class token (AST; Gong et al., 2021)."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=(size.mels, size.slice), patch_size=size.mel_patch, in_chans=1,
        embed_dim=size.width, depth=size.depth, num_heads=size.heads, num_classes=0,
    )  # fmt: skip


class ValorEncoder(Encoder):
    """Films with sound and captions.

    Args:
        size: of the networks.
        name: what `build` was given.
        inputs: what `build` was told of the data.

    Attributes:
        vocabulary: of the captions.
        max_length: tokens that captions are filled up to.
    """

    modality: ClassVar[str] = "film"
    at_once = 64
    filters: Tensor
    words: Tensor

    def __init__(self, size: Size, name: str, inputs: dict[str, Any]):
        super().__init__()
        self.size, self.name, self.inputs = size, name, inputs
        self.rate, self.image_size, self.max_length = (
            inputs["rate"], inputs["image_size"], inputs["max_length"]
        )  # fmt: skip
        arguments = {
            "hidden_size": size.text_width, "num_hidden_layers": size.text_depth, "is_decoder": True,
            "num_attention_heads": size.heads, "intermediate_size": 4 * size.text_width,
            "add_cross_attention": True, "use_cache": False,
        }  # fmt: skip
        text = fresh("bert", arguments, {key: inputs[key] for key in ("tokenizer", "max_length")})
        self.tokenizer, self.vocabulary = text.tokenizer, text.vocabulary
        chans = inputs["in_chans"]
        self.model = ValorModel(size, text.model, self.vocabulary.size, chans, self.image_size)
        self.dim = 2 * size.embed
        whole = 1 << (frame_sizes(self.rate)[0] - 1).bit_length()
        self.register_buffer("filters", mel_filters(self.rate, whole, size.mels, LOWEST), persistent=False)
        self.register_buffer("words", text.words.clone(), persistent=False)

    @property
    def reading(self) -> dict[str, Any]:
        return {
            **{key: self.inputs[key] for key in ("image_size", "rate", "tokenizer", "max_length")},
            "channels": self.inputs["in_chans"],
        }

    def has(self, batch: Batch, group: str) -> bool:
        """Whether a batch holds all of a group's kinds of data (`tva`: text, video and audio)."""
        return all({"t": "tokens", "v": "video", "a": "audio"}[key] in batch for key in group)

    def read(self, batch: Batch) -> Text:
        """The captions, filled up to `max_length` as the authors do: fillers can be found.

        Raises:
            UsageError: there are none, or they are longer.
        """
        text = read_text(batch)
        if text.tokens.shape[1] > self.max_length:
            raise UsageError(
                f"the encoder takes captions of {self.max_length} tokens and was given {text.tokens.shape[1]}"
            )
        return widen(text, self.max_length, self.vocabulary.pad)

    def frames(
        self, batch: Batch, unit: Float[Tensor, "batch frames"] | None = None
    ) -> Float[Tensor, "batch frames tokens width"]:
        """Some frames' class token and patches. Whole frames are squashed to a square, as in the authors' default.

        Args:
            batch: has `video`.
            unit: numbers from U[0, 1) that choose a frame of each equally long segment; None: the middle one.
        """
        video = to_float(require(batch, "video", 5))
        place = segment_places(video.shape[2], self.size.frames, unit, len(video)).to(video.device)
        chosen = video.gather(
            2, place[:, None, :, None, None].expand(-1, video.shape[1], -1, *video.shape[3:])
        )
        seen = F.interpolate(chosen.flatten(1, 2), (self.image_size,) * 2, mode="bilinear", antialias=True)
        pictures = seen.unflatten(1, chosen.shape[1:3]).transpose(1, 2)
        found = self.model.vision(pictures.flatten(0, 1))
        return torch.cat([found.prefix[:, :1], found.tokens], dim=1).unflatten(0, pictures.shape[:2])

    @torch.no_grad()
    def spectrogram(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch slices slice mels"]:
        """Normalised slices of a recording's log-mel spectrum; of nothing but zeros, which stand for a recording that
        is missing, slices of zeros."""
        there = audio.any(1)[:, None, None, None]
        audio = audio.float() - audio.float().mean(1, keepdim=True)
        with torch.autocast(audio.device.type, enabled=False):
            mel = log_mel(audio, self.filters, self.rate)
        return slices(mel, self.size.slice, MEL_MEAN, MEL_DEVIATION) * there

    def sounds(
        self, batch: Batch, unit: Float[Tensor, "batch slices"] | None = None
    ) -> Float[Tensor, "batch slices tokens width"]:
        """Some slices' class token and patches; chosen as frames are."""
        audio = require(batch, "audio", 2)
        if audio.shape[1] < frame_sizes(self.rate)[0]:
            raise UsageError(f"{audio.shape[1]} samples are no 25 ms of sound: read longer pieces (seconds)")
        whole = self.spectrogram(audio)
        place = segment_places(whole.shape[1], self.size.slices, unit, len(whole)).to(whole.device)
        chosen = whole[torch.arange(len(whole), device=whole.device)[:, None], place]
        pictures = chosen.transpose(2, 3).flatten(0, 1)[:, None]  # (B * slices, 1, mels, slice)
        return self.model.audio.forward_features(pictures).unflatten(0, (len(whole), -1))

    def bert(
        self, text: Text, seen: Float[Tensor, "batch places width"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """Features of words: each sees all, or, looking at what is seen besides, those up to itself."""
        mask = attention_mask(text.attention, causal=seen is not None)
        found = self.model.text(
            input_ids=text.tokens, attention_mask=mask, encoder_hidden_states=seen, use_cache=False
        )
        return found.last_hidden_state

    def parts(
        self, key: str, feature: Float[Tensor, "batch parts width"], there: Tensor | None = None
    ) -> Parts:
        """What is compared: each part's unit vector and its weight; where comparison is coarse, one of the mean of
        the parts before the head, of a text of its first token."""
        if self.size.compare == "coarse":
            whole = feature[:, 0] if key == "t" else feature.mean(1)
            return single(self.model.heads[key](whole).float())
        unit = F.normalize(self.model.heads[key](feature).float(), dim=2)
        there = torch.ones_like(unit[..., 0], dtype=torch.bool) if there is None else there
        return Parts(unit, self.model.weighers[key](unit).squeeze(2).float(), there)

    def group(self, parts: dict[str, Parts]) -> Parts:
        """Parts of one kind, or of several as one; coarsely, a linear layer makes one vector of two."""
        if self.size.compare == "fine" or len(parts) == 1:
            return joined(*parts.values())
        whole = torch.cat([parts[key].feature[:, 0] for key in "va"], dim=1)
        return single(self.model.both(whole).float())

    def looked_at(self, keys: str, tokens: dict[str, Tensor]) -> Float[Tensor, "batch places width"]:
        """All tokens of all frames and slices as the decoder sees them, with their place and kind."""
        found = []
        for key in keys:
            x = self.model.fit[key](tokens[key])
            x = x + self.model.places[key][: x.shape[1], None] + self.model.kinds[key]
            found.append(x.flatten(1, 2))
        return torch.cat(found, dim=1)

    def forward(self, batch: Batch) -> Features:  # type: ignore[override]
        """`pooled` is the mean of what frames are compared by, then that of slices; zeros where there are none.
        `tokens` are these parts themselves."""
        tokens = {key: read(batch) for key, name, read in
                  (("v", "video", self.frames), ("a", "audio", self.sounds)) if name in batch}  # fmt: skip
        if not tokens:
            raise UsageError("the batch has neither 'video' nor 'audio'")
        parts = {key: F.normalize(self.model.heads[key](x[:, :, 0]), dim=2) for key, x in tokens.items()}
        some = next(iter(parts.values()))
        means = [parts[key].mean(1) if key in parts else torch.zeros_like(some[:, 0]) for key in "va"]
        every = torch.cat(list(parts.values()), dim=1)
        return Features(torch.cat(means, dim=1), every, every[:, :0], (every.shape[1],))

    def encode(self, batch: Batch) -> Features:
        return self(batch)

    @torch.no_grad()
    def caption(self, batch: Batch, keys: str, length: int, beams: int = 3) -> Int[Tensor, "batch said"]:
        """Words for films: a mask is put behind those there are, and replaced (section on multimodal grouping
        captioning); of each film so many beginnings are gone on with, the likeliest.

        Args:
            batch: films.
            keys: what is looked at: `v`, `a` or `va`.
            length: tokens at most.
            beams: beginnings that are kept.
        """
        tokens = {key: read(batch) for key, read in (("v", self.frames), ("a", self.sounds)) if key in keys}
        seen, known = self.looked_at(keys, tokens).repeat_interleave(beams, 0), self.vocabulary
        count, device = len(seen) // beams, seen.device
        said = torch.full((count, beams, 1), int(known.bos or 0), device=device)
        likely = torch.full((count, beams), -torch.inf, device=device)
        likely[:, 0] = 0  # all beginnings are the same at first
        over = torch.zeros(count, beams, dtype=torch.bool, device=device)
        padding = F.one_hot(torch.tensor(known.pad, device=device), known.size).float().log()
        for _ in range(length - 1):
            asked = F.pad(said, (0, 1), value=int(known.mask or 0)).flatten(0, 1)
            feature = self.bert(Text(asked, torch.ones_like(asked, dtype=torch.bool)), seen)[:, -1]
            step = self.logits(feature).float().log_softmax(1).unflatten(0, (count, beams))
            total = likely[..., None] + torch.where(over[..., None], padding, step)
            likely, best = total.flatten(1).topk(beams, dim=1)
            parent, word = best // known.size, best % known.size
            said = said.gather(1, parent[..., None].expand(-1, -1, said.shape[2]))
            said = torch.cat([said, word[..., None]], dim=2)
            over = over.gather(1, parent) | (word == known.eos)
            if over.all():
                break
        return said[:, 0]

    def logits(self, feature: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocab"]:
        return self.model.words(feature, self.model.text.get_input_embeddings().weight)


def single(vector: Float[Tensor, "batch dim"]) -> Parts:
    """One part, of length 1."""
    unit = F.normalize(vector, dim=1)[:, None]
    return Parts(unit, torch.zeros_like(unit[..., 0]), torch.ones_like(unit[..., 0], dtype=torch.bool))


def attention_mask(
    attention: Bool[Tensor, "batch length"], causal: bool
) -> Bool[Tensor, "batch 1 length length"]:
    """Which words each word sees: all that are there, or those up to itself."""
    length = attention.shape[1]
    mask = attention[:, None, None, :].expand(-1, 1, length, -1)
    return mask.tril() if causal else mask


class RawFilm(Encoder):
    """Small pictures of the first, middle and last frame and the mean level of each band of sound: the data
    themselves as features.

    Args:
        inputs: what `build` was told of the data.
    """

    modality: ClassVar[str] = "film"
    SIDE, MELS = 8, 32

    def __init__(self, inputs: dict[str, Any]):
        super().__init__()
        self.model, self.name, self.inputs = nn.Identity(), "raw", inputs
        whole = 1 << (frame_sizes(inputs["rate"])[0] - 1).bit_length()
        self.register_buffer("filters", mel_filters(inputs["rate"], whole, self.MELS), persistent=False)
        self.dim = 3 * inputs["in_chans"] * self.SIDE**2 + self.MELS

    def encode(self, batch: Batch) -> Features:
        video = to_float(require(batch, "video", 5))
        places = torch.tensor([0, video.shape[2] // 2, video.shape[2] - 1], device=video.device)
        small = F.interpolate(
            video[:, :, places].flatten(1, 2), (self.SIDE,) * 2, mode="bilinear", antialias=True
        )
        mel = log_mel(require(batch, "audio", 2), self.filters, self.inputs["rate"]).mean(1)  # type: ignore[arg-type]
        pooled = torch.cat([small.flatten(1), mel], dim=1)
        return Features(pooled, pooled[:, None], pooled[:, None, :][:, :0], (1,))


def build(
    name: str, *, tokenizer: str, in_chans: int = 3, image_size: int = 32, rate: int = 16000, max_length: int = 42,
    **_: Any,
) -> Encoder:  # fmt: skip
    """`valor` with any of `Size`'s arguments behind a colon, or `raw`.

    Raises:
        UsageError: there is no such encoder, or it cannot take these arguments.
    """
    inputs = {
        "tokenizer": tokenizer, "in_chans": in_chans, "image_size": image_size, "rate": rate,
        "max_length": max_length,
    }  # fmt: skip
    plain, given = split_name(name)
    if plain == "raw":
        return RawFilm(inputs)
    if plain != "valor" or given.keys() - set(Size._fields):
        known = ", ".join(Size._fields)
        raise UsageError(f"'{name}': films with sound are read by valor (behind a colon: {known}) or raw")
    size = Size(**given)
    if size.compare not in ("fine", "coarse"):
        raise UsageError(f"encoder '{name}': compare is fine or coarse")
    if size.slice % size.mel_patch or size.mels % size.mel_patch or max(size.frames, size.slices) > MOST:
        raise UsageError(
            f"encoder '{name}': patches of {size.mel_patch} must divide slice and mels, and there are at most {MOST} "
            "frames and slices"
        )
    return ValorEncoder(size, name, inputs)
