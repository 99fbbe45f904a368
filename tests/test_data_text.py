"""Text as people have it: plain, in tables, in aligned files; whole and broken."""

import gzip
import json

import numpy as np
import pytest
import torch

from pretask.data import open_data
from pretask.data.tokens import Ragged, learn_tokenizer, load_tokenizer, tokenizer_of
from pretask.errors import DataError, UsageError

LINES = ["the cat sat on the mat", "a dog ran far away", "the dog saw the cat", "rain fell on the mat"] * 3
GERMAN = ["die Katze sass da", "ein Hund lief weg", "der Hund sah sie", "Regen fiel"] * 3


def read(source, **settings):
    return open_data(source, modality="text", vocab_size=200, **settings)


def texts(dataset, key: str = "tokens") -> list[str]:
    batch, tokenizer = dataset.batch(range(len(dataset))), tokenizer_of(dataset.inputs["tokenizer"])
    return [tokenizer.decode(row) for row in batch[key]]


class TestPlain:
    def test_a_line_a_sample(self, tmp_path):
        (tmp_path / "a.txt").write_text("\n".join(LINES) + "\n\n  \n")
        dataset = read(tmp_path / "a.txt")
        assert texts(dataset) == LINES
        batch = dataset.batch([0, 1])
        assert batch["tokens"].dtype == torch.long and batch["attention"].dtype == torch.bool
        known = tokenizer_of(dataset.inputs["tokenizer"]).vocabulary
        assert (batch["tokens"][:, 0] == known.bos).all()
        for tokens, attention in zip(batch["tokens"], batch["attention"], strict=True):
            assert tokens[attention][-1] == known.eos and (tokens[~attention] == known.pad).all()
        assert "pair" not in batch and dataset.modality == "text"

    def test_gzip_whatever_it_is_called(self, tmp_path):
        for name in ("a.txt.gz", "a.txt", "corpus"):
            (tmp_path / name).write_bytes(gzip.compress("\n".join(LINES).encode()))
            assert texts(read(tmp_path / name)) == LINES

    def test_encodings(self, tmp_path):
        lines = ["Käse über Öl", "日本語の文", "naïve café"] * 4
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / "a.txt").write_text("\n".join(lines), encoding=encoding)
            assert texts(read(tmp_path / "a.txt")) == lines

    def test_only_line_feeds_end_lines(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("one\u2028two\r\nthree\x0bfour\r\n".encode())
        assert len(read(tmp_path / "a.txt")) == 2

    def test_undecodable_lines_are_named_and_counted(self, tmp_path):
        raw = [line.encode() for line in LINES]
        raw[3] = b"caf\xe9 in latin-1"
        (tmp_path / "a.txt").write_bytes(b"\n".join(raw))
        dataset = read(tmp_path / "a.txt")
        assert texts(dataset) == LINES[:3] + LINES[4:]
        assert [tuple(item) for item in dataset.skipped] == [("a.txt:4", "not UTF-8")]
        assert dataset.describe()["broken"] == 1
        with pytest.raises(DataError, match="max_broken"):
            read(tmp_path / "a.txt", max_broken=0.01)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "empty"),
            (b" \n\n", "empty"),
            (b"\x1f\x8b\x08\x00truncated", "cannot be read"),
            (gzip.compress(b"word " * 1000, mtime=0)[:40], "cannot be read"),
            (b"PK\x03\x04\0\0\0\0", "no text"),
        ],
    )
    def test_what_is_no_text_is_refused(self, tmp_path, content, why):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(DataError, match=why) as caught:
            read(tmp_path / "a.txt")
        assert "a.txt" in str(caught.value) and "\n" not in str(caught.value)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="there is no"):
            read(tmp_path / "missing.txt")
        (tmp_path / "x.jpg").write_bytes(b"x")
        with pytest.raises(DataError, match="holds no text"):
            read(tmp_path)

    def test_folders_give_splits_and_classes(self, tmp_path):
        for split in ("train", "test"):
            for topic in ("cats", "dogs"):
                (tmp_path / split / topic).mkdir(parents=True)
                for name in "ab":
                    (tmp_path / split / topic / f"{name}.txt").write_text("\n".join(LINES[:2]))
        dataset = read(tmp_path)
        assert dataset.classes == ["cats", "dogs"] and dataset.part_names == ("train", "test")
        assert len(dataset.split("test")) == 8 and dataset.labels.bincount().tolist() == [8, 8]
        assert len(read(tmp_path, split="train", limit=3)) == 3
        with pytest.raises(UsageError, match="no split"):
            read(tmp_path, split="val")


