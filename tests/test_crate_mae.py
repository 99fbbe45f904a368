"""CRATE's blocks, CRATE-MAE's loss and coding rates against loops in float64."""

import math

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.encoders.crate import CrateBlock, CrateDecoderBlock, SparseCoding, SubspaceAttention
from pretask.errors import UsageError
from pretask.export import fits
from pretask.methods.image.crate_mae import CrateMAE
from pretask.objectives.coding_rate import coding_rate, subspace_rate
from pretask.objectives.reconstruction import patchify
from pretask.task import Step

CRATE = "vit_crate_tiny_patch16_224:depth=2,embed_dim=24,num_heads=3"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return CrateMAE(build_encoder(CRATE, image_size=32, patch_size=8, seed=0), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


def tokens() -> torch.Tensor:
    return torch.randn(2, 5, 24, dtype=torch.float64, generator=generator(1))


def test_attention_has_one_projection_for_all_three():
    layer, x = SubspaceAttention(24, 3).double(), tokens()
    expected = torch.zeros_like(x)
    for n in range(2):
        parts = []
        for h in range(3):
            w = x[n] @ layer.qkv.weight[8 * h : 8 * h + 8].T
            scores = torch.tensor(
                [[(a @ b).item() / math.sqrt(8) for b in w] for a in w], dtype=torch.float64
            )
            parts.append(scores.softmax(1) @ w)
        expected[n] = torch.cat(parts, 1) @ layer.proj.weight.T + layer.proj.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert layer.qkv.bias is None and isinstance(SubspaceAttention(8, 1).proj, torch.nn.Identity)


def test_coding_is_a_proximal_gradient_step_from_the_token_itself():
    layer, x = SparseCoding(24, penalty=0.3).double(), tokens()
    z = x.clone().requires_grad_()
    (0.5 * (x - z @ layer.weight.T).square().sum()).backward()  # 1/2 |x - D z|^2, tokens as rows
    assert torch.allclose(layer(x), (x - 0.1 * z.grad - 0.1 * 0.3).clamp(min=0), atol=1e-10)


def test_blocks_have_the_residuals_of_the_paper():
    x, block, back = tokens(), CrateBlock(24, 3).double(), CrateDecoderBlock(24, 3).double()
    half = x + block.attn(block.norm1(x))
    assert torch.allclose(block(x), block.code(block.norm2(half)))
    assert (block(x) >= 0).all()
    half = back.norm1(x) @ back.weight.T
    assert torch.allclose(back(x), half - back.attn(back.norm2(half)))


def test_it_has_as_many_parameters_as_the_released_one():
    task = CrateMAE(build_encoder("vit_crate_base_patch16_224", image_size=224, patch_size=16))
    own = sum(p.numel() for p in task.parameters() if p.requires_grad)
    assert own == pytest.approx(44.34e6 - (768 * 768 + 768), abs=0.01e6), "less the Linear it never uses"


def test_masked_places_enter_the_encoder_and_only_they_are_asked():
    task = make()
    image, order = task.hide(batch(), Step.at())
    hidden = task.hidden(order)
    assert hidden.sum(1).tolist() == [12] * 3
    for row in range(3):
        assert set(order.hidden[row].tolist()) == set(hidden[row].nonzero().flatten().tolist())
    model = task.encoder.model
    x = model.patch_embed((image - task.encoder.mean) / task.encoder.std).flatten(1, 2)
    x = torch.where(hidden[..., None], task.mask_token, x)
    x = torch.cat([model.cls_token.expand(3, -1, -1), x], dim=1) + model.pos_embed
    assert not model.pos_embed[:, 0].any(), "the class token's position is zero"
    for block in [*model.blocks, model.norm, *task.decoder]:
        x = block(x)
    truth, errors = patchify(task.encoder.normalise(image), 8), []
    for row in range(3):
        for place in range(16):
            if hidden[row, place]:
                errors.append((x[row, 1 + place] - truth[row, place]).square().mean())
    loss = task.loss(batch(), Step.at())["reconstruction"]
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_norms_have_the_epsilons_of_the_code():
    task = make()
    assert task.encoder.model.blocks[0].norm1.eps == 1e-5 and task.decoder[0].norm2.eps == 1e-5
    assert task.encoder.model.norm.eps == 1e-6 and task.decoder[-2].eps == 1e-6
    assert task.mask_token.ndim == 2, "it decays, as in the official code"


def test_coding_rates_are_log_determinants():
    z = torch.randn(2, 7, 4, dtype=torch.float64, generator=generator())
    for n in range(2):
        whole = torch.eye(4, dtype=torch.float64) + 4 / (7 * 0.5**2) * z[n].T @ z[n]
        assert coding_rate(z)[n].item() == pytest.approx(0.5 * math.log(float(torch.det(whole))))
    w = torch.randn(2, 3, 7, 4, dtype=torch.float64, generator=generator(2))
    total = 0.0
    for n in range(2):
        for h in range(3):
            unit = torch.stack([v / v.norm() for v in w[n, h]])
            whole = torch.eye(7, dtype=torch.float64) + 4 / (7 * 0.01) * unit @ unit.T
            total += 0.5 * math.log(float(torch.det(whole)))
    assert subspace_rate(w).item() == pytest.approx(total / 2)
    assert subspace_rate(w[:, :, :3]).item() > 0


def test_the_papers_rate_takes_tokens_as_they_are():
    w = torch.randn(2, 3, 7, 4, dtype=torch.float64, generator=generator(2))
    total = 0.0
    for n in range(2):
        for h in range(3):
            whole = torch.eye(7, dtype=torch.float64) + 4 / (7 * 0.5**2) * w[n, h] @ w[n, h].T
            total += 0.5 * math.log(float(torch.det(whole)))
    assert subspace_rate(w, 0.5**2, normalise=False).item() == pytest.approx(total / 2)
    assert subspace_rate(2 * w, normalise=False) > subspace_rate(w, normalise=False)
    assert subspace_rate(2 * w).item() == pytest.approx(subspace_rate(w).item())


def test_a_small_step_of_attention_compresses():
    """A step along MSSA towards random orthonormal subspaces lowers the coding rate in them; one away raises it."""
    basis = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64, generator=generator())).Q
    layer, z = SubspaceAttention(24, 3).double(), tokens()
    with torch.no_grad():
        layer.qkv.weight.copy_(basis.T)  # each token in the subspaces, and what was mixed there back
        layer.proj.weight.copy_(basis)
        layer.proj.bias.zero_()
        assert torch.allclose(layer.project(z)[0, 1], z[0] @ basis[:, 8:16])

        def rate(x: torch.Tensor) -> float:
            return float(subspace_rate(layer.project(x), 0.5**2, normalise=False))

        towards = layer(z) - z
        assert rate(z + 0.05 * towards) < rate(z) < rate(z - 0.05 * towards)


