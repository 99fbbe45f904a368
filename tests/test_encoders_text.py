"""transformers models behind one face, against transformers itself."""

import copy

import pytest
import torch

import tiny
from pretask.api import encoder_and_data
from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.encoders.text import LanguageHead, mean_over
from pretask.errors import UsageError

transformers = pytest.importorskip("transformers")
SMALL = {
    "bert": "num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=64",
    "xlm-roberta": "num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=64",
    "albert": "num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=64"
    ",embedding_size=16",
    "distilbert": "n_layers=2,dim=32,n_heads=2,hidden_dim=64",
}


def make(kind: str = "xlm-roberta", seed: int = 0, **inputs):
    return build_encoder(
        f"{kind}:{SMALL[kind]}", "text", seed=seed, **{**tiny.corpus().inputs, **inputs}
    ).eval()


@pytest.mark.parametrize("kind", SMALL)
def test_features_of_each_layer(kind):
    encoder, batch = make(kind), tiny.sentences(5)
    tokens, attention = batch["tokens"], batch["attention"]
    found, layers = encoder(tokens, attention), encoder.layers(tokens, attention)
    assert len(layers) == encoder.depth + 1 == 3
    expected = encoder.model(input_ids=tokens, attention_mask=attention.long()).last_hidden_state
    torch.testing.assert_close(layers[-1], expected)
    torch.testing.assert_close(found.tokens, expected)
    for row in range(5):
        own = expected[row, attention[row]].mean(0)
        torch.testing.assert_close(found.pooled[row], own)
    assert torch.equal(found.prefix[:, 0], found.tokens[:, 0]) and found.grid == (tokens.shape[1],)


@pytest.mark.parametrize("kind", SMALL)
def test_padding_changes_nothing(kind):
    encoder, batch = make(kind), tiny.sentences(5)
    wide = {
        "tokens": torch.nn.functional.pad(batch["tokens"], (0, 7), value=encoder.vocabulary.pad),
        "attention": torch.nn.functional.pad(batch["attention"], (0, 7)),
    }
    found, other = encoder.encode(batch), encoder.encode(wide)
    torch.testing.assert_close(other.pooled, found.pooled)
    torch.testing.assert_close(
        other.tokens.mean(1), found.pooled, msg="whoever averages tokens gets the mean"
    )


def test_training_draws_nothing():
    """No dropout, whatever the architecture's default."""
    encoder, batch = make().train(), tiny.sentences(3)
    state = torch.get_rng_state()
    assert torch.equal(encoder.encode(batch).pooled, encoder.encode(batch).pooled)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(UsageError, match="dropout"):
        build_encoder("bert:hidden_dropout_prob=0.1", "text", **tiny.corpus().inputs)


def test_every_parameter_of_the_bare_model_is_used():
    encoder, batch = make("bert"), tiny.sentences(3)
    encoder.encode(batch).pooled.square().sum().backward()
    unused = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert unused == [], "the layer behind BERT's first token is left out"


def test_it_is_kept_and_built_again(tmp_path):
    encoder, batch = make(), tiny.sentences(3)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    again = load_encoder(tmp_path / "encoder.safetensors").eval()
    assert torch.equal(again.encode(batch).pooled, encoder.encode(batch).pooled)
    assert again.tokenizer.decode(batch["tokens"][0]) == encoder.tokenizer.decode(batch["tokens"][0])
    twin = copy.deepcopy(encoder)
    assert torch.equal(twin.encode(batch).pooled, encoder.encode(batch).pooled)
    assert twin.table is not encoder.table


def test_other_data_are_read_with_its_tokenizer(tmp_path):
    (tmp_path / "other.txt").write_text("the sailor saw a sail\n" * 4)
    encoder, dataset = encoder_and_data(make(), tmp_path / "other.txt", None, {})
    assert dataset.inputs == encoder.inputs


@pytest.mark.parametrize("kind", ["XLMRoberta", "Bert"])
def test_published_weights_come_with_their_head(kind, tmp_path):
    inputs, batch = tiny.corpus().inputs, tiny.sentences(3)
    size = make().vocabulary.size
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=size, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, pad_token_id=1, layer_norm_eps=1e-7,
    )  # fmt: skip
    with torch.random.fork_rng():
        masked = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
        torch.nn.init.normal_(masked.get_output_embeddings().bias)
    masked.save_pretrained(tmp_path / "hub")
    encoder = build_encoder(str(tmp_path / "hub"), "text", **inputs).eval()
    assert encoder.pretrained and encoder.max_length == (38 if kind == "XLMRoberta" else 40)
    tokens, attention = batch["tokens"], batch["attention"]
    expected = masked(input_ids=tokens, attention_mask=attention.long()).logits
    found = encoder.language_head()(encoder(tokens, attention).tokens, encoder.table)
    torch.testing.assert_close(found, expected)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    again = load_encoder(tmp_path / "encoder.safetensors").eval()
    torch.testing.assert_close(again(tokens, attention).pooled, encoder(tokens, attention).pooled)


def test_published_weights_need_their_own_tokenizer(tmp_path):
    config = transformers.BertConfig(
        vocab_size=5000, num_hidden_layers=1, hidden_size=8, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="read the text with tokenizer="):
        build_encoder(str(tmp_path), "text", **tiny.corpus().inputs)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no-such-model", "there is no text encoder"),
        ("bert:hidden_size=33,num_attention_heads=2", "bert"),
        ("bert:num_hidden_layers=two", "bert"),
    ],
)
def test_what_cannot_be_built_is_explained(name, why, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it asks again and again
    with pytest.raises(UsageError, match=why) as caught:
        build_encoder(name, "text", **tiny.corpus().inputs)
    assert "\n" not in str(caught.value)


def test_text_that_is_too_long_is_refused():
    encoder = make(max_length=8)
    with pytest.raises(UsageError, match="places 8 tokens"):
        encoder(torch.full((1, 9), 7))


def test_language_head_is_its_formula():
    head, x, table = LanguageHead(6, 9, 4).double(), torch.randn(3, 6).double(), torch.randn(9, 4).double()
    torch.nn.init.normal_(head.bias)
    for row, logits in zip(x, head(x, table), strict=True):
        h = head.dense.weight @ row + head.dense.bias
        h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
        h = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(logits, table @ h + head.bias)


def test_raw_counts_tokens():
    dataset = tiny.corpus()
    raw, batch = build_encoder("raw", "text", **dataset.inputs), tiny.sentences(4)
    counts = raw.encode(batch).pooled
    for row in range(4):
        own = [t for t in batch["tokens"][row].tolist() if t not in raw.vocabulary.special]
        assert counts[row].sum() == len(own)
        assert all(counts[row, token] == own.count(token) for token in own)


def test_mean_over_tokens():
    x = torch.arange(12.0).view(1, 4, 3)
    attention = torch.tensor([[True, True, False, False]])
    assert mean_over(x, attention).tolist() == [[1.5, 2.5, 3.5]]
    assert mean_over(x, None).tolist() == [[4.5, 5.5, 6.5]]
