"""SelfPatch against the official procedure, written as loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.encoders.aggregate import Aggregation, most_alike, neighbours
from pretask.errors import UsageError
from pretask.methods.image.selfpatch import SelfPatch
from pretask.task import Step

BARE = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2,class_token=false,global_pool=avg,fc_norm=false"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(encoder=None, **options):
    torch.manual_seed(0)
    return SelfPatch(
        encoder or build_encoder(BARE, image_size=32, patch_size=4, seed=0),
        **{"prototypes": 20, "patch_prototypes": 12, "num_local": 2, "drop_path": 0.0} | options,
    )


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


def official(network, image, alike: int = 0):
    """Logits of a crop and of its patches, each head written out, with the weights of ours."""
    encoder, head, model = network.encoder, network.aggregate, network.encoder.model
    conv = model.patch_embed.proj
    x = F.conv2d((image - encoder.mean) / encoder.std, conv.weight, conv.bias, stride=encoder.patch_size)
    (old, _), new = encoder.grid, x.shape[-1]
    table = model.pos_embed.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    if new != old:
        table = F.interpolate(table, scale_factor=((new + 0.1) / old, (new + 0.1) / old), mode="bicubic")
    x = (x + table).flatten(2).transpose(1, 2)
    for block in model.blocks:
        x = block(x)

    def norm(layer, y):
        return F.layer_norm(y, y.shape[-1:], layer.weight, layer.bias, 1e-6)

    def asked(tokens):
        c = head.token.expand(len(tokens), 1, -1)
        for block in head.blocks:
            u, (wq, wk, wv) = norm(block.norm1, torch.cat([c, tokens], dim=1)), block.attn.qkv.weight.chunk(3)
            bq, bk, bv = block.attn.qkv.bias.chunk(3)
            q, k, v = u[:, 0] @ wq.T + bq, u @ wk.T + bk, u @ wv.T + bv
            mixed = []
            for own in torch.arange(q.shape[1]).chunk(block.attn.num_heads):
                score = torch.stack([(q[:, own] * k[:, j, own]).sum(1) for j in range(u.shape[1])], dim=1)
                mixed.append((score / len(own) ** 0.5).softmax(1)[:, None] @ v[:, :, own])
            c = c + torch.cat(mixed, dim=2) @ block.attn.proj.weight.T + block.attn.proj.bias
            y = F.gelu(norm(block.norm2, c) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
            c = c + y @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
        return c[:, 0]

    def said(top, y):
        first, _, second, _, third = top.mlp
        y = F.gelu(F.gelu(y @ first.weight.T + first.bias) @ second.weight.T + second.bias)
        y = y @ third.weight.T + third.bias
        rows = top.last_layer.weight_v
        return (y / y.norm(dim=-1, keepdim=True)) @ (rows / rows.norm(dim=1, keepdim=True)).T

    each = x
    if alike:
        each = torch.empty_like(x)
        for place in range(new * new):
            r, c = divmod(place, new)
            around = {(r + a) % new * new + (c + b) % new for a in (-1, 0, 1) for b in (-1, 0, 1)} - {place}
            for n in range(len(x)):
                near = sorted(around, key=lambda j: -F.cosine_similarity(x[n, place], x[n, j], 0).item())  # noqa: B023
                each[n, place] = asked(x[n, near[:alike]][None])[0]
    return said(network.head, norm(head.norm, asked(x))), said(network.patch_head, norm(head.norm, each))


def test_the_table_of_neighbours_is_in_ascending_order():
    table = neighbours((14, 14))
    assert table[0].tolist() == [1, 13, 14, 15, 27, 182, 183, 195]
    assert table[15].tolist() == [0, 1, 2, 14, 16, 28, 29, 30]
    for side in (14, 6):
        for place, found in enumerate(neighbours((side, side)).tolist()):
            r, c = divmod(place, side)
            rows, columns = ({(at + off) % side for off in (-1, 0, 1)} for at in (r, c))
            assert found == [
                j for j in range(side**2) if j != place and j // side in rows and j % side in columns
            ]


def test_neighbours_wrap_around():
    found = neighbours((4, 5))
    for place in range(20):
        r, c = divmod(place, 5)
        expected = {(r + a) % 4 * 5 + (c + b) % 5 for a in (-1, 0, 1) for b in (-1, 0, 1)} - {place}
        assert set(found[place].tolist()) == expected and found.shape == (20, 8)


def test_the_most_similar_neighbours_are_taken_as_they_are():
    x = torch.randn(2, 20, 6, generator=generator())
    found = most_alike(x, (4, 5), 3)
    for n in range(2):
        for place, around in enumerate(neighbours((4, 5)).tolist()):
            near = sorted(
                around, key=lambda j, p=place, n=n: -float(F.cosine_similarity(x[n, p], x[n, j], dim=0))
            )
            assert {tuple(v.tolist()) for v in found[n, place]} == {tuple(x[n, j].tolist()) for j in near[:3]}


def test_a_class_token_gathers_a_set_whatever_its_order():
    torch.manual_seed(0)
    head = Aggregation(32, 2).double()
    x = torch.randn(3, 4, 32, dtype=torch.float64, generator=generator())
    assert torch.allclose(head.gather(x), head.gather(x.flip(1)), atol=1e-12)
    c, block = head.token.expand(3, -1, -1), None
    for block in head.blocks:
        u = block.norm1(torch.cat([c, x], 1))
        full = block.attn(u)[:, :1]
        c = c + full
        c = c + block.mlp(block.norm2(c))
    assert torch.allclose(head.gather(x), c[:, 0], atol=1e-10)


def test_students_pass_patches_on_and_teachers_gather_neighbours():
    head = Aggregation(32, 2)
    x = torch.randn(2, 16, 32, generator=generator())
    whole, each = head(x, (4, 4))
    assert torch.equal(each, head.norm(x)) and torch.equal(whole, head.norm(head.gather(x)))
    _, targets = head(x, (4, 4), alike=4)
    sets = most_alike(x, (4, 4), 4)
    for place in (0, 7, 15):
        assert torch.allclose(targets[:, place], head.norm(head.gather(sets[:, place])), atol=1e-6)


def test_the_loss_is_the_official_one():
    task = make().double()
    with torch.no_grad():
        for p in task.teacher.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator(1), dtype=p.dtype))
        task.centre.value.normal_(generator=generator(2))
        task.patch_centre.value.normal_(generator=generator(3))
    images = {"image": batch()["image"].double()}
    losses = task.loss(images, Step.at(seed=4))
    views = task.views(images, Step.at(seed=4))
    assert {view.shape[-1] for view in views} == {32, 16}
    with torch.no_grad():
        student = [official(task, view) for view in views]
        teacher = [official(task.teacher, view, 4) for view in views]

    def entropy(said, true, centre):
        target = ((true - centre) / 0.04).softmax(-1)
        return -(target * (said / 0.1).log_softmax(-1)).sum(-1).mean()

    cls = [
        entropy(student[v][0], teacher[q][0], task.centre.value) for q in range(2) for v in range(4) if v != q
    ]
    patch = [entropy(student[v][1], teacher[v][1], task.patch_centre.value) for v in range(4)]
    assert losses["cls"].item() == pytest.approx(torch.stack(cls).mean().item(), rel=1e-6)
    assert losses["patch"].item() == pytest.approx(torch.stack(patch).mean().item(), rel=1e-6)


def test_centres_follow_all_views_and_all_patches():
    task = make().train()
    views = task.views(batch(), Step.at(seed=4))
    teacher = [task.answers(task.teacher, [view], 4) for view in views]
    task.loss(batch(), Step.at(seed=4))
    task.after_step(Step.at(0, 10))
    everyone = torch.cat([own[0] for own in teacher]).mean(0)
    patches = torch.cat([own[1].flatten(0, 1) for own in teacher]).mean(0)
    assert torch.allclose(task.centre.value, 0.1 * everyone, atol=1e-5)
    assert torch.allclose(task.patch_centre.value, 0.1 * patches, atol=1e-5)


def test_the_teacher_follows_with_all_its_heads():
    task = make(momentum=0.9)
    names = {name.split(".")[0] for name, _ in task.teacher.named_parameters()}
    assert names == {"encoder", "head", "aggregate", "patch_head"}
    with torch.no_grad():
        for p in task.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator(6)))
    before = {name: p.clone() for name, p in task.teacher.named_parameters()}
    task.after_step(Step.at(3, total=10))
    m = 1 - 0.1 * (1 + math.cos(math.pi * 3 / 10)) / 2
    for name, p in task.teacher.named_parameters():
        torch.testing.assert_close(p, m * before[name] + (1 - m) * task.get_parameter(name))
        assert not task.get_parameter(name).requires_grad or not torch.equal(p, before[name])


def test_both_last_layers_wait_and_the_teacher_learns_nothing():
    task = make()
    task.total(task.loss(batch(), Step.at(0, 100, 10))).backward()
    task.after_backward(Step.at(0, 100, 10))
    for head in (task.head, task.patch_head):
        assert all(p.grad is None for p in head.last_layer.parameters())
    assert all(p.grad is None for p in task.teacher.parameters())


def test_the_temperature_is_the_same_from_the_first_epoch_on():
    task = make(teacher_temperature=0.06)
    assert [task.sharpness(Step.at(epoch, 300)) for epoch in (0, 1, 29, 299)] == [0.06] * 4


def test_the_blocks_own_features_are_judged_where_there_is_no_last_norm():
    own = build_encoder(BARE + ",final_norm=false", image_size=32, patch_size=4, seed=0)
    for task in (make(), make(encoder=own)):
        image, model = torch.rand(2, 3, 32, 32, generator=generator(7)), task.learned.model
        x = model.blocks(task.learned.embed(image)[0])
        tokens = x if task.encoder is own else F.layer_norm(x, (32,), eps=1e-6)
        torch.testing.assert_close(task.learned(image).tokens, tokens)
        torch.testing.assert_close(task.learned(image).pooled, tokens.mean(1))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="class_token=false"):
        SelfPatch(build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2", image_size=32))
    with pytest.raises(UsageError, match="1 to 8"):
        make(alike=9)


def test_prototypes_keep_their_length_as_in_the_released_run():
    task = make()
    for head in (task.head, task.patch_head):
        assert not head.last_layer.weight_g.requires_grad
    assert {block.norm1.eps for block in task.aggregate.blocks} == {task.aggregate.norm.eps} == {1e-6}
