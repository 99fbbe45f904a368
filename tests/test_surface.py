"""The read-out of surfaces: exact where an encoder says them, nothing where it does not."""

import pytest
import torch
from torch import Tensor, nn

from pretask.data import open_data
from pretask.data.geometry import group, interpolate
from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.evaluation.protocols import evaluate
from pretask.evaluation.surface import surface


class Oracle(nn.Module):
    """Says of a place what is known of the point there, mixed linearly, or noise."""

    def __init__(self, data, knows: bool):
        super().__init__()
        batch = data.batch(torch.arange(len(data)))
        self.points, self.knows = batch["points"], knows
        self.known = torch.cat([batch["normals"], batch["variation"]], dim=2)
        self.mix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def dense(self, points: Tensor, places: Tensor) -> Tensor:
        row = torch.cdist(points[:, 0], self.points[:, 0]).argmin(1)
        known = interpolate(places, self.points[row], self.known[row], 1)
        if not self.knows:
            known = torch.randn(known.shape, generator=torch.Generator().manual_seed(len(places)))
        return 5 + known @ self.mix


@pytest.fixture(scope="module")
def data():
    return open_data("solids", points=64, limit=80)


def test_what_is_said_is_read(data):
    normals, variation = surface(Oracle(data, True), data.split("train"), data.split("test"), points=20)
    assert (normals.metric, variation.metric) == ("normals", "variation")
    assert normals.value > 0.999 and variation.value > 0.999
    assert normals.n == 16 and normals.items.shape == (16,)


def test_what_is_not_said_is_not_read(data):
    normals, variation = surface(Oracle(data, False), data.split("train"), data.split("test"), points=20)
    assert normals.value < 0.2 and variation.value < 0.05
    assert normals.low < normals.value < normals.high


def test_normals_without_signs_are_left_out(data):
    cloud = data.batch(torch.arange(20))["points"].numpy()
    unsigned = open_data(cloud, modality="points", points=32)
    scores = surface(build_encoder("raw", "points"), unsigned, unsigned, points=8)
    assert [score.metric for score in scores] == ["variation"]


def test_as_a_protocol(data):
    encoder = build_encoder(
        "point_vit_tiny:embed_dim=32,depth=1,num_heads=2,groups=8,group_size=8", "points", seed=0
    )
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    scores = evaluate(encoder, data, protocols=["surface"], seed=1)
    assert [score.metric for score in scores] == ["normals", "variation"]
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert [s.value for s in evaluate(encoder, data, protocols=["surface"], seed=1)] == [
        s.value for s in scores
    ]


def test_tokens_are_carried_to_places(data):
    encoder = build_encoder(
        "point_vit_tiny:embed_dim=32,depth=1,num_heads=2,groups=8,group_size=8", "points", seed=0
    ).eval()
    points = data.batch([0, 1])["points"]
    groups = group(points, 8, 8)
    found = encoder.dense(points, groups.centres)
    torch.testing.assert_close(found, encoder(points).tokens, atol=1e-4, rtol=1e-3)


def test_pictures_are_refused():
    pictures = open_data("digits", limit=40)
    with pytest.raises(UsageError, match="point clouds"):
        surface(build_encoder("raw", image_size=16), pictures, pictures)
