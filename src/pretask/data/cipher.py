"""Sentences in English and in two invented languages that say the same: parallel text without a download."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pretask.data.corpus import Corpus

TRAIN, TEST = 6000, 1000
SOUNDS = {"vela": ("vlrmnsd", "aeiou"), "koruk": ("kgtpbzr", "oua")}
"""Consonants and vowels of the invented languages' words."""

TOPICS = """
farm: farmer shepherd ploughman milkmaid goat donkey
    / hay fence calf barley harness trough egg wool / fed sheared milked drove gathered carried
    / muddy wooden brown stubborn / barn pasture stable orchard
kitchen: cook baker waiter butler grandmother guest
    / soup bread kettle onion plate butter cake pan / stirred tasted baked boiled served burnt
    / salty warm fresh bitter / stove pantry table oven
sea: sailor captain fisherman diver whale gull
    / net anchor sail rope shell harpoon oar chart / hauled caught rowed lowered sighted repaired
    / deep stormy blue rusty / harbour reef island deck
school: teacher pupil headmaster librarian poet scholar
    / book lesson pencil essay blackboard map alphabet riddle
    / explained copied recited corrected forgot studied
    / clever lazy difficult printed / classroom corridor library desk
hospital: doctor nurse surgeon patient midwife chemist
    / wound bandage fever needle medicine pulse bone pill
    / healed examined measured treated cured prescribed
    / painful pale sterile broken / ward clinic bedside pharmacy
music: singer fiddler drummer composer pianist choir
    / melody trumpet violin anthem chord waltz drum flute
    / played hummed tuned rehearsed conducted whistled
    / loud solemn cheerful brass / stage concert cathedral studio
sport: runner boxer goalkeeper referee champion wrestler
    / race medal ball glove trophy whistle javelin helmet / won kicked threw blocked trained lifted
    / fast tired proud sweaty / stadium track gym podium
court: judge lawyer witness thief prisoner clerk
    / verdict crime contract sentence evidence oath fine lawsuit
    / accused defended signed denied pardoned questioned
    / guilty honest legal forged / courtroom prison cell chamber
space: astronaut pilot engineer astronomer robot comet
    / rocket planet telescope satellite crater signal engine orbit
    / launched observed discovered steered charted tracked
    / distant bright silent frozen / moon station galaxy observatory
market: merchant beggar grocer customer jeweller tailor
    / coin bargain basket carpet jewel spice bill scale / sold bought weighed wrapped counted traded
    / cheap golden rare colourful / stall square bazaar shop
"""
"""For each topic: actors / things / deeds / qualities / places."""

ANYONE = ("man", "woman", "child", "stranger", "neighbour")
TIMES = ("yesterday", "today", "often", "once", "again")
ARTICLES, COUNTS = ("the", "a", "this", "every"), ("two", "three", "five", "many", "few")
MANNERS, WHERE = ("slowly", "quickly", "quietly", "gladly"), ("near", "behind", "inside", "above")

Words = dict[str, list[str]]


def topics() -> dict[str, Words]:
    """The words of each topic, by what they are."""
    found = {}
    for entry in re.split(r"\n(?=\w)", TOPICS.strip()):
        topic, _, rest = entry.partition(":")
        groups = (group.split() for group in rest.split("/"))
        found[topic] = dict(zip(("actor", "thing", "deed", "quality", "place"), groups, strict=True))
    return found


def sentence(words: Words, rng: np.random.Generator) -> dict[str, list[str]]:
    """What is said: who does what to whom, how, where and when, as words by their part of the sentence."""

    def one(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    actor = one(ANYONE) if rng.random() < 0.3 else one(words["actor"])
    several = rng.random() < 0.3
    return {
        "when": [one(TIMES)] if rng.random() < 0.4 else [],
        "who": [one(ARTICLES), *([one(words["quality"])] if rng.random() < 0.4 else []), actor],
        "how": [one(MANNERS)] if rng.random() < 0.4 else [],
        "deed": [one(words["deed"])],
        "what": [one(COUNTS) if several else one(ARTICLES), one(words["quality"]),
                 one(words["thing"]) + "s" * several],
        "where": [one(WHERE), "the", one(words["place"])],
    }  # fmt: skip


def spoken(said: dict[str, list[str]], language: str) -> list[str]:
    """The English words in the order of a language: the invented ones put qualities behind things, one of
    them says the deed last, the other first, and prepositions behind."""
    orders = {
        "english": ("when", "who", "how", "deed", "what", "where"),
        "vela": ("who", "when", "what", "where", "how", "deed"),
        "koruk": ("deed", "how", "who", "what", "where", "when"),
    }
    parts = dict(said)
    if language != "english":
        for part in ("who", "what"):
            parts[part] = [said[part][0], said[part][-1], *said[part][1:-1]]
    if language == "koruk":
        parts["where"] = said["where"][::-1]
    return [word for part in orders[language] for word in parts[part]]


def lexicon(words: list[str], language: str, rng: np.random.Generator) -> dict[str, str]:
    """A made-up word for each word, no two the same."""
    consonants, vowels = SOUNDS[language]
    found: dict[str, str] = {}
    taken: set[str] = set()
    for word in words:
        while word not in found:
            count = 1 + len(word) // 3 + int(rng.integers(2))
            syllables = (consonants[rng.integers(len(consonants))] + vowels[rng.integers(len(vowels))]
                         for _ in range(count))  # fmt: skip
            made = "".join(syllables) + (consonants[rng.integers(len(consonants))] if len(word) % 2 else "")
            if made not in taken:
                taken.add(made)
                found[word] = made
    return found


def cipher_languages(seed: int = 0) -> Corpus:
    """7,000 sentences about ten topics in English, Vela and Koruk; the last 1,000 are the test split.

    Every English word has one word in either invented language; words, sounds and the order of words
    differ. No sentence occurs twice. Real words, made-up grammar: small enough to be learned in minutes.
    """
    rng, known = np.random.default_rng(seed), topics()
    said: dict[str, tuple[dict[str, list[str]], str]] = {}
    names = list(known)
    while len(said) < TRAIN + TEST:
        topic = names[len(said) % len(names)]
        parts = sentence(known[topic], rng)
        said.setdefault(" ".join(spoken(parts, "english")), (parts, topic))
    english = sorted({word for text in said for word in text.split()})
    lines = [list(said)]
    for language in SOUNDS:
        made = lexicon(english, language, rng)
        lines.append([" ".join(made[word] for word in spoken(p, language)) for p, _ in said.values()])
    order = rng.permutation(len(said))
    labels = [topic for _, topic in said.values()]
    return Corpus(
        "cipher-languages",
        ("english", *SOUNDS),
        [[text[row] for row in order] for text in lines],
        ["train"] * TRAIN + ["test"] * TEST,
        [labels[row] for row in order],
    )


EMBEDDED = {"cipher-languages": cipher_languages}
