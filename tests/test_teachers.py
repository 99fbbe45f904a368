"""Frozen teachers against their own libraries: small models, written and read as published ones are."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pretask.encoders import build_encoder, save_encoder
from pretask.encoders.teachers import Teacher, load_teacher, on_grid
from pretask.errors import PretaskError, UsageError

VIT = "vit_tiny_patch16_224:depth=3,embed_dim=32,num_heads=2"
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ---- what holds for all of them


def test_a_teacher_is_no_part_of_whoever_asks_it(image):
    holder = nn.Module()
    holder.teacher = load_teacher(f"random:{VIT}", (5, 5))
    assert not list(holder.parameters()) and not holder.state_dict()
    holder.train()
    assert not holder.teacher.network.training
    features = holder.teacher(image.requires_grad_())
    assert not features.tokens.requires_grad and not features.pooled.requires_grad
    holder.to(torch.float64)
    assert holder.teacher(image.detach().double()).tokens.dtype == torch.float64


def test_pictures_of_any_size_and_grey_ones(image):
    teacher = load_teacher(f"random:{VIT}", (4, 4))
    resized = F.interpolate(image, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    close(teacher(image).tokens, teacher(resized).tokens)
    grey = image[:, :1]
    close(teacher(grey).tokens, teacher(grey.expand(-1, 3, -1, -1)).tokens)
    with pytest.raises(UsageError, match="channels"):
        teacher(torch.rand(2, 5, 40, 40))


def test_features_on_another_grid_are_resampled():
    tokens = torch.arange(12.0).view(1, 12, 1)
    assert on_grid(tokens, (3, 4), (3, 4)) is tokens
    halved = on_grid(torch.arange(16.0).view(1, 16, 1), (4, 4), (2, 2))
    assert halved.shape == (1, 4, 1) and halved[0, 0] < halved[0, 1] < halved[0, 2] < halved[0, 3]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere", "does not exist"),
        ("open_clip:ViT-B-32", "needs weights"),
        ("open_clip:no-such-model@x", "no vision transformer"),
        ("open_clip:ViT-B-32@weights.pt", "safetensors"),
        ("timm:vit_tiny_patch16_224@weights.bin", "safetensors"),
        ("transformers:./nowhere", "transformers"),
    ],
)
def test_what_cannot_be_found_is_explained(reference, said):
    if reference.startswith(("open_clip", "transformers")):
        pytest.importorskip(reference.partition(":")[0])
    with pytest.raises(UsageError, match=said):
        load_teacher(reference, (5, 5))


# ---- one of ours, and timm's


def test_a_run_is_a_teacher(image, tmp_path):
    encoder = build_encoder(VIT, image_size=32, in_chans=3, patch_size=8, seed=1).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    for reference in (tmp_path, tmp_path / "encoder.safetensors"):
        teacher = load_teacher(str(reference), (5, 5))
        assert (teacher.dim, teacher.grid, teacher.image_size) == (32, (5, 5), (40, 40))
        found, expected = teacher(image), encoder(image)
        close(found.tokens, expected.tokens)
        close(found.pooled, expected.pooled)
    inner = []
    for block in encoder.model.blocks:
        block.register_forward_hook(lambda module, given, out: inner.append(out))
    encoder(image)
    raw, normed = teacher.taps(image, [0, 2], norm=False), teacher.taps(image, [0, 2])
    for block, plain, last in zip((0, 2), raw, normed, strict=True):
        close(plain, inner[block][:, 1:])
        close(last, encoder.model.norm(inner[block])[:, 1:])


def test_a_grid_of_features_is_a_teacher_too(image):
    teacher = load_teacher("random:resnet10t:stem_width=8,channels=[8,8,16,16]", (5, 5))
    assert teacher(image).tokens.shape == (2, 25, 16)
    assert [part.shape for part in teacher.taps(image, [1, 3])] == [(2, 25, 8), (2, 25, 16)]


def test_timm_weights_from_a_file(image, tmp_path):
    import timm

    settings = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    torch.manual_seed(3)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, dynamic_img_size=True, **settings
    ).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    name = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"
    teacher = load_teacher(f"timm:{name}@{tmp_path / 'weights.safetensors'}", (14, 14))
    picture = F.interpolate(image, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    expected = model.forward_features((picture - 0.5) / 0.5)  # what timm says of this model
    close(teacher(image).tokens, expected[:, 1:])
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(PretaskError, match="does not fit"):
        load_teacher(f"timm:{name}@{tmp_path / 'other.safetensors'}", (14, 14))


# ---- open_clip


@pytest.fixture
def clip(tmp_path):
    """A small CLIP under a name of its own, its weights in a file as published ones are."""
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 40, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    return f"open_clip:tiny-clip@{tmp_path / 'clip.safetensors'}", model


def test_clips_patches_go_through_the_last_norm_and_the_projection(clip, image):
    reference, model = clip
    teacher = load_teacher(reference, (5, 5))
    assert (teacher.dim, teacher.image_size) == (16, (40, 40))
    visual = model.visual
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (visual.image_mean, visual.image_std))
    picture = (image - mean) / std
    inner = []
    for block in visual.transformer.resblocks:
        block.register_forward_hook(lambda module, given, out: inner.append(out))
    pooled = visual(picture)
    found = teacher(image)
    close(found.pooled, pooled)
    close(found.prefix[:, 0], pooled)
    close(found.tokens, visual.ln_post(inner[-1])[:, 1:] @ visual.proj)
    close(teacher.taps(image, [1], norm=False)[0], inner[1][:, 1:])
    close(teacher.taps(image, [1])[0], visual.ln_post(inner[1])[:, 1:])


def test_clip_is_shown_pictures_for_the_grid_that_is_asked(clip, image):
    teacher = load_teacher(clip[0], (7, 7))
    assert teacher.image_size == (56, 56) and teacher(image).tokens.shape == (2, 49, 16)


@pytest.mark.parametrize("quick", [True, False])
def test_clips_activation_is_that_of_the_tag(clip, image, monkeypatch, quick):
    """As OpenAI's: weights that learned with x sigmoid(1.702 x), under a name whose network has an exact GELU."""
    import open_clip
    from open_clip import pretrained

    file = clip[0].partition("@")[2]
    create = open_clip.create_model
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-clip", {"published": {"quick_gelu": quick}})
    monkeypatch.setattr(
        open_clip, "create_model", lambda name, pretrained, **given: create(name, pretrained=file, **given)
    )
    teacher = load_teacher("open_clip:tiny-clip@published", (5, 5))
    x = torch.linspace(-3, 3, 13)
    expected = x * torch.sigmoid(1.702 * x) if quick else x * (1 + torch.erf(x / 2**0.5)) / 2
    for block in teacher.network.transformer.resblocks:
        close(block.mlp.gelu(x), expected)


