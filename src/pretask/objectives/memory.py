"""What a method remembers between steps: a row a sample, the last few batches, or a fair share of a stream.

All processes hold the same memory: they write what all of them have seen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.objectives.distributed import gather, mean, world_size
from pretask.pretexts import draw

DENSE = 8  # the bank is read as a whole until it has this many times the rows that are asked for


class MemoryBank(nn.Module):
    """One vector of length 1 for each sample of the data set (Wu et al., CVPR 2018).

    Args:
        size: samples.
        dim: width of a row.
        momentum: share of the old row that an update keeps.
        seed: of the first rows, U(-1/sqrt(dim/3), 1/sqrt(dim/3)) and then normalised; the same in all
            processes.
    """

    rows: Tensor

    def __init__(self, size: int, dim: int, momentum: float = 0.5, seed: int = 0):
        super().__init__()
        self.momentum = momentum
        first = torch.rand(size, dim, generator=torch.Generator().manual_seed(seed))
        # the bounds only scale the cube that the rows are drawn from: normalising undoes it
        self.register_buffer("rows", F.normalize(2 * first - 1, dim=1))

    def draw(
        self, index: Int[Tensor, "batch"], num_negatives: int, generator: torch.Generator
    ) -> Int[Tensor, "batch 1+negatives"]:
        """Rows to compare with: each sample's own in column 0, then rows drawn from the whole bank with
        replacement (they may include the own one)."""
        negatives = draw.integers(len(self.rows), (len(index), num_negatives), generator)
        return torch.cat([index[:, None], negatives.to(index.device)], dim=1)

    def scores(
        self, query: Float[Tensor, "batch dim"], places: Int[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch columns"]:
        """Inner products of each query with its rows; the bank learns nothing from them."""
        with torch.autocast(query.device.type, enabled=False):  # too coarse to divide by a temperature
            rows = self.rows.to(query.dtype)
            if len(rows) <= DENSE * places.shape[1]:  # faster than gathering (batch, columns, dim)
                return (query @ rows.T).gather(1, places)
            return torch.einsum("bd,bkd->bk", query, rows[places])

    @torch.no_grad()
    def update(self, index: Int[Tensor, "batch"], embedding: Float[Tensor, "batch dim"]) -> None:
        """row <- normalise(momentum row + (1 - momentum) embedding), for the samples of all processes."""
        index, embedding = gather(index), gather(embedding.detach())
        kept = self.rows[index] * self.momentum
        rows = F.normalize(kept + (1 - self.momentum) * embedding.to(kept.dtype), dim=1)
        self.rows.index_copy_(0, index, rows)


class Partition(nn.Module):
    """The constant Z that makes probabilities of exponentiated scores: set at first use, kept for good.

    Z = N mean(exp(s / T)) over all scores of the first batch, of all processes. It is a buffer, so that a
    resumed run goes on with the same loss.

    Args:
        num_samples: N, rows of the bank.
    """

    value: Tensor

    def __init__(self, num_samples: int):
        super().__init__()
        self.num_samples = num_samples
        self.register_buffer("value", torch.tensor(-1.0))

    def forward(self, exponentials: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        # asking whether it is set would stall the device; one mean over processes a step is cheaper
        first = mean(exponentials.detach().mean().to(self.value.dtype)) * self.num_samples
        value = torch.where(self.value < 0, first, self.value)
        if self.training:  # looking on must not change what is learned
            self.value.copy_(value)
        return exponentials / value


class Queue(nn.Module):
    """The keys of the last batches of all processes (MoCo): the oldest make place for the newest.

    Any batch fits any size: writing goes on at the start when the end is reached.

    Args:
        size: keys kept.
        dim: width of a key.
        seed: of the first rows, normal and then normalised.
        normalise: keep keys at length 1; else as they are given.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0, normalise: bool = True):
        super().__init__()
        self.normalise = normalise
        first = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("rows", F.normalize(first, dim=1) if normalise else first)
        self.register_buffer("position", torch.tensor(0))

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "batch dim"]) -> None:
        """Write keys, after the loss that was to see the queue without them."""
        keys = gather(keys.detach())
        skipped = max(len(keys) - len(self.rows), 0)  # they would be overwritten at once
        places = self.position + torch.arange(skipped, len(keys), device=keys.device)
        kept = F.normalize(keys[skipped:], dim=1) if self.normalise else keys[skipped:]
        self.rows[places % len(self.rows)] = kept.to(self.rows.dtype)
        self.position.add_(len(keys)).remainder_(len(self.rows))


def reservoir_places(
    seen: int, size: int, drawn: Int[Tensor, "batch"]
) -> tuple[Int[Tensor, "kept"], Int[Tensor, "kept"]]:
    """Which of a stream's next samples are kept, and where (Vitter, 1985).

    Sample number n (from 0) is kept at place n while there is room, then at place j of 0 .. n if that is
    one of the reservoir's. Of several samples for one place the last stays.

    Args:
        seen: samples before these.
        size: places.
        drawn: j for each sample, uniform over 0 .. n.

    Returns:
        Rows of the batch, and the place of each; no place twice.
    """
    number = seen + torch.arange(len(drawn), device=drawn.device)
    place = torch.where(number < size, number, drawn)
    row = torch.arange(len(drawn), device=drawn.device)
    last = torch.full((size + 1,), -1, device=drawn.device)
    last.scatter_reduce_(0, place.clamp(max=size), row, "amax")  # the extra place takes what is not kept
    places = (last[:-1] >= 0).nonzero().flatten()
    return last[places], places


class Reservoir(nn.Module):
    """A uniform sample of all pictures of a stream so far, with their labels; of those of all processes.

    Pictures are kept as bytes, exactly if they were read as bytes and not resampled.

    Args:
        size: pictures kept.
        shape: channels, height and width of a picture.
    """

    images: Tensor
    labels: Tensor
    seen: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]):
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.long))
        self.register_buffer("seen", torch.tensor(0))

    def __len__(self) -> int:
        return min(int(self.seen), len(self.images))

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
        """This process's `count` places out of those filled (in this part of its batch); over all of them no
        place twice, and fewer where there are fewer."""
        filled, shares = len(self), world_size() * draw.PART.get()[1]
        order = torch.rand(filled, generator=generator, device=generator.device).argsort()
        return draw.own_rows(lambda n: order[:n], min(count, filled // shares)).to(self.images.device)

    def get(
        self, places: Int[Tensor, "count"]
    ) -> tuple[Float[Tensor, "count chans h w"], Int[Tensor, "count"]]:
        """Pictures in [0, 1] and labels."""
        return self.images[places].float() / 255, self.labels[places]

    @torch.no_grad()
    def add(
        self,
        images: Float[Tensor, "batch chans h w"],
        labels: Int[Tensor, "batch"],
        generator: torch.Generator,
    ) -> None:
        """Go on sampling with these pictures in [0, 1], those of all processes in order of rank."""
        images, labels = gather((images * 255).round().byte()), gather(labels)
        seen = int(self.seen)
        number = seen + torch.arange(len(labels), device=generator.device)
        unit = torch.rand(len(labels), generator=generator, device=generator.device, dtype=torch.float64)
        drawn = (unit * (number + 1)).long()
        rows, places = reservoir_places(seen, len(self.images), drawn.to(images.device))
        self.images[places] = images[rows]
        self.labels[places] = labels[rows]
        self.seen += len(labels)
