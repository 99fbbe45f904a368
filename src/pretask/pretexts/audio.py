"""Sound as a picture of pitch or frequency over time, and what is done to it: pure functions of tensors.

The constant-Q transform follows Brown (1991): every bin looks through a window of its own, so many periods
long that neighbouring semitones are told apart.
"""

from __future__ import annotations

from math import ceil, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

OCTAVE = 12  # semitones


def excerpts(
    audio: Float[Tensor, "batch samples"], unit: Float[Tensor, "batch 2"], size: int
) -> tuple[Float[Tensor, "batch size"], Float[Tensor, "batch size"]]:
    """Two excerpts of each recording that do not overlap, the first before the second.

    Args:
        audio: recordings of at least twice `size` samples.
        unit: numbers from U[0, 1), which share out the samples that are in neither.
        size: samples of an excerpt.
    """
    spare = audio.shape[1] - 2 * size
    first, second = (unit.sort(dim=1).values * (spare + 1)).long().clamp(max=spare).unbind(1)
    along = torch.arange(size, device=audio.device)
    return audio.gather(1, first[:, None] + along), audio.gather(1, second[:, None] + size + along)


def peak_normalised(audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Each recording divided by its largest absolute value; silence stays silence."""
    peak = audio.abs().amax(1, keepdim=True)
    return audio / torch.where(peak > 0, peak, 1.0)


def constant_q_kernels(
    rate: int, bins: int, lowest: float = 27.5, per_octave: int = OCTAVE
) -> list[Float[Tensor, "pairs size"]]:
    """Windowed complex exponentials, an entry an octave: real parts of its bins, then imaginary ones.

    Bin k has frequency f = lowest * 2^(k / per_octave) and a periodic Hann window of ceil(Q rate / f) samples
    with Q = 1 / (2^(1 / per_octave) - 1), about the middle of the entry's `size`. It is normalised to a sum
    of absolute values of 1, times the root of its length (librosa's convention for magnitudes).

    Raises:
        ValueError: a bin lies above half the rate.
    """
    if lowest * 2 ** ((bins - 1) / per_octave) >= rate / 2:
        raise ValueError(f"{bins} bins from {lowest} Hz reach above half of {rate} samples a second")
    found = []
    for first in range(0, bins, per_octave):
        octave = range(first, min(first + per_octave, bins))
        kernels = [constant_q_kernel(lowest * 2 ** (k / per_octave), rate, per_octave) for k in octave]
        half = ceil(len(kernels[0]) / 2)  # the lowest bin of an octave has the longest window
        placed = torch.zeros(len(kernels), 2 * half, dtype=torch.complex128)
        for row, kernel in zip(placed, kernels, strict=True):
            begin = half - len(kernel) // 2
            row[begin : begin + len(kernel)] = kernel
        found.append(torch.cat([placed.real, placed.imag]).float())
    return found


def constant_q_kernel(frequency: float, rate: int, per_octave: int) -> Tensor:
    """One bin's window and exponential, whose phase is zero in the middle."""
    size = ceil(rate / frequency / (2 ** (1 / per_octave) - 1))
    window = torch.hann_window(size, dtype=torch.float64)
    time = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = window * torch.exp(2j * pi * frequency / rate * time)
    return kernel / kernel.abs().sum() * size**0.5


def constant_q(
    audio: Float[Tensor, "batch samples"], kernels: list[Float[Tensor, "pairs size"]], hop: int
) -> Float[Tensor, "batch bins frames"]:
    """Magnitudes of all bins, a frame every `hop` samples, the first about sample 0; recordings go on
    mirrored beyond their ends.

    A frame is an inner product with a window of thousands of samples. The recording is cut into blocks of
    `hop` samples, which are channels of a convolution over blocks: nothing is copied for overlapping frames.

    Raises:
        ValueError: a recording is shorter than half the longest window.
    """
    if audio.shape[1] <= kernels[0].shape[1] // 2:
        raise ValueError(
            f"recordings of {audio.shape[1]} samples are shorter than half a window of the lowest bin"
        )
    frames = audio.shape[1] // hop + 1
    found = []
    for kernel in kernels:
        half, blocks = kernel.shape[1] // 2, ceil(kernel.shape[1] / hop)
        padded = F.pad(audio, (half, half), mode="reflect")
        needed = (frames - 1 + blocks) * hop
        padded = F.pad(padded[:, :needed], (0, max(needed - padded.shape[1], 0)))
        weight = (
            F.pad(kernel, (0, blocks * hop - kernel.shape[1])).unflatten(1, (blocks, hop)).transpose(1, 2)
        )
        real, imaginary = F.conv1d(padded.unflatten(1, (-1, hop)).transpose(1, 2), weight).chunk(2, dim=1)
        found.append((real.square() + imaginary.square()).clamp(min=1e-24).sqrt())
    return torch.cat(found, dim=1)


def decibels(
    level: Float[Tensor, "batch bins frames"], reach: float = 80.0, least: float = 1e-10
) -> Float[Tensor, "batch bins frames"]:
    """10 log10 of values, at least `least`, and nothing farther than `reach` below the sample's largest."""
    decibel = 10 * level.clamp(min=least).log10()
    return decibel.maximum(decibel.amax((1, 2), keepdim=True) - reach)


def crop_bins(
    spectrum: Float[Tensor, "batch bins frames"], start: Int[Tensor, "batch"], height: int
) -> Float[Tensor, "batch height frames"]:
    """`height` bins of each from its own start on. In a spectrum with a bin a semitone, starting n bins
    higher is as if the music were transposed n semitones down."""
    rows = start[:, None] + torch.arange(height, device=spectrum.device)
    return spectrum.gather(1, rows[:, :, None].expand(-1, -1, spectrum.shape[2]))


def octave_pooled(
    spectrum: Float[Tensor, "*batch bins frames"], per_octave: int = OCTAVE
) -> Float[Tensor, "*batch {per_octave} frames"]:
    """The mean over octaves: bin b belongs to pitch class b mod `per_octave`."""
    return spectrum.unflatten(-2, (-1, per_octave)).mean(-3)


def frame_sizes(rate: int) -> tuple[int, int]:
    """Samples of a window of 25 ms and from one to the next, 10 ms; what is not whole is cut off, as Kaldi does."""
    return int(rate * 25.0 * 0.001), int(rate * 10.0 * 0.001)


def mel_filters(rate: int, size: int, bins: int, lowest: float = 20.0) -> Float[Tensor, "frequencies bins"]:
    """Triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), from `lowest` to half the rate; for the powers of a
    Fourier transform of `size` samples. The highest frequency counts nowhere."""

    def mel(frequency: Tensor) -> Tensor:
        return 1127 * (1 + frequency / 700).log()

    ends = mel(torch.tensor([lowest, rate / 2], dtype=torch.float64))
    step = (ends[1] - ends[0]) / (bins + 1)
    left = ends[0] + step * torch.arange(bins, dtype=torch.float64)
    place = mel(torch.arange(size // 2, dtype=torch.float64) * rate / size)[:, None]
    triangle = torch.minimum((place - left) / step, (left + 2 * step - place) / step).clamp(min=0)
    return F.pad(triangle, (0, 0, 0, 1)).float()


def log_mel(
    audio: Float[Tensor, "batch samples"], filters: Float[Tensor, "frequencies bins"], rate: int
) -> Float[Tensor, "batch frames bins"]:
    """Kaldi's filterbank: windows of 25 ms every 10 ms within the recording, the mean taken out of each, first
    differences (0.97), a Hann window, powers, triangles, logarithms (of at least float32's epsilon).

    Args:
        audio: recordings, each with its mean taken out.
        filters: `mel_filters` for the next power of two after a window.
        rate: samples a second.

    Raises:
        ValueError: a recording is shorter than a window.
    """
    (size, hop), whole = frame_sizes(rate), 2 * (len(filters) - 1)
    if audio.shape[1] < size:
        raise ValueError(f"{audio.shape[1]} samples are less than a window of {size}")
    window = audio.unfold(1, size, hop)
    window = window - window.mean(2, keepdim=True)
    window = window - 0.97 * torch.cat([window[..., :1], window[..., :-1]], dim=2)
    window = window * torch.hann_window(size, periodic=False, dtype=audio.dtype, device=audio.device)
    power = torch.fft.rfft(window, whole).abs().square()
    return (power @ filters.to(power.dtype)).clamp(min=torch.finfo(torch.float32).eps).log()


def slices(
    frames: Float[Tensor, "batch frames bins"], size: int, mean: float, deviation: float
) -> Float[Tensor, "batch slices size bins"]:
    """Frames cut in slices of equal size and normalised: (x - mean) / (2 deviation).

    Zeros fill up the last slice *before* that; where nothing is to be filled up, an empty slice follows (as
    in VALOR's `AudioMapper`).
    """
    more = size - frames.shape[1] % size
    whole = F.pad(frames, (0, 0, 0, more)).unflatten(1, (-1, size))
    return (whole - mean) / (2 * deviation)


def segment_places(
    count: int, segments: int, unit: Float[Tensor, "batch segments"] | None, batch: int
) -> Int[Tensor, "batch segments"]:
    """One of `count` things from each of equally long segments: a random one, or the middle one.

    What does not divide evenly lengthens the first segments; of two in the middle the earlier is taken (as in
    VALOR's loaders).

    Args:
        count: things in a row.
        segments: how many to take; where there are fewer things the last is taken again.
        unit: numbers from U[0, 1) that decide; None takes the middle.
        batch: rows.
    """
    number = torch.arange(segments, device=None if unit is None else unit.device)
    whole, more = divmod(max(count, segments), segments)
    low = (number * whole + number.clamp(max=more)).clamp(max=count - 1)
    length = whole + (number < more).long()
    if unit is None:
        return (low + (length - 1) // 2).expand(batch, -1)
    return low + (unit * length).long().clamp(max=length - 1)
