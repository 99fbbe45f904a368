"""An exported encoder is the third party's own model and gives the same features."""

import re
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file

import pretask
from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.errors import PretaskError, UsageError
from pretask.export import export

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2"
NAMES = [VIT, "resnet10t", "resnet18:channels=[16, 16, 32, 32]"]


@pytest.fixture(params=[(name, chans) for name in NAMES for chans in (3, 5)], ids=str)
def saved(request, tmp_path):
    name, chans = request.param
    encoder = build_encoder(
        name, image_size=32, in_chans=chans, mean=(0.4,) * chans, std=(0.2,) * chans, seed=3
    ).eval()
    for buffer in encoder.buffers():  # batch statistics a fresh network does not have
        if buffer.dtype.is_floating_point and buffer.ndim == 1:
            buffer.add_(0.1)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    return encoder, tmp_path


def test_round_trip_is_exact(saved):
    encoder, folder = saved
    image = torch.rand(3, encoder.in_chans, 32, 32)
    assert torch.equal(load_encoder(folder).eval()(image).pooled, encoder(image).pooled)


def test_the_card_loads_it_in_plain_timm(saved):
    """The card's own code, run without any of our names, gives the features to 1e-5."""
    encoder, folder = saved
    out = export(folder, folder / "export", "timm")
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S).group(1)
    assert "pretask" not in code.replace(str(out), "")
    scope = {}
    exec(code, scope)
    image = torch.rand(3, encoder.in_chans, 32, 32)
    mean, std = encoder.mean, encoder.std
    expected = encoder(image).pooled
    assert torch.allclose(scope["model"]((image - mean) / std), expected, atol=1e-5)


def test_a_transformer_needs_nothing_but_timm(tmp_path):
    encoder = build_encoder(VIT, image_size=32, seed=0).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    out = export(tmp_path, tmp_path / "export")
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    image = torch.rand(2, 3, 32, 32)
    shaped = (image - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(3, 1, 1)
    assert torch.allclose(model(shaped), encoder(image).pooled, atol=1e-5)
    assert set(load_file(out / "model.safetensors")) == set(encoder.model.state_dict())


def test_program_takes_any_batch(tmp_path):
    encoder = build_encoder(VIT, image_size=32, seed=0).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    export(tmp_path, tmp_path / "export", "torch")
    model = torch.export.load(tmp_path / "export" / "encoder.pt2").module()
    image = torch.rand(5, 3, 32, 32)
    assert torch.allclose(model(image), encoder(image).pooled, atol=1e-5)


def test_onnx_gives_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = build_encoder(VIT, image_size=32, seed=0).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    export(tmp_path, tmp_path / "export", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "encoder.onnx"))
    image = torch.rand(5, 3, 32, 32)
    (embedding,) = session.run(None, {"image": image.numpy()})
    assert torch.allclose(torch.from_numpy(embedding), encoder(image).pooled, atol=1e-4)


def test_clear_errors(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_encoder(tmp_path / "nothing")
    (tmp_path / "encoder.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(PretaskError, match="cannot be read"):
        load_encoder(tmp_path)
    with pytest.raises(UsageError, match="timm has"):
        build_encoder("vit_tinny")
    with pytest.raises(UsageError, match="multiple of patch"):
        build_encoder(VIT, image_size=30, patch_size=4)
    with pytest.raises(UsageError, match="format"):
        export(tmp_path, tmp_path, "pickle")


def test_seeded_weights_leave_the_global_state_alone():
    before = torch.get_rng_state()
    one, two = (build_encoder(VIT, image_size=32, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_public_names_resolve():
    for name in pretask.__all__:
        assert getattr(pretask, name) is not None
    assert sys.modules["pretask"] is pretask
