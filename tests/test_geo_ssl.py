"""Geo-SSL: partners of another time, clusters of coordinates, the loss, and pictures with places."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import tiny
from pretask import open_data
from pretask.api import encoder_and_data, readable
from pretask.data.seasons import TIMES, USES, draw_places
from pretask.data.visits import degrees, fmow_place
from pretask.errors import DataError, UsageError
from pretask.evaluation.places import group_average, invariance, places
from pretask.methods.image.geo_ssl import NOWHERE, GeoSSL, geo_centres, on_sphere
from pretask.objectives.contrastive import multi_label_cpc
from pretask.pretexts.views import ViewSpec
from pretask.task import Step
from test_catalogue import loss_of


def make(**options) -> GeoSSL:
    torch.manual_seed(0)
    task = GeoSSL(tiny.encoder("grid"), **{"queue": 32} | options)
    task.prepare([tiny.places(16)], 16)
    return task


def test_the_partner_is_another_time_of_the_place_and_all_are_drawn_alike():
    batch = tiny.places(8)
    batch["revisits"] = torch.tensor([3, 3, 2, 1, 0, 3, 3, 3])
    task, counts = make(), torch.zeros(8, 4)
    for index in range(300):
        partner, _ = task.partners(batch, Step.at(index))
        for row in range(8):
            shown = [
                torch.equal(partner[row], other) for other in (*batch["revisit"][row], batch["image"][row])
            ]
            counts[row] += torch.tensor(shown)
    assert (counts.sum(1) == 300).all()
    assert counts[4].tolist() == [0, 0, 0, 300] and counts[3].tolist() == [300, 0, 0, 0]
    assert counts[2, 2:].tolist() == [0, 0] and (counts[2, :2] > 110).all()
    for row in (0, 1, 5, 6, 7):
        assert (counts[row, :3] > 70).all() and counts[row, 3] == 0


def test_both_times_have_crops_of_their_own_from_the_middle_square():
    task, batch = make(), tiny.places(4)
    assert task.first.scale == (0.08, 1.0) and make(temporal=False).first.scale == (0.2, 1.0)
    assert make(crop_scale=(0.5, 1.0)).first.scale == (0.5, 1.0)
    task.first = task.second = ViewSpec(tiny.SIDE, None)
    first, second = task.views(batch, Step.at(3)).chunk(2)
    torch.testing.assert_close(first, batch["image"] / 255)
    torch.testing.assert_close(second, task.partners(batch, Step.at(3))[0] / 255)
    wide = {**batch, "size": torch.tensor([[32, 96]] * 4), "revisit_size": torch.tensor([[[32, 96]] * 3] * 4)}
    middle = task.views(wide, Step.at(3))[:4]
    inner = batch["image"][:, :, :, 11:21].float().mean((2, 3)) / 255
    torch.testing.assert_close(middle.mean((2, 3)), inner, atol=0.05, rtol=0)


def test_without_times_it_is_moco_with_a_class():
    batch = tiny.places(4)
    bare = {key: value for key, value in batch.items() if not key.startswith("revisit")}
    task = make(temporal=False)
    assert loss_of(task, bare) == loss_of(task, batch)
    assert set(loss_of(make(geo="none"), batch)) == {"info_nce"}


@pytest.mark.parametrize("geo", ["projection", "features"])
def test_the_loss_of_a_step(geo):
    task, batch = make(geo=geo), tiny.places(6)
    losses = task.loss(batch, Step.at(2))
    first, second = task.views(batch, Step.at(2)).chunk(2)
    seen = task.encoder(first).pooled
    query, key = task.projector(seen), task.target(second)
    q, k, queue = F.normalize(query, dim=1), F.normalize(key, dim=1), task.queue.rows
    total = 0.0
    for row in range(6):
        logits = torch.stack([q[row] @ k[row], *(q[row] @ n for n in queue)]).detach().double() / 0.02
        total += float(logits.logsumexp(0) - logits[0]) / 6
    assert losses["info_nce"].item() == pytest.approx(total, rel=1e-3, abs=1e-5)
    logits = task.head((query if geo == "projection" else seen).clamp(min=0))  # not normalised
    assert losses["geo"].item() == pytest.approx(
        F.cross_entropy(logits, task.cluster(batch)).item(), rel=1e-4
    )
    assert task.total(losses).item() == pytest.approx(sum(float(value.detach()) for value in losses.values()))
    task.total(losses).backward()
    assert all(p.grad is None for p in task.target.parameters())


def test_the_queue_takes_keys_after_the_loss_has_seen_it():
    task, batch = make(queue=10), tiny.places(4)
    before = task.queue.rows.clone()
    for number in range(3):
        task.loss(batch, Step.at(number))
        task.after_step(Step.at(number))
    assert int(task.queue.position) == 12 % 10 and not torch.equal(task.queue.rows, before)


def naive_cpc(q, k, queue, temperature: float, alpha: float) -> float:
    """One softmax over every logit of the batch; the positives shall share it."""
    columns = 1 + len(queue)
    beta = (columns - alpha) / (columns - 1)
    logits, positives = [], []
    for a, b in zip(q, k, strict=True):
        row = [a @ b / temperature + math.log(alpha)] + [a @ n / temperature + math.log(beta) for n in queue]
        positives.append(len(logits))
        logits += row
    p = np.exp(np.array(logits) - max(logits))
    p /= p.sum()
    share = 1 / len(q)
    return sum(share * (math.log(share) - math.log(p[place])) for place in positives) / alpha


@pytest.mark.parametrize("alpha", [1.0, 0.3, 4.0])
def test_multi_label_cpc_is_the_formula(alpha):
    rng = np.random.default_rng(0)
    q, k, queue = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(n, 8)) for n in (5, 5, 9))
    )
    found = multi_label_cpc(*(torch.from_numpy(x) for x in (3 * q, 2 * k, queue)), 0.2, alpha)
    assert found.item() == pytest.approx(naive_cpc(q, k, queue, 0.2, alpha), rel=1e-9)
    losses = make(alpha=alpha).loss(tiny.places(4), Step.at())
    assert losses["info_nce"].isfinite() and losses["info_nce"].item() >= 0


def test_clusters_are_k_means_and_do_not_hang_on_the_order():
    rng = np.random.default_rng(0)
    middle = np.array([[10.0, 20], [-30, 100], [50, -120]])
    points = torch.from_numpy(np.repeat(middle, 20, 0) + rng.normal(size=(60, 2))).float()
    found = geo_centres(points, 3)
    expected = points.view(3, 20, 2).mean(1)
    assert torch.cdist(found, expected).min(1).values.max() < 1e-3
    assert torch.equal(found, geo_centres(points[torch.randperm(60)], 3))
    few = geo_centres(points[:2], 5)
    assert (few[2:] == NOWHERE).all() and (few[:2] != NOWHERE).all()


def test_the_cluster_is_the_nearest_centre():
    task, batch = make(clusters=3), tiny.places(12)
    for row, (lat, lon) in enumerate(batch["where"].tolist()):
        distance = [math.dist((lat, lon), centre) for centre in task.centres.tolist()]
        assert int(task.cluster(batch)[row]) == distance.index(min(distance))
    same = batch["place"][:, None] == batch["place"]
    number = task.cluster(batch)
    assert (number[:, None] == number)[same].all()
    with pytest.raises(UsageError, match="prepare"):
        GeoSSL(tiny.encoder("grid")).loss(batch, Step.at())


def test_on_a_sphere_the_date_line_divides_nothing():
    points = on_sphere(torch.tensor([[0.0, 179.9], [0, -179.9], [90, 13], [90, -150], [0, 90]]))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(5))
    assert (points[0] - points[1]).norm() < 0.01 and (points[2] - points[3]).norm() < 1e-6
    torch.testing.assert_close(points[4], torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    assert make(coordinates="sphere").centres.shape == (100, 3)


def test_defaults_are_the_commands():
    task = GeoSSL(tiny.encoder("grid", side=96))
    assert (task.temperature, task.momentum, len(task.queue.rows)) == (0.02, 0.999, 65536)
    assert task.head.weight.shape == (100, 128) and len(task.projector) == 3
    spec = task.first
    assert (spec.jitter, spec.brightness, spec.hue, spec.grey, spec.blur, spec.flip) == (
        0.8,
        0.4,
        0.1,
        0.2,
        0.5,
        0.5,
    )


def test_names_of_the_papers_copy_of_fmow():
    assert fmow_place("train/airport_0_3_rgb_train0.jpg") == ("train", "airport_0", "_rgb_train0.jpg")
    assert fmow_place("airport_0_12_rgb_train0.jpg")[1] == "airport_0"
    assert fmow_place("a/airport_1_0_msr_train0.jpg") != fmow_place("a/airport_1_0_rgb_train0.jpg")
    for wrong in (
        "airport_0_3_rgb.jpg",
        "x_rgb_train0.jpg",
        "_rgb_train0.jpg",
        "airport_0_3_rgb_train10.jpg",
    ):
        with pytest.raises(DataError, match="airport_0_3"):
            fmow_place(wrong)


def write_pictures(folder, names) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 20, 3), 8 * number, np.uint8)).save(path)


def shown(batch, row: int) -> set[int]:
    """Which pictures of `write_pictures` are given as other times."""
    count = int(batch["revisits"][row])
    return {round(float(picture.float().mean()) / 8) for picture in batch["revisit"][row, :count]}


def test_a_table_of_places(tmp_path):
    names = [f"p{n}.png" for n in range(9)]
    write_pictures(tmp_path, names)
    lines = [
        "image,lat,lon,place,date,product,label,split",
        "p0.png,10,20,a,2020-03-01,rgb,field,train",
        "p1.png,10,20,a,2020-01-01,rgb,field,train",
        "p2.png,10,20,a,2020-02-01,rgb,field,train",
        "p3.png,10,20,a,2020-02-01,ms,field,train",  # another product
        "p4.png,10,20,a,2020-02-01,rgb,field,test",  # another split
        "p5.png,-70,-120.5,b,2020-02-01,rgb,town,train",
        "p6.png,,5,b,2020-02-01,rgb,town,train",  # no coordinates
        "p7.png,0,0,,2020-02-01,rgb,town,train",  # of no known place
        "p8.png,0,0,,2020-02-01,rgb,town,test",
    ]
    (tmp_path / "places.csv").write_text("\n".join(lines))
    dataset = open_data(tmp_path, modality="place", times=3)
    assert len(dataset) == 8 and [item.path for item in dataset.skipped] == ["p6.png"]
    batch = dataset.batch(range(8))
    assert batch["where"][5].tolist() == [-70, -120.5]
    assert [shown(batch, row) for row in range(8)] == [
        {1, 2},
        {0, 2},
        {0, 1},
        set(),
        set(),
        set(),
        set(),
        set(),
    ]
    assert round(float(batch["revisit"][0, 0].float().mean()) / 8) == 1, "by time"
    assert batch["place"].tolist()[:6] == [0, 0, 0, 0, 0, 1] and batch["place"][6] != batch["place"][7]
    assert len(dataset.split("test")) == 2 and dataset.classes == ["field", "town"]
    assert shown(open_data(tmp_path / "places.csv", modality="place", times=2).batch([0]), 0) < {1, 2}
    lazy = open_data(tmp_path, modality="place", times=3, cache="never").batch(range(8))
    assert all(torch.equal(lazy[key], batch[key]) for key in ("where", "place", "revisits", "image"))
    assert [shown(lazy, row) for row in range(3)] == [{1, 2}, {0, 2}, {0, 1}]


def test_places_without_a_name_and_by_name_and_held_out(tmp_path):
    names = [f"d/x_{n // 2}_{n % 2}_rgb_train0.png" for n in range(24)]
    write_pictures(tmp_path, names)
    rows = [f"{name}\t{n // 4}.5\t{n // 4}\t{n % 3}" for n, name in enumerate(names)]
    (tmp_path / "t.tsv").write_text("\n".join(["path\tlat\tlon\tlabel", *rows]))
    by_coordinates = open_data(tmp_path, modality="place").batch(range(24))
    assert shown(by_coordinates, 0) == {1, 2, 3}
    by_name = open_data(tmp_path, modality="place", by_name=True)
    assert shown(by_name.batch([5]), 0) == {4}
    parts = {
        name: by_name.split(name).batch(range(len(by_name.split(name))))["place"]
        for name in ("train", "test")
    }
    assert not set(parts["train"].tolist()) & set(parts["test"].tolist()) and len(parts["test"]) == 4


def test_a_picture_that_breaks_is_no_partner(tmp_path):
    names = [f"p{n}.png" for n in range(12)]
    write_pictures(tmp_path, names)
    (tmp_path / "p1.png").write_bytes(b"nothing")
    (tmp_path / "t.csv").write_text(
        "\n".join(["path,lat,lon", *(f"{name},{n // 3},0" for n, name in enumerate(names))])
    )
    for cache in ("memory", "never"):
        dataset = open_data(tmp_path, modality="place", cache=cache)
        rows = dataset.rows.tolist()
        batch = dataset.batch([rows.index(0), rows.index(3)])
        assert shown(batch, 0) == {2} and shown(batch, 1) == {4, 5}
        assert [item.path for item in dataset.skipped] == ["p1.png"]


def test_bad_tables_are_explained(tmp_path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    with pytest.raises(DataError, match="none"):
        open_data(tmp_path, modality="place")
    (tmp_path / "t.csv").write_text("path,lat\na.png,3\nb.png,4\n")
    with pytest.raises(DataError, match="longitude"):
        open_data(tmp_path, modality="place")
    (tmp_path / "u.csv").write_text("path,lat,lon\na.png,3,4\n")
    with pytest.raises(DataError, match="name it"):
        open_data(tmp_path, modality="place")
    with pytest.raises(UsageError, match="at least 2"):
        open_data(tmp_path / "u.csv", modality="place", times=1)
    assert degrees("-90", "180") == (-90.0, 180.0) and all(map(math.isnan, degrees("91", "0")))


def test_made_up_places():
    found = draw_places(40, np.random.default_rng(0))
    assert found.image.shape == (40 * TIMES, 3, 32, 32) and found.image.min() >= 0 and found.image.max() <= 1
    assert found.use.bincount().tolist() == [4 * TIMES] * len(USES)
    assert torch.equal(found.image, draw_places(40, np.random.default_rng(0)).image)
    day = found.time.view(40, TIMES)
    assert (day.diff(dim=1) > 0).all() and (
        found.where.view(40, TIMES, 2) == found.where[::TIMES, None]
    ).all()
    cold = (found.where[:, 0] > 35) & ((found.time < 30) | (found.time > 335))
    warm = (found.where[:, 0] > 35) & ((found.time - 182).abs() < 45)
    light = found.image.mean((1, 2, 3))
    assert light[cold].mean() > light[warm].mean() + 0.05, "winters are white in the north"


def test_logits_are_averaged_over_a_place():
    logits, group = torch.tensor([[1.0, 0], [0, 3], [2, 0], [5, 5]]), torch.tensor([7, 2, 7, 9])
    assert group_average(logits, group).tolist() == [[1.5, 0], [0, 3], [1.5, 0], [5, 5]]


def test_invariance_is_own_place_against_others():
    rng = torch.Generator().manual_seed(0)
    own, other, place = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng), [0, 0, 1, 2, 2]
    found = invariance(own, other, torch.tensor(place))
    for i in range(5):
        across = [float(F.cosine_similarity(own[i], own[j], 0)) for j in range(5) if place[j] != place[i]]
        expected = float(F.cosine_similarity(own[i], other[i], 0)) - sum(across) / len(across)
        assert found[i].item() == pytest.approx(expected, abs=1e-5)


def test_the_protocol_asks_by_picture_and_by_place():
    globe = open_data("seasons", modality="place")
    train, test = (globe.split(name).subset(range(200)) for name in ("train", "test"))
    found = {score.metric: score for score in places(tiny.encoder("grid"), train, test)}
    assert (found["accuracy"].n, found["by place"].n) == (200, 50)
    assert found["invariance"].n == 200 and -2 < found["invariance"].value < 2
    with pytest.raises(UsageError, match="pictures of places"):
        places(tiny.encoder("grid"), train, open_data("digits", limit=20))


def test_encoders_of_pictures_are_judged_by_places_where_these_are_asked_for():
    encoder = tiny.encoder("grid")
    assert encoder_and_data(encoder, "seasons", "place", {})[1].modality == "place"
    assert encoder_and_data(encoder, "digits", None, {})[1].modality == "image"
    assert readable(encoder, "text") == "image", "other kinds are other encoders'"
