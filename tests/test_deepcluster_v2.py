"""DeepCluster-v2: k-means and the loss against loops in float64, and when the memory and the clusters change."""

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.deepcluster_v2 import DeepClusterV2
from pretask.objectives.clusters import spherical_kmeans
from pretask.task import Step

B, N, K, D = 6, 20, 4, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(count: int = N):
    image = torch.rand(count, 3, 40, 40, generator=generator(5), dtype=torch.float64)
    return {"image": image, "index": torch.arange(count)}


def make(**options) -> DeepClusterV2:
    torch.manual_seed(0)
    encoder = build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", image_size=32, seed=0)
    task = DeepClusterV2(
        encoder, **{"prototypes": K, "projection_dim": D, "hidden_dim": 16} | options
    ).double()
    task.prepare([data()], N)
    return task.double()


def batch():
    whole, rows = data(), torch.tensor([3, 17, 0, 19, 8, 5])
    return {key: value[rows] for key, value in whole.items()}


def test_kmeans_is_the_loop():
    x = F.normalize(torch.randn(30, 5, dtype=torch.float64, generator=generator()), dim=1)
    centres = torch.cat([x[:4], -x.mean(0, keepdim=True) * 100])  # nobody is near the last one
    ours, own = spherical_kmeans(x, centres, steps=3)
    naive = centres.clone()
    for _ in range(3):
        groups = [[] for _ in naive]
        for row in x:
            groups[max(range(len(naive)), key=lambda k: float(row @ naive[k]))].append(row)
        naive = torch.stack(
            [F.normalize(sum(g), dim=0) if g else c for g, c in zip(groups, naive, strict=True)]
        )
    torch.testing.assert_close(ours, naive)
    assert own.tolist() == [max(range(len(naive)), key=lambda k: float(row @ naive[k])) for row in x]
    torch.testing.assert_close(ours[:4].norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_kmeans_finds_what_is_apart():
    truth = torch.arange(60) % 3
    x = F.normalize(torch.eye(3)[truth] + 0.1 * torch.randn(60, 3, generator=generator()), dim=1)
    own = spherical_kmeans(x, x[:3])[1]
    assert torch.equal(own[:, None] == own, truth[:, None] == truth)


def test_the_loss_is_the_mean_over_classifiers_crops_and_pictures():
    task, step = make(num_local=2), Step.at(1)
    vectors = task.crops(batch(), Step.at(1))
    assert len(vectors) == 4
    total = 0
    for h in range(3):
        for v in vectors:
            for row, i in zip(v, batch()["index"], strict=True):
                logits = torch.stack([row @ c for c in task.centres[h]]) / 0.1
                total = total - logits.log_softmax(0)[task.cluster[h, i]]
    torch.testing.assert_close(task.loss(batch(), step)["cluster"], total / (3 * 4 * B))


def test_the_memory_is_filled_first_and_each_classifier_has_clusters_of_its_own():
    task = make()
    torch.testing.assert_close(task.memory.norm(dim=2), torch.ones(2, N, dtype=torch.float64))
    assert not torch.allclose(task.memory[0], task.memory[1])
    for h in range(3):
        torch.testing.assert_close(task.centres[h].norm(dim=1), torch.ones(K, dtype=torch.float64))
        assert torch.equal(task.cluster[h], (task.memory[h % 2] @ task.centres[h].T).argmax(1))
    assert not torch.equal(task.centres[0], task.centres[2])  # of one memory, from other pictures on


def test_the_memory_follows_each_step_and_clusters_each_epoch():
    task = make(num_local=0)
    memory, centres, index = task.memory.clone(), task.centres.clone(), batch()["index"]
    vectors = torch.stack(task.crops(batch(), Step.at(0, 8, 2)))
    for number in range(2):
        step = Step.at(number, 8, 2)
        task.loss(batch(), step)
        task.after_step(step)
        if number == 0:
            torch.testing.assert_close(task.memory[:, index], vectors)
            others = [i for i in range(N) if i not in index]
            assert torch.equal(task.memory[:, others], memory[:, others])
            assert torch.equal(task.centres, centres)
    assert not torch.equal(task.centres, centres)  # the epoch is over
    for h in range(3):
        assert torch.equal(task.cluster[h], (task.memory[h % 2] @ task.centres[h].T).argmax(1))
    assert "centres" not in dict(task.named_parameters())


def test_more_clusters_than_pictures_are_refused():
    with pytest.raises(UsageError, match="too many"):
        make(prototypes=N + 1)
    assert make(prototypes=None).centres.shape[1] == 2
