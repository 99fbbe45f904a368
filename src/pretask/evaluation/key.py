"""The key of music: calibrated on pieces of known key, scored with part of the credit for near ones."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.music import TONICS, track
from pretask.encoders import Encoder
from pretask.encoders.audio import AudioEncoder
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.pretexts.audio import OCTAVE

if TYPE_CHECKING:
    from pretask.data import Dataset

PIECES, SECONDS = 2, 6.0  # of calibration in each key
FIFTH, RELATIVE, PARALLEL = 0.5, 0.3, 0.2  # MIREX' credit
NAME = re.compile(r"\s*([A-Ga-g])\s*(#|♯|b|♭|sharp|flat|-sharp|-flat)?[\s:_-]*(maj|min|m|M)?")
BATCH = 32


def parse_key(name: str) -> int | None:
    """`F# minor`, `Bb`, `Am`, `c` as 12 * minor + tonic; a small letter alone is minor. None if it is no key."""
    found = NAME.match(name)
    if found is None or (
        found.end() < len(name) and name[found.end()].isalpha() and found[3] not in ("maj", "min")
    ):
        return None
    letter, sign, mode = found.groups()
    sharp = {"#": 1, "♯": 1, "b": -1, "♭": -1}.get((sign or "").strip("-")[:1], 0)
    sharp = {"sharp": 1, "flat": -1}.get((sign or "").strip("-"), sharp)
    minor = letter.islower() if mode is None else mode in ("m", "min")
    return 12 * minor + (TONICS.index(letter.upper()) + sharp) % OCTAVE


def signature_of(key: Int[Tensor, "items"]) -> Int[Tensor, "items"]:
    """The tonic of the major key with the same notes."""
    return (key % OCTAVE + 3 * (key // OCTAVE)) % OCTAVE


def calibrate(profile: Float[Tensor, "pieces classes"], key: Int[Tensor, "pieces"]) -> Int[Tensor, "classes"]:
    """Which key each class of a profile stands for, from pieces of known key.

    The loss fixes neither the place of the first class nor which twelve are major. Each twelve is turned so
    that the pieces of a mode give it the most; the modes are dealt out so that the sum is largest. Of twelve
    classes alone each is a signature, named by its major key.
    """
    modes = profile.unflatten(1, (-1, OCTAVE))
    single = modes.shape[1] == 1
    tonic, minor = (signature_of(key), torch.zeros_like(key)) if single else (key % OCTAVE, key // OCTAVE)
    place = (tonic[:, None] + torch.arange(OCTAVE)) % OCTAVE
    found = torch.stack([  # (12s, modes, turns): what a twelve gives the pieces of a mode, turned so far
        torch.stack([modes[minor == mode, twelve].gather(1, place[minor == mode]).mean(0)
                     for mode in range(modes.shape[1])])
        for twelve in range(modes.shape[1])
    ])  # fmt: skip
    best = found.amax(2)
    swapped = not single and float(best[0, 1] + best[1, 0]) > float(best[0, 0] + best[1, 1])
    named = []
    for twelve in range(modes.shape[1]):
        mode = twelve ^ swapped
        turn = int(found[twelve, mode].argmax())
        named.append(12 * mode + (torch.arange(OCTAVE) - turn) % OCTAVE)
    return torch.cat(named)


def weighted(said: Int[Tensor, "items"], truth: Int[Tensor, "items"]) -> Float[Tensor, "items"]:
    """MIREX' score of each answer, as mir_eval counts: 1 for the key, 0.5 for the one a fifth above in the
    same mode, 0.3 for the relative, 0.2 for the parallel key."""
    up, same = (said - truth) % OCTAVE, said // OCTAVE == truth // OCTAVE
    relative = ~same & (signature_of(said) == signature_of(truth))
    credit = torch.zeros(len(said), dtype=torch.float64)
    for wins, value in (
        (same & (up == 0), 1.0), (same & (up == 7), FIFTH), (relative, RELATIVE), (~same & (up == 0), PARALLEL)
    ):  # fmt: skip
        credit[wins] = value
    return credit


def signature_score(said: Int[Tensor, "items"], truth: Int[Tensor, "items"]) -> Float[Tensor, "items"]:
    """STONE's score of signatures: 1, or a half where it is a fifth off in either direction."""
    apart = (signature_of(said) - signature_of(truth)) % OCTAVE
    return (apart == 0).double() + FIFTH * ((apart == 7) | (apart == 5)).double()


@lru_cache(maxsize=1)
def pieces(rate: int) -> tuple[Float[Tensor, "pieces samples"], Int[Tensor, "pieces"]]:
    """Made-up music in each key, the same for everybody, and its keys."""
    key = torch.arange(24).repeat(PIECES)
    made = [track(k, SECONDS, rate, np.random.default_rng([24, n])) for n, k in enumerate(key.tolist())]
    return torch.from_numpy(np.stack(made)).float(), key


def key(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Which key is it? The largest entry of the profile, by the names that calibration on made-up pieces of
    every key gives; labels of the training samples are not looked at.

    Gives the weighted score (MIREX), the accuracy over 24 keys and over signatures, STONE's score of signatures
    and the share of right modes where the signature is right. Of a network that tells signatures alone the
    last three.

    Raises:
        UsageError: the encoder hears no keys, or the classes are none.
    """
    if not isinstance(encoder, AudioEncoder):
        raise UsageError(f"{type(encoder).__name__} hears no key: the protocol key needs a network of music")
    names = [parse_key(name) for name in test_set.classes or ()]
    if test_set.labels is None or None in names:
        raise UsageError(
            f"{test_set.name}: the classes are no keys ({', '.join((test_set.classes or ['none'])[:4])} ...); keys "
            "are named 'F# minor', 'Bb' or 'Am'"
        )
    truth = torch.tensor([name or 0 for name in names])[test_set.labels]
    with frozen(encoder, device) as place:
        sound, known = pieces(encoder.rate)
        meaning = calibrate(
            torch.cat([encoder.profile(x.to(place)).cpu() for x in sound.split(BATCH)]), known
        )
        profiles = [
            encoder.profile(to_device(test_set.batch(rows), place)["audio"]).cpu()
            for rows in torch.arange(len(test_set)).split(BATCH)
        ]
    said = meaning[torch.cat(profiles).argmax(1)]
    right = signature_of(said) == signature_of(truth)
    found = {"signature": right.double(), "signature score": signature_score(said, truth)}
    if len(meaning) == 24:
        found = {"weighted": weighted(said, truth), "accuracy": (said == truth).double()} | found
    scores = [
        Score(
            "key", metric, float(items.mean()), *bootstrap_interval(items, seed=seed), len(items), {}, items
        )
        for metric, items in found.items()
    ]
    if len(meaning) == 24:
        mode = (said // OCTAVE == truth // OCTAVE)[right].double()
        low, high = bootstrap_interval(mode, seed=seed) if len(mode) else (None, None)
        scores.append(Score("key", "mode", float(mode.mean()) if len(mode) else 0.0, low, high, len(mode)))
    return scores
