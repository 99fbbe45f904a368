"""From files to batches. `open_data` takes whatever a person has."""

from pretask.data.dataset import Dataset, Skipped
from pretask.data.embedded import EMBEDDED
from pretask.data.open import open_data

__all__ = ["EMBEDDED", "Dataset", "Skipped", "open_data"]