# ---- transformers


def written(kind: str, folder) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "clip":
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPConfig(
            text_config=text, vision_config={**SMALL, "intermediate_size": 64}, projection_dim=16
        )
        model, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessor()
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))
        processor = transformers.BitImageProcessor()
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**SMALL, intermediate_size=64))
        processor = transformers.ViTImageProcessor()
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    model.eval().processor = processor
    return model


@pytest.mark.parametrize("kind", ["clip", "dinov2", "vit"])
@pytest.mark.parametrize("side", [3, 5])
def test_transformers_models(kind, side, image, tmp_path):
    model = written(kind, tmp_path)
    teacher = load_teacher(f"transformers:{tmp_path}", (side, side))
    assert isinstance(teacher, Teacher) and teacher.image_size == (8 * side, 8 * side)
    mean, std = (
        torch.tensor(v).view(-1, 1, 1) for v in (model.processor.image_mean, model.processor.image_std)
    )
    picture = image
    if side != 5:
        picture = F.interpolate(image, teacher.image_size, mode="bicubic", antialias=True).clamp(0, 1)
    picture = (picture - mean) / std
    vision = getattr(model, "vision_model", model)
    resampling = {} if kind == "dinov2" or side == 3 else {"interpolate_pos_encoding": True}
    out = vision(pixel_values=picture, output_hidden_states=True, **resampling)
    found, (early,) = teacher(image), teacher.taps(image, [1], norm=False)
    close(early, out.hidden_states[2][:, 1:])
    if kind == "clip":
        norm = vision.get_submodule("post_layernorm")
        close(found.tokens, model.visual_projection(norm(out.last_hidden_state))[:, 1:])
        close(found.pooled, model.visual_projection(norm(out.last_hidden_state[:, 0])))
    else:
        close(found.tokens, out.last_hidden_state[:, 1:])
        close(teacher.taps(image, [2])[0], out.last_hidden_state[:, 1:])
        close(found.pooled, out.pooler_output)
