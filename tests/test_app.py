"""The gallery's server: what it answers, whom it refuses, and what it says when something is wrong."""

import base64
import http.client
import io
import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import numpy as np
import pytest
import torch

import pretask
from pretask import catalog, config
from pretask.errors import UsageError
from pretask.gallery import methods
from pretask.gallery.panels import to_plain
from pretask.gallery.puzzles import Puzzles
from pretask.gallery.routes import STATIC, Gallery
from pretask.gallery.server import Server, finite
from pretask.gallery.shelf import Shelf
from pretask.reports.sheet import ROLES
from pretask.task import Kind, Panel
from test_reports_html import make_run, score

TINY = "resnet10t:stem_width=8,channels=[8,8,8,8],zero_init_last=false"
JSON = {"Content-Type": "application/json"}


class Client:
    """Asks a server as a browser would, or otherwise."""

    def __init__(self, server: Server):
        self.server, self.name = server, f"127.0.0.1:{server.server_port}"

    def send(self, method: str, path: str, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=120)
        connection.request(method, path, body, {"Host": self.name, **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, answer.headers

    def get(self, path: str, expect: int = 200):
        status, content, _ = self.send("GET", path)
        assert status == expect, content
        return json.loads(content)

    def preview(self, expect: int = 200, **body):
        status, content, _ = self.send("POST", "/api/preview", json.dumps(body), JSON)
        assert status == expect, content
        return json.loads(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Runs: two whole, one made by a training, one that never began, one broken; evidence, one of it broken."""
    root = tmp_path_factory.mktemp("gallery")
    make_run(root / "runs" / "good", number=30)
    worse = [score("encoder", "linear", 0.52), score("pixels", "linear", 0.44)]
    make_run(root / "runs" / "deep" / "er & more", "simclr", number=30, scores=worse, seed=1)
    pretask.train(
        "rotation", "digits", TINY, root / "runs" / "trained", max_steps=1, batch_size=8, image_size=16,
        reading={"limit": 60}, evaluate=False,
    )  # fmt: skip
    (root / "runs" / "broken").mkdir()
    (root / "runs" / "broken" / "config.yaml").write_text("task: [unclosed\n")
    (root / "runs" / "begun").mkdir()
    (root / "runs" / "begun" / "config.yaml").write_text("task: mae\nplan: {steps: 100}\n")
    (root / "secret.png").write_bytes(b"secret")
    (root / "evidence").mkdir()
    there = Path(__file__).parents[1] / "evidence" / "power-of-foundation-models.json"
    (root / "evidence" / "whole.json").write_text(there.read_text())
    (root / "evidence" / "half.json").write_text('{"slug": "mae"}')
    (root / "evidence" / "none.json").write_text("no json")
    return root


@pytest.fixture(scope="module")
def client(place):
    gallery = Gallery(
        Puzzles("digits", reading={"image_size": 16}), Shelf(place / "runs"), place / "evidence"
    )
    server = Server(gallery).start()
    yield Client(server)
    server.shutdown()
    server.server_close()


def test_the_page_opens_without_torch():
    code = (
        "import sys, threading, time, urllib.request\n"
        "from pretask.gallery.routes import Gallery\n"
        "from pretask.gallery.server import Server\n"
        "server = Server(Gallery()).start()\n"
        "for path in ('', 'static/report.css', 'static/app.js', 'api/methods', 'api/method/mae'):\n"
        "    assert urllib.request.urlopen(server.url + path, timeout=10).status == 200\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_names_of_commands_stay_functions():
    code = "import pretask; pretask.app, pretask.train; assert callable(pretask.export)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_every_file_of_the_page_is_served_and_loads_nothing_from_elsewhere(client):
    for path in STATIC.iterdir():
        status, content, headers = client.send("GET", f"/static/{path.name}")
        text = content.decode()
        assert status == 200 and headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        for sign in ("https://", "//cdn", "@import url", "@font-face"):
            assert sign not in text, (path.name, sign)
        for line in text.splitlines():
            assert "http://" not in line.replace("http://www.w3.org/2000/svg", ""), (path.name, line)


def test_roles_are_named_as_on_sheets():
    script = (STATIC / "panels.js").read_text()
    for role, (word, _) in ROLES.items():
        assert f'{role}: "{word}"' in script


class TestRefusals:
    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example"])
    def test_other_hosts(self, client, host):
        assert client.send("GET", "/api/methods", headers={"Host": host})[0] == 403

    def test_localhost_is_this_machine(self, client):
        assert client.send("GET", "/", headers={"Host": f"localhost:{client.server.server_port}"})[0] == 200

    def test_other_pages(self, client):
        asked = {**JSON, "Origin": "http://evil.example"}
        assert client.send("POST", "/api/preview", '{"slug": "rotation"}', asked)[0] == 403
        own = {**JSON, "Origin": f"http://{client.name}"}
        assert client.send("POST", "/api/preview", '{"slug": "none"}', own)[0] == 400

    def test_forms_and_floods(self, client):
        form = {"Content-Type": "text/plain"}
        assert client.send("POST", "/api/preview", '{"slug": "rotation"}', form)[0] == 415
        assert client.send("POST", "/api/preview", "x" * 70_000, JSON)[0] == 413
        assert client.send("POST", "/api/preview", "{no json", JSON)[0] == 400
        assert client.send("POST", "/api/preview", "[]", JSON)[0] == 400
        assert client.send("POST", "/api/runs", "{}", JSON)[0] == 404
        assert client.send("PUT", "/api/runs", "{}", JSON)[0] == 501

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../../secret.png", "/static/..%2f..%2fsecret.png", "/static//etc/passwd", "/secret.png",
            "/api/run/..%2F", "/api/run/%2Fetc", "/api/run/..", "/api/map/trained%2F..%2F..", "/static/",
            "/api/nothing", "/api/evidence/x", "/static/run.html.j2",
        ],
    )  # fmt: skip
    def test_paths_that_lead_elsewhere(self, client, path):
        status, content, _ = client.send("GET", path)
        assert status in (400, 404) and b"secret" not in content.replace(b"secret.png", b"")

    def test_links_out_of_the_folder_are_not_followed(self, client, place, tmp_path):
        make_run(tmp_path / "outside", number=10)
        link = place / "runs" / "link"
        link.symlink_to(tmp_path / "outside", target_is_directory=True)
        try:
            assert "link" not in {run["name"] for run in client.get("/api/runs")["runs"]}
        finally:
            link.unlink()

    def test_a_port_that_is_taken(self, client):
        with pytest.raises(UsageError, match="--port"):
            Server(Gallery(), client.server.server_port)

    def test_data_that_are_not_there(self, tmp_path):
        with pytest.raises(UsageError, match="no embedded set"):
            pretask.app(tmp_path / "nothing", port=0, wait=False)
        with pytest.raises(UsageError, match="no modality"):
            pretask.app(modality="smell", port=0, wait=False)


class TestMethods:
    def test_all_are_there(self, client):
        assert [row["slug"] for row in client.get("/api/methods")["methods"]] == [
            row.slug for row in catalog.ROWS
        ]

    @pytest.mark.parametrize("slug", [row.slug for row in catalog.TASKS])
    def test_what_a_control_sends_untouched_is_the_default(self, slug):
        described = json.loads(json.dumps(methods.describe(slug)))
        sent = {option["name"]: option["default"] for option in described["options"]}
        assert config.check(slug, sent) == {option.name: option.default for option in config.options(slug)}
        for option in described["options"]:
            assert option["control"]["kind"] in ("switch", "choice", "number", "parts", "text"), option

    def test_controls_follow_types(self):
        control = methods.control
        assert control(bool, True) == {"kind": "switch"}
        assert control(float, 0.75) == {
            "kind": "number",
            "whole": False,
            "low": 0.0,
            "high": 1.0,
            "step": 0.01,
        }
        assert control(int | None, None) == {"kind": "number", "whole": True, "optional": True}
        assert control(config.Literal["a", 3], "a") == {"kind": "choice", "choices": ["a", "3"]}
        assert [part["kind"] for part in control(tuple[float, int], (0.2, 3))["parts"]] == [
            "number",
            "number",
        ]
        assert control(tuple[str, ...], ("a",)) == {"kind": "text"}
        assert control(int | str, 3) == {"kind": "text", "optional": False}

    @pytest.mark.parametrize(
        ("whole", "default"), [(False, 0.0), (False, 1e-4), (False, 35.0), (True, 0), (True, 10_000)]
    )
    def test_a_slider_reaches_its_default(self, whole, default):
        found = methods.slider(whole, default)
        assert found["low"] <= default <= found["high"] and 0 < found["step"] <= found["high"] / 5

    def test_one_that_there_is_not(self, client):
        assert "did you mean" in client.get("/api/method/rotatoin", 400)["error"]


class TestPuzzles:
    def test_on_ones_own_data(self, client):
        found = client.preview(slug="rotation")
        assert found["own"] and found["data"].startswith("digits") and len(found["rows"]) == 4
        for row in found["rows"]:
            assert [panel["role"] for panel in row] == ["input", "truth"], "nobody was asked: no answers"
            assert row[0]["width"] == 16 and row[0]["uri"].startswith("data:image/png;base64,")

    def test_an_option_and_the_seed_change_it(self, client):
        first = client.preview(slug="rotation")
        assert client.preview(slug="rotation", seed=0) == first
        assert client.preview(slug="rotation", seed=1)["rows"] != first["rows"]
        assert client.preview(slug="rotation", options={"crop_scale": [0.1, 0.1]})["rows"] != first["rows"]
        assert client.preview(slug="rotation", options={"crop_scale": "0.25,1"})["rows"] == first["rows"]

    def test_the_kind_of_ones_own_data(self, client, tmp_path):
        assert client.get("/api/data") == {"kind": "image"}
        (tmp_path / "a.ply").write_text("")
        assert Puzzles(tmp_path).kind() == "points" and Puzzles().kind() is None
        assert Puzzles(tmp_path, "pose").kind() == "pose"

    def test_other_kinds_of_data_are_shown_on_embedded_sets(self, client):
        found = client.preview(slug="ppt")
        assert not found["own"] and found["rows"][0][0]["look"] == "scene"

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"slug": "rotation", "options": {"crop": 1}}, "crop_scale"),
            ({"slug": "rotation", "options": {"jitter": "much"}}, "must be float"),
            ({"slug": "nothing"}, "no method"),
            ({"slug": "rotation", "seed": -1}, "seed"),
            ({"slug": "rotation", "options": [1]}, "object"),
            ({"slug": "power-of-foundation-models"}, "nothing to train"),
            ({"run": "nowhere"}, "no run"),
            ({"run": "begun"}, "no checkpoint"),
        ],
    )
    def test_what_is_wrong_is_said(self, client, body, words):
        assert words in client.preview(400, **body)["error"]

    def test_data_that_cannot_be_read(self, tmp_path):
        (tmp_path / "bad.png").write_text("this is no picture")
        gallery = Gallery(Puzzles(tmp_path))
        with pytest.raises(pretask.errors.PretaskError, match="bad.png"):
            gallery.post("/api/preview", {"slug": "rotation"})

    def test_a_run_answers(self, client):
        found = client.preview(run="trained", seed=3)
        assert "answer" in {panel["role"] for panel in found["rows"][0]}


CONTENTS = {
    "image": torch.rand(3, 8, 8),
    "text": "words",
    "video": torch.rand(3, 5, 8, 8),
    "audio": torch.sin(torch.arange(800) / 5),
    "points": torch.rand(50, 6),
    "volume": torch.rand(1, 4, 8, 8),
    "graph": torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
    "pose": torch.rand(7, 5, 6),
    "track": torch.rand(2, 9, 2),
}


class TestPanels:
    @pytest.mark.parametrize("kind", get_args(Kind))
    def test_every_kind_has_a_look_that_the_page_knows(self, kind):
        shown = to_plain(Panel("a caption", CONTENTS[kind], "input", kind), rate=8000)
        script = (STATIC / "panels.js").read_text()
        assert f"\n  {shown['look']}: " in script or f"\n  {shown['look']}," in script
        assert json.loads(json.dumps(shown))["caption"].startswith("a caption")

    def test_sound_is_what_it_was(self):
        shown = to_plain(Panel("", CONTENTS["audio"], "input", "audio"), rate=8000)
        with wave.open(io.BytesIO(base64.b64decode(shown["wav"].partition(",")[2]))) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 800)
            heard = np.frombuffer(file.readframes(800), "<i2") / 32767
        np.testing.assert_allclose(heard, CONTENTS["audio"].numpy(), atol=1e-4)

    def test_places_are_kept_and_unknown_ones_marked(self):
        joints = torch.tensor([[[0.0, 0, 0], [2, 0, 0]], [[0, 4, 0], [torch.nan, 0, 0]]])
        shown = to_plain(Panel("", joints, "input", "pose"), rate=1)
        places = np.frombuffer(base64.b64decode(shown["places"]), "<i2").reshape(2, 2, 3)
        assert (places[1, 1] == -32768).all()
        known = places[[0, 0, 1], [0, 1, 0]] / 32767 * shown["reach"]
        np.testing.assert_allclose(known, [[-1, -2, 0], [1, -2, 0], [-1, 2, 0]], atol=1e-3)

    def test_a_clip_is_cut_to_what_a_page_can_play(self):
        shown = to_plain(Panel("", torch.rand(1, 300, 400, 200), "input", "video"), rate=1)
        assert (shown["count"], shown["width"], shown["height"]) == (64, 80, 160)

    @pytest.mark.parametrize("kind", ["video", "volume", "points", "pose", "track", "image"])
    def test_content_of_another_shape_is_refused(self, kind):
        with pytest.raises(UsageError, match="holds"):
            to_plain(Panel("", torch.rand(3), "input", kind), rate=1)


class TestRuns:
    def test_all_are_listed_the_broken_one_with_why(self, client):
        runs = {run["name"]: run for run in client.get("/api/runs")["runs"]}
        assert set(runs) == {"good", "deep/er & more", "trained", "broken", "begun"}
        assert runs["broken"]["state"] == "broken" and "config.yaml" in runs["broken"]["problem"]
        assert runs["good"]["state"] == "finished" and "71.0 %" in runs["good"]["score"]
        assert runs["begun"]["state"] == "training" and runs["begun"]["steps"] == 100
        assert runs["good"]["loss"][0] > runs["good"]["loss"][-1]

    def test_a_page_of_one(self, client):
        page = client.get(f"/api/run/{quote('deep/er & more', safe='')}")
        assert page["slugs"] == ["simclr"] and "<svg" in page["top"] and "Leaderboard" not in page["top"]
        assert "step-" not in page["top"] and page["top"].count("data:image/webp") == 3
        assert "<script" not in page["top"] + page["rest"]

    def test_it_moves_when_the_run_does(self, client, place):
        before = client.get("/api/run/begun")
        (place / "runs" / "begun" / "metrics.csv").write_text("step,loss/mae\n1,1.5\n2,1.2\n")
        after = client.get("/api/run/begun")
        assert before["stamp"] != after["stamp"] and (before["step"], after["step"]) == (0, 2)
        assert after["alive"] and "1.5" in after["top"]

    def test_a_map(self, client):
        found = client.get("/api/map/good")
        assert len(found["data"]["x"]) == 30 and "<canvas" in found["html"]
        assert "No features were kept" in client.get("/api/map/begun")["html"]

    def test_several(self, client):
        both = client.get(f"/api/compare?run=good&run={quote('deep/er & more')}&run=broken")
        assert "Rotation prediction is best" in both["html"] and both["left_out"][0].startswith("broken:")
        assert "choose" in client.get("/api/compare?run=broken", 400)["error"]

    def test_none(self, tmp_path):
        assert "no folder" in Shelf(tmp_path / "nowhere").overview()["problem"]
        assert "no run yet" in Shelf(tmp_path).overview()["problem"]

    def test_a_run_folder_itself(self, place):
        assert [run["name"] for run in Shelf(place / "runs" / "good").overview()["runs"]] == ["good"]


def test_evidence_with_broken_files_named(client):
    found = client.get("/api/evidence")
    assert [row["slug"] for row in found["rows"]] == ["power-of-foundation-models"]
    assert found["rows"][0]["plot"].startswith("<svg") and found["rows"][0]["comparisons"]
    assert len(found["problems"]) == 2 and any("half.json" in problem for problem in found["problems"])
    assert "Rotation prediction" in found["waiting"]


def test_numbers_that_json_does_not_know():
    assert finite({"a": [1.0, float("nan")], "b": (float("inf"), "x")}) == {
        "a": [1.0, None],
        "b": [None, "x"],
    }