def test_the_penalty_is_chosen_by_name():
    """With labels CRATE takes 0.1."""
    supervised = build_encoder(CRATE + ",penalty=0.1", image_size=32, patch_size=8, seed=0).model
    assert [block.code.penalty for block in supervised.blocks] == [0.1, 0.1]
    assert make().encoder.model.blocks[0].code.penalty == 0.5
    block, plain = supervised.blocks[0].double(), make().encoder.model.blocks[0].double()
    plain.load_state_dict(block.state_dict())
    half = tokens() + block.attn(block.norm1(tokens()))
    x, d = block.norm2(half), block.code.weight
    for found, penalty in ((block(tokens()), 0.1), (plain(tokens()), 0.5)):
        expected = (x + 0.1 * (x - x @ d.T) @ d - 0.1 * penalty).clamp(min=0)
        assert torch.allclose(found, expected, atol=1e-10)


def test_no_other_library_is_offered_a_crate_and_no_other_encoder_fits():
    encoder = build_encoder(CRATE, image_size=32)
    assert "timm" not in fits(encoder)
    with pytest.raises(UsageError, match="vit_crate"):
        CrateMAE(build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2", image_size=32))
    with pytest.raises(UsageError, match="fc_norm=false"):
        CrateMAE(build_encoder(CRATE + ",global_pool=avg", image_size=32, patch_size=8))
