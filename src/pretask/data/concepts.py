"""How often captions speak of a class (Wen et al., NeurIPS 2024, after Parashar et al., CVPR 2024)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

LETTERS = re.compile(r"[a-z]+")
ASIDE = re.compile(r"\([^)]*\)")  # "kite (bird of prey)": captions say no more than "kite"
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "oxen": "ox", "leaves": "leaf", "wolves": "wolf", "knives": "knife",
    "calves": "calf", "loaves": "loaf", "shelves": "shelf", "scarves": "scarf",
}  # fmt: skip


def singular(word: str) -> str:
    """The singular of an English noun by rules, in place of the paper's lemmatiser with its dictionary; a word the
    rules do not know stays as it is. What matters is that names and captions are treated alike."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def words(text: str, lemma: Callable[[str], str] = singular) -> frozenset[str]:
    """A text's words as a set: lower case, letters only, each as its lemma."""
    return frozenset(map(lemma, LETTERS.findall(text.lower())))


def concept_counts(
    captions: Sequence[str],
    synonyms: Sequence[Sequence[str]],
    negative: Mapping[int, Sequence[str]] | None = None,
    lemma: Callable[[str], str] = singular,
) -> list[int]:
    """In how many captions each class occurs: all words of any of its synonyms, and none of its negative words.

    Args:
        captions: what is counted in; a caption counts once for a class.
        synonyms: of each class its names, of one or several words; what stands in brackets does not count.
        negative: by class what tells another sense ("construction crane" is no bird); of several words any counts.
        lemma: what makes words alike.
    """
    names = [[words(ASIDE.sub("", name), lemma) for name in names] for names in synonyms]
    against = {kind: words(" ".join(texts), lemma) for kind, texts in (negative or {}).items()}
    counts = [0] * len(names)
    for caption in captions:
        said = words(caption, lemma)
        for kind, wanted in enumerate(names):
            if any(name and name <= said for name in wanted) and not said & against.get(kind, frozenset()):
                counts[kind] += 1
    return counts
