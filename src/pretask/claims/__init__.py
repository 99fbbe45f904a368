"""One claim a method: `<slug>.py` declares `CLAIM`, the paper's statement as a small experiment."""
