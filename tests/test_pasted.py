"""Pasted pieces told from their surroundings by columns of features."""

import pytest
import torch

from pretask.data import Dataset, open_data
from pretask.encoders import build_encoder
from pretask.encoders.dense import feature_map
from pretask.evaluation.pasted import Columns, paste, pasted


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    whole = open_data("digits-on-textures", limit=240, image_size=32)
    return whole.subset(range(160)), whole.subset(range(160, 240))


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("resnet10t:stem_width=8,channels=[8,16,24,32]", image_size=32, seed=0)


def test_pieces():
    image = torch.stack([torch.full((3, 20, 20), value) for value in (0.1, 0.5, 0.9)])
    mixed, mask = paste(image, torch.Generator().manual_seed(0))
    for row in range(3):
        inside = mask[row].bool()
        rows, columns = inside.nonzero().T
        side = int(rows.max() - rows.min()) + 1
        assert (
            5 <= side <= 10
            and side == int(columns.max() - columns.min()) + 1
            and int(inside.sum()) == side**2
        )
        assert torch.allclose(mixed[row][:, inside], image[(row + 1) % 3, 0, 0, 0])
        assert torch.equal(mixed[row][:, ~inside], image[row][:, ~inside])


def test_the_whole_piece_is_shown():
    ramp = torch.linspace(0, 1, 32).expand(2, 1, 32, 32)
    mixed, mask = paste(torch.cat([torch.zeros(1, 1, 32, 32), ramp[:1]]), torch.Generator().manual_seed(0))
    row = mixed[0, 0][mask[0].bool()].view(int(mask[0].sum() ** 0.5), -1)[0]
    assert row[0] < 0.1 and row[-1] > 0.9 and (row.diff() > 0).all()


def test_maps_are_fine_enough(data, encoder):
    batch = {"image": torch.rand(2, 3, 32, 32)}
    columns = Columns(encoder.eval()).maps(batch)
    model, x = encoder.model, encoder.normalise(batch["image"])
    x = model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))
    assert columns.shape == (2, 32 + 32 + 24 + 16 + 8, 8, 8) and torch.allclose(columns[:, -8:], x, atol=1e-4)
    vit = build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", image_size=32, seed=0)
    assert torch.equal(Columns(vit).maps(batch), feature_map(vit.encode(batch)))  # which has 8 x 8 places
    (score,) = pasted(encoder, *data, samples=40, places=2000)
    assert score.value > 0.5 and score.detail["chance"] == 0.5


def test_score(data):
    encoder = build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", image_size=32, seed=0)
    (score,) = pasted(encoder, *data, samples=16, places=400)
    assert (score.protocol, score.metric, score.n) == ("pasted", "auroc", 16) and 0 <= score.value <= 1
