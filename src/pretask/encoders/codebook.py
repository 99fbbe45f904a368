"""Words for what patches look like: a codebook found by k-means, and the nearest word of a vector."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.errors import DataError, UsageError

ROWS = 2**24  # similarities computed at once
FEW = 1024  # words; beyond, choosing the first centres far apart takes longer than all the rest


class Codebook(nn.Module):
    """K words in the space of some features; a vector is called by the nearest (Euclidean).

    A stand-in for a learned tokenizer, as in BEiT (Bao et al., ICLR 2022), whose words are a VAE's.

    Args:
        words: K.
        dim: width of the features.
    """

    centres: Float[Tensor, "words dim"]
    share: Float[Tensor, "words"]

    def __init__(self, words: int, dim: int):
        super().__init__()
        self.register_buffer("centres", torch.zeros(words, dim))
        self.register_buffer("share", torch.zeros(words))

    @torch.no_grad()
    def fit(self, vectors: Float[Tensor, "items dim"], seed: int = 0) -> None:
        """Find the words by mini-batch k-means (Sculley, 2010), and how often each occurs.

        Raises:
            DataError: there are fewer different vectors than words.
        """
        from sklearn.cluster import MiniBatchKMeans

        words = len(self.centres)
        x = vectors.detach().float().cpu().numpy()
        if len(x) < words or len(np.unique(x, axis=0)) < words:
            raise DataError(
                f"a codebook of {words} words needs as many different patches and there are fewer among "
                f"{len(x)}: ask for fewer words"
            )
        start = "k-means++" if words <= FEW else "random"
        means = MiniBatchKMeans(
            words, init=start, n_init=1, batch_size=max(4 * words, 4096), random_state=seed
        )
        self.centres.copy_(torch.from_numpy(means.fit(x).cluster_centers_))
        self.share.copy_(torch.bincount(self(vectors.to(self.centres)), minlength=words) / len(x))

    @torch.no_grad()
    def forward(self, vectors: Float[Tensor, "*batch dim"]) -> Int[Tensor, "*batch"]:
        """The word of each vector."""
        flat = vectors.reshape(-1, vectors.shape[-1]).to(self.centres.dtype)
        with torch.autocast(flat.device.type, enabled=False):  # half precision would mix words up
            half = self.centres.square().sum(1) / 2
            parts = flat.split(max(1, ROWS // len(half)))
            words = torch.cat([(part @ self.centres.T - half).argmax(1) for part in parts])
        return words.view(vectors.shape[:-1])

    @property
    def surprise(self) -> float:
        """The entropy of the words' shares: what guessing them blindly costs at best."""
        return float(-torch.xlogy(self.share, self.share).sum())

    def check(self) -> None:
        """
        Raises:
            UsageError: the words were not found yet.
        """
        if not self.share.any():
            raise UsageError("the words are not found yet: call prepare(batches, num_samples) first")
