"""Is the encoder any good? Frozen features, protocols that judge them, scores with intervals."""

from pretask.evaluation.features import extract
from pretask.evaluation.protocols import PROTOCOLS, evaluate
from pretask.evaluation.score import Score

__all__ = ["PROTOCOLS", "Score", "evaluate", "extract"]
