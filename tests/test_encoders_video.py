"""Networks that read videos: torchvision's own numbers, other sizes, clips of long videos, and what they answer."""

import pytest
import torch
import torchvision

from pretask import open_data
from pretask.encoders.video import build
from pretask.encoders.video_nets import MAKERS
from pretask.encoders.weights import read_encoder, save_encoder
from pretask.errors import UsageError
from pretask.evaluation.finetune import finetune
from pretask.evaluation.protocols import evaluate


@pytest.mark.parametrize("name", MAKERS)
def test_resnets_are_torchvisions(name):
    reference = getattr(torchvision.models.video, name)()
    reference.fc = torch.nn.Identity()
    encoder = build(name, image_size=32).eval()
    encoder.model.load_state_dict(reference.state_dict())
    video = torch.rand(1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = reference.eval()(encoder.normalise(video))
        assert torch.allclose(encoder(video).pooled, expected, atol=1e-5)
    assert encoder.dim == 512


def test_s3d_is_torchvisions():
    encoder = build("s3d").eval()
    video = torch.rand(1, 3, 16, 32, 32)
    with torch.no_grad():
        found = encoder(video)
        expected = encoder.model.features(encoder.normalise(video)).mean((2, 3, 4))
    assert torch.equal(found.pooled, expected) and found.pooled.shape == (1, 1024)
    assert set(encoder.model.features.state_dict()) == set(
        torchvision.models.video.s3d().features.state_dict()
    )


@pytest.mark.parametrize(
    ("name", "dim", "grid"),
    [
        ("r3d_18:layers=[1,1,1,1],width=4", 32, (2, 2, 2)),
        ("mc3_18:width=4", 32, (16, 2, 2)),
        ("r2plus1d_18:layers=[1,1,1,1],width=4", 32, (2, 2, 2)),
        ("c3d:width=4", 32, (2, 2, 2)),
        ("space_time_vit:embed_dim=16,depth=1,num_heads=2", 16, (8, 8, 8)),
        ("hiera_tiny:embed_dim=8,stages=[1,1,1]", 32, (8, 8, 8)),
    ],
)
@pytest.mark.parametrize("chans", [1, 3])
def test_what_networks_answer(name, dim, grid, chans, tmp_path):
    encoder = build(name, in_chans=chans, image_size=32).eval()
    with torch.no_grad():
        found = encoder(torch.rand(2, chans, 16, 32, 32))
    assert found.pooled.shape == (2, dim) and found.grid == grid and encoder.dim == dim
    assert found.tokens.shape == (2, grid[0] * grid[1] * grid[2], dim)
    save_encoder(encoder, tmp_path / "e.safetensors")
    again = read_encoder(tmp_path / "e.safetensors").eval()
    batch = {
        "video": (torch.rand(2, chans, 35, 40, 40) * 255).byte(),
        "size": torch.tensor([[40, 80], [30, 30]]),
    }
    with torch.no_grad():
        assert torch.equal(encoder.encode(batch).pooled, again.encode(batch).pooled)
    with pytest.raises(UsageError, match=f"takes {chans} channels"):
        encoder(torch.rand(2, chans + 1, 16, 32, 32))


def test_long_videos_are_looked_at_clip_by_clip():
    encoder = build("r3d_18:layers=[1,1,1,1],width=4,frames=8", image_size=16).eval()
    video = torch.rand(2, 3, 27, 16, 16)
    with torch.no_grad():
        found = encoder.encode({"video": video})
        clips = [encoder(video[:, :, start : start + 8]) for start in (0, 8, 16)]
        short = encoder.encode({"video": video[:, :, :5]})
    assert torch.allclose(found.pooled, torch.stack([clip.pooled for clip in clips]).mean(0), atol=1e-6)
    assert torch.allclose(found.tokens, torch.cat([clip.tokens for clip in clips], dim=1), atol=1e-6)
    assert found.grid == (3 * clips[0].grid[0], *clips[0].grid[1:]) and short.grid[0] == 1


def test_the_middle_square_of_each_frame_is_seen():
    encoder = build("raw", image_size=16)
    video = torch.zeros(1, 3, 8, 16, 16)
    video[..., 4:12] = 1  # of a video twice as wide as high: exactly its middle square
    seen = encoder.seen({"video": video, "size": torch.tensor([[32, 64]])})
    assert seen.shape == (1, 3, 8, 16, 16) and seen[..., 1:-1].min() > 0.9
    assert encoder.seen({"video": video}).mean() == pytest.approx(0.5)


def test_protocols_judge_videos():
    data = open_data("moving-digits", image_size=16, frames=16, hop=48)
    some = data.subset(range(60)), data.subset(range(900, 930))
    encoder = build("r3d_18:layers=[1,1,1,1],width=4", image_size=16)
    scores = {score.metric: score for score in evaluate(encoder, *some, ["knn", "retrieval", "linear"])}
    assert {"accuracy", "recall@1", "mAP"} <= set(scores)
    (tuned,) = finetune(encoder, *some, epochs=1, batch_size=16)
    assert tuned.n == 30 and tuned.detail["batch_size"] == 16


def test_errors_say_what_to_do():
    for wrong in (
        "resnet18",
        "r3d_18:depth=4",
        "r3d_18:layers=[1,1]",
        "c3d:layers=[1,1,1,1]",
        "r3d_18:width=0",
    ):
        with pytest.raises(UsageError):
            build(wrong)
    with pytest.raises(UsageError, match="no published weights"):
        build("c3d", pretrained=True)
    with pytest.raises(UsageError, match="has no 'video'"):
        build("raw").encode({"image": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(UsageError, match="reads 16 frames and the videos have 4"):
        vit = build("space_time_vit:embed_dim=16,depth=1,num_heads=2", image_size=16)
        vit.encode({"video": torch.zeros(1, 3, 4, 16, 16)})
