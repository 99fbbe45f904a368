"""Models of other libraries with one face: `encoder(x) -> Features(pooled, tokens, prefix, grid)`."""

from pretask.encoders.base import Encoder
from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec, ImageEncoder
from pretask.encoders.weights import build_encoder, load_encoder, save_encoder

__all__ = [
    "Encoder", "EncoderSpec", "Features", "ImageEncoder", "build_encoder", "load_encoder", "save_encoder",
]  # fmt: skip