class TestTables:
    def test_json_lines(self, tmp_path):
        rows = [
            {"text": line, "label": i % 3, "split": "test" if i > 8 else "train"}
            for i, line in enumerate(LINES)
        ]
        lines = [json.dumps(row) for row in rows]
        (tmp_path / "a.jsonl").write_text("\n".join([*lines[:5], "{broken", "[1]", *lines[5:]]))
        dataset = open_data(tmp_path / "a.jsonl", vocab_size=200)
        assert dataset.modality == "text", "told by its extension"
        assert texts(dataset) == LINES and dataset.labels.tolist() == [i % 3 for i in range(12)]
        assert len(dataset.split("test")) == 3
        assert [item.path for item in dataset.skipped] == ["a.jsonl:6", "a.jsonl:7"]

    def test_translations_in_columns(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(
            "\n".join(
                json.dumps({"translation": {"de": g, "en": e}}) for e, g in zip(LINES, GERMAN, strict=True)
            )
        )
        dataset = read(tmp_path / "a.jsonl", languages="en,de")
        assert texts(dataset) == LINES and texts(dataset, "pair") == GERMAN

    @pytest.mark.parametrize("sign", [",", "\t"])
    def test_csv_and_tsv(self, tmp_path, sign):
        name = "a.csv" if sign == "," else "a.tsv"
        lines = [f"en{sign}de{sign}topic"]
        lines += [f"{e}{sign}{g}{sign}{i % 2}" for i, (e, g) in enumerate(zip(LINES, GERMAN, strict=True))]
        (tmp_path / name).write_text("\n".join(lines))
        dataset = read(tmp_path / name)
        assert texts(dataset) == LINES and texts(dataset, "pair") == GERMAN
        assert dataset.classes == ["0", "1"]
        assert texts(read(tmp_path / name, languages="de")) == GERMAN

    def test_quotes_and_commas_in_csv(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\n" + '"a, ""b"" c",x\nplain,y\n' * 6)
        assert texts(read(tmp_path / "a.csv"))[:2] == ['a, "b" c', "plain"]

    def test_columns_that_say_nothing(self, tmp_path):
        (tmp_path / "a.csv").write_text("foo,bar\n1,2\n")
        with pytest.raises(DataError, match="text is looked for as"):
            read(tmp_path / "a.csv")


class TestParallel:
    @pytest.fixture
    def folder(self, tmp_path):
        for split, part in (("train", slice(0, 8)), ("val", slice(8, 12))):
            (tmp_path / f"{split}.en").write_text("\n".join(LINES[part]) + "\n")
            (tmp_path / f"{split}.de.gz").write_bytes(gzip.compress("\n".join(GERMAN[part]).encode()))
        (tmp_path / "train.fr").write_text("\n".join(f"phrase {i}" for i in range(8)))
        (tmp_path / "README.md").write_text("what this is")
        return tmp_path

    def test_files_of_a_language_each(self, folder):
        dataset = read(folder)
        facts = dataset.describe()
        assert facts["languages"] == ["en", "de", "fr"] and facts["splits"] == {"train": 16, "val": 4}
        assert facts["other files"] == 1
        batch = dataset.batch(range(len(dataset)))
        assert set(zip(batch["lang"].tolist(), batch["pair_lang"].tolist(), strict=True)) == {(0, 1), (0, 2)}
        source, target = texts(dataset), texts(dataset, "pair")
        for place, (a, b) in enumerate(zip(source, target, strict=True)):
            expected = GERMAN[LINES.index(a) % 4] if batch["pair_lang"][place] == 1 else "phrase"
            assert b.startswith(expected[:6])
        every = read(folder, pairs="all").batch(range(len(read(folder, pairs="all"))))
        assert set(zip(every["lang"].tolist(), every["pair_lang"].tolist(), strict=True)) == {
            (0, 1),
            (0, 2),
            (1, 2),
        }

    def test_two_files_by_braces(self, folder):
        dataset = read(str(folder / "train.{de,fr}").replace("de,fr", "en,fr"), languages="fr,en")
        assert texts(dataset, "pair") == LINES[:8] and texts(dataset)[0] == "phrase 0"

    def test_unequal_numbers_of_lines_are_refused(self, folder):
        (folder / "train.en").write_text("\n".join(LINES[:7]))
        with pytest.raises(DataError, match="numbers of lines differ: train.de.gz 8, train.en 7"):
            read(folder)

    def test_lines_without_a_translation_are_no_samples(self, folder):
        german = [*GERMAN[:8]]
        german[2] = ""
        (folder / "train.de.gz").write_bytes(gzip.compress("\n".join(german).encode()))
        dataset = read(folder, languages="en,de", split="train")
        assert len(dataset) == 7 and texts(dataset) == LINES[:2] + LINES[3:8]

    def test_an_undecodable_line_keeps_the_others_in_step(self, folder):
        raw = [line.encode() for line in GERMAN[:8]]
        raw[2] = b"\xff\xfe\xfa"
        (folder / "train.de.gz").write_bytes(gzip.compress(b"\n".join(raw), mtime=0))
        dataset = read(folder, languages="en,de", split="train")
        assert texts(dataset, "pair") == GERMAN[:2] + GERMAN[3:8]
        assert dataset.skipped[0].path == "train.de.gz:3"

    def test_an_unknown_language(self, folder):
        with pytest.raises(UsageError, match="no language 'xx'; it has en, de, fr"):
            read(folder, languages="en,xx")
        assert read(folder, languages=2).facts["languages"] == ["en", "de"]
        assert read(folder, languages="1").facts.get("languages") is None
        with pytest.raises(UsageError, match="no language of"):
            read(folder, languages=0)

    def test_real_data(self, real_data):
        folder = real_data("multi30k")
        dataset = read(folder, languages="en,de", split="val")
        assert len(dataset) == 1014
        with gzip.open(folder / "val.de.gz", "rt", encoding="utf-8") as file:
            first = file.readline().strip()
        assert texts(dataset.subset([0]), "pair")[0].replace(" ", "") == first.replace(" ", "")


class TestObjects:
    def test_lists_and_mappings(self):
        assert texts(read(LINES)) == LINES
        dataset = read((LINES, ["a", "b"] * 6))
        assert dataset.classes == ["a", "b"]
        dataset = read({"en": LINES, "de": GERMAN})
        assert texts(dataset, "pair") == GERMAN

    def test_unequal_columns(self):
        with pytest.raises(DataError, match="11, 12"):
            read({"en": LINES, "de": GERMAN[:11]})
        with pytest.raises(DataError, match="no text"):
            read([1, 2, 3])


class TestTokenizer:
    def test_it_is_the_same_every_time_and_belongs_to_the_whole_source(self, tmp_path):
        for split, part in (("train", slice(0, 8)), ("val", slice(8, 12))):
            (tmp_path / f"{split}.en").write_text("\n".join(LINES[part]))
            (tmp_path / f"{split}.de").write_text("\n".join(GERMAN[part]))
        kept = read(tmp_path).inputs
        assert read(tmp_path, split="val").inputs == kept and read(tmp_path, limit=3).inputs == kept

    def test_its_json_its_file_and_its_folder(self, tmp_path):
        learned = learn_tokenizer(LINES, 100)
        (tmp_path / "tokenizer.json").write_text(learned.text)
        for reference in (learned.text, tmp_path / "tokenizer.json"):
            assert load_tokenizer(reference).text == learned.text
        transformers = pytest.importorskip("transformers")
        transformers.PreTrainedTokenizerFast(tokenizer_object=learned.model).save_pretrained(
            tmp_path / "kept"
        )
        assert load_tokenizer(tmp_path / "kept").vocabulary == learned.vocabulary
        assert read(LINES, tokenizer=str(tmp_path / "tokenizer.json")).inputs["tokenizer"] == learned.text

    @pytest.mark.parametrize("reference", ["{}", "{broken", "/no/such/folder"])
    def test_what_is_none_is_refused(self, reference):
        with pytest.raises(UsageError, match="tokenizer"):
            load_tokenizer(reference)

    def test_words_begin_with_a_sign_and_special_tokens_are_known(self):
        learned = learn_tokenizer(LINES, 100)
        assert learned.vocabulary[1:] == (0, 2, 1, 3, 4, (0, 1, 2, 3, 4))
        ids, lengths, cut = learned.encode(["the cat", "the cat sat on the mat"], 6)
        assert [learned.piece(number) for number in ids[: lengths[0]]] == ["<s>", "▁the", "▁cat", "</s>"]
        assert lengths.tolist() == [4, 6] and cut == 1 and ids[-1] == 2, "the end stays when a text is cut"

    def test_spelling_for_people(self):
        learned = learn_tokenizer(LINES, 100)
        tokens = torch.from_numpy(np.concatenate([learned.encode(LINES[:2], 20)[0]]))
        hidden = torch.zeros(len(tokens), dtype=torch.bool)
        hidden[2] = True
        assert learned.spell(tokens, hidden).startswith("the [cat] sat on the mat / ")
        assert learned.spell(tokens, hidden, blank=True).startswith("the ____ sat")


def test_blocks_are_whole_lines_in_their_order(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    single, joined = read(tmp_path / "a.txt"), read(tmp_path / "a.txt", blocks=True, max_length=20)
    known = tokenizer_of(joined.inputs["tokenizer"]).vocabulary
    expected: list[list[int]] = []
    for i in range(len(single)):
        own = single.batch([i])
        line = own["tokens"][own["attention"]].tolist()
        if expected and len(expected[-1]) + len(line) - 1 <= 20:
            expected[-1] += line[1:]
        else:
            expected.append(line)
    batch = joined.batch(range(len(joined)))
    found = [row[own].tolist() for row, own in zip(batch["tokens"], batch["attention"], strict=True)]
    assert found == expected and len(found) < len(single)
    assert all(row.count(known.bos) == 1 and row.count(known.eos) > 1 for row in found[:-1])
    with pytest.raises(UsageError, match="labels"):
        read((LINES, ["a"] * 12), blocks=True)


def test_ragged_against_a_loop():
    parts = [[5, 6, 7], [8], [], [9, 10]]
    texts = Ragged(np.concatenate([np.array(part, dtype=np.int32) for part in parts]), np.array([3, 1, 0, 2]))
    tokens, attention = texts.gather(torch.tensor([3, 0, 2, 1]), pad=1)
    assert tokens.tolist() == [[9, 10, 1], [5, 6, 7], [1, 1, 1], [8, 1, 1]]
    assert attention.sum(1).tolist() == [2, 3, 0, 1]


class TestEmbedded:
    @pytest.fixture(scope="class")
    def dataset(self):
        return open_data("cipher-languages")

    def test_it_says_the_same_in_each_language(self, dataset):
        """A word of one language is always the same word of the other, and the order differs."""
        both = list(
            zip(
                texts(dataset)[:800],
                texts(dataset, "pair")[:800],
                dataset.batch(range(800))["pair_lang"].tolist(),
                strict=True,
            )
        )
        assert all(len(a.split()) == len(b.split()) for a, b, _ in both)
        for language in (1, 2):
            lines = [(a.split(), b.split()) for a, b, other in both if other == language]
            words = {word for a, _ in lines for word in a}
            for word in words:
                common = set.intersection(*(set(b) for a, b in lines if word in a))
                assert common, f"{word} has no word of its own in language {language}"
            assert not words & {word for _, b in lines for word in b}, "no word is shared"

    def test_labels_splits_and_seed(self, dataset):
        assert dataset.labels.bincount().tolist() == [1400] * 10
        train, test = dataset.split("train"), dataset.split("test")
        assert not set(texts(train)) & set(texts(test))
        again = open_data("cipher-languages")
        assert torch.equal(again.samples.texts.ids, dataset.samples.texts.ids)
        assert open_data("cipher-languages", split="test").modality == "text"
