"""The page of a trained model: answers and refusals, many requests at once, and the page in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.testclient import TestClient
from support.linear import exact_posterior, linear_run
from support.processes import Child
from support.toys import here, write_circle

import modalkit
from modalkit.inference import TrainedModel
from modalkit.model import assemble
from modalkit.playground.app import make_app
from modalkit.playground.controls import controls
from modalkit.playground.gate import MOST_BYTES
from modalkit.playground.server import make_server
from modalkit.plugin import Schema
from modalkit.recipe.loading import load_recipe
from modalkit.runs.checkpoint import save_weights

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RECIPE = """\
data: {path: DATA}
modalities:
  image: {kind: image, size: 12, channels: 1, network: {type: mlp, hidden: [16], decoder_hidden: [16]}}
  position: {kind: vector, size: 2}
  class: {kind: label, classes: 3}
  counts: {kind: counts, size: 2}
  text: {kind: tokens, alphabet: "abc./", max_length: 6}
  smiles: {kind: bit}
  wears: {kind: attributes, names: [hat, glasses]}
model: {latent_dim: 4}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven modalities, as trained as its first weights; of four of them a dataset is there."""
    folder = tmp_path_factory.mktemp("playground")
    data = write_circle(folder)
    rows = 120
    dataset = modalkit.Dataset(data)
    batch = dataset[torch.arange(rows)]
    extra = {
        "text": modalkit.schema("tokens", alphabet="abc./", max_length=6),
        "smiles": modalkit.schema("bit"),
        "wears": modalkit.schema("attributes", names=["hat", "glasses"]),
    }
    known = {
        "image": modalkit.schema("image", size=12, channels=1),
        "position": modalkit.schema("vector", size=2),
        "class": modalkit.schema("label", classes=3),
        "counts": modalkit.schema("counts", size=2),
    }
    values: dict[str, Any] = {n: batch.values[n] for n in known}
    values |= {"text": ["abc"] * rows, "smiles": torch.ones(rows).long(), "wears": torch.ones(rows, 2).long()}
    present = {n: batch.present[:, i] for i, n in enumerate(dataset.names)}
    modalkit.write_dataset(folder / "whole", known | extra, values, present=present)
    path = folder / "run"
    (path / "checkpoints").mkdir(parents=True)
    (path / "recipe.yaml").write_text(RECIPE.replace("DATA", str(folder / "whole")))
    save_weights(path / "checkpoints" / "best.safetensors", assemble(load_recipe(path / "recipe.yaml")))
    return path


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return modalkit.load(run)


@pytest.fixture(scope="module")
def client(model: TrainedModel) -> TestClient:
    return TestClient(make_app(model), base_url="http://localhost")


NUMBER = {name: str(i) for i, name in enumerate(("image", "position", "class", "counts", "text", "smiles", "wears"))}


def picture(size: tuple[int, int] = (50, 70), mode: str = "RGB", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    noise = Image.fromarray((np.random.default_rng(0).random((*size, 3)) * 255).astype(np.uint8))
    noise.convert(mode).save(file, form)
    return file.getvalue()


def post(client: Any, address: str, values: dict[str, Any], want: list[str], **fields: Any) -> Any:
    """Ask as the page does: values by modality, bytes for an upload, None for what is taken from the row."""
    known = {"known": [NUMBER[n] for n in values], "want": [NUMBER[n] for n in want]}
    own = {f"value-{NUMBER[n]}": v for n, v in values.items() if v is not None}
    files = {n: ("../../etc/passwd", v) for n, v in own.items() if isinstance(v, bytes)}
    texts = {n: v for n, v in own.items() if not isinstance(v, bytes)}
    return client.post(address, data=known | texts | fields, files=files or {"none": b""})


def test_every_kind_has_a_control_that_fits(model: TrainedModel) -> None:
    found = {one.name: (one.form, one.options) for one in controls(model)}
    assert found == {
        "image": ("picture", ()),
        "position": ("text", ()),
        "class": ("choice", ("0", "1", "2")),
        "counts": ("text", ()),
        "text": ("text", ()),
        "smiles": ("choice", ("no", "yes")),
        "wears": ("flags", ("hat", "glasses")),
    }


@pytest.mark.parametrize(
    ("mode", "form"), [("RGB", "PNG"), ("L", "JPEG"), ("P", "GIF"), ("CMYK", "TIFF"), ("RGB", "WEBP")]
)
def test_an_upload_is_answered_as_the_library_answers(
    model: TrainedModel, client: TestClient, tmp_path: Path, mode: str, form: str
) -> None:
    (tmp_path / "photo").write_bytes(content := picture(mode=mode, form=form))
    said = post(client, "/answer", {"image": content, "class": "1"}, ["position", "class"], seed=3).json()
    expected = model.infer({"image": tmp_path / "photo", "class": 1}, ["position", "class"], 8, seed=3)
    position, label = said["predictions"]
    assert position["value"] == {"text": expected["position"].show()} and len(position["samples"]) == 8
    assert position["samples"][2] == {"text": expected["position"].show(0, 2)}
    probabilities = expected["class"].probabilities
    assert probabilities is not None
    assert label["classes"][0] == [expected["class"].show(), pytest.approx(float(probabilities.max()))]
    assert said["loc"] == pytest.approx(expected.posterior.loc[0].tolist(), abs=1e-6)


def test_values_of_every_control(model: TrainedModel, client: TestClient) -> None:
    values = {"position": "0.5, 1", "counts": "3 4", "text": "ab", "smiles": "1", "wears": ["1"]}
    said = post(client, "/answer", values, ["image"]).json()
    given = {"position": [0.5, 1.0], "counts": [3, 4], "text": "ab", "smiles": "yes", "wears": "glasses"}
    assert said["loc"] == pytest.approx(model.embed(given).loc[0].tolist(), abs=1e-6)
    assert said["predictions"][0]["value"]["picture"].startswith("data:image/png;base64,")
    none = post(client, "/answer", {"wears": ""}, ["class"]).json()
    assert none["loc"] == pytest.approx(model.embed({"wears": "none"}).loc[0].tolist(), abs=1e-6)


def test_rows_of_the_dataset_are_examples(model: TrainedModel, client: TestClient) -> None:
    assert re.findall(r'name="row" value="(\d+)"', client.get("/").text) == [str(i) for i in range(12)]
    cells = client.get("/rows/0").json()["cells"]
    assert "picture" in cells[0] or cells[0] is None
    said = post(client, "/answer", {"position": None, "text": "a"}, ["class"], row=0).json()
    dataset = modalkit.Dataset(model.recipe.data.path)
    row = dataset.rows("test")[:1]
    expected = model.embed({"position": dataset[row].values["position"], "text": "a"})
    assert said["loc"] == pytest.approx(expected.loc[0].tolist(), abs=1e-6)
    assert client.get("/rows/12").status_code == 404
    assert client.get(f"/rows/{'1' * 5000}").status_code == 404
    absent = next(i for i in range(12) if client.get(f"/rows/{i}").json()["cells"][2] is None)
    refused = post(client, "/answer", {"class": None}, ["image"], row=absent)
    assert refused.status_code == 422 and "modality 'class': that row does not have it" in refused.json()["error"]


def test_the_posterior_sharpens_by_its_closed_form(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    for head in run.model.heads.values():
        with torch.no_grad():
            head.bias[:2] = 0  # type: ignore[index]  # the evaluation's tests shift the experts on purpose
    client = TestClient(make_app(TrainedModel(run.model, run.recipe, run.path, "")), base_url="http://localhost")
    form = {"known": ["2", "0"], "value-2": "1 2", "value-0": "0.5 0", "want": ["1"]}
    steps = client.post("/answer", data=form).json()["steps"]
    assert [step["added"] for step in steps] == [None, "c", "a"]
    given = {"c": torch.tensor([1.0, 2.0]), "a": torch.tensor([0.5, 0.0])}
    for step, known in zip(steps, ({}, {"c": given["c"]}, given), strict=True):
        loc, scale = exact_posterior(known)
        posterior = torch.distributions.Normal(loc, scale)
        kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(torch.zeros(2).double(), 1.0))
        assert step["scale"] == pytest.approx(float(scale.mean())) and step["kl"] == pytest.approx(float(kl.sum()))


def test_subsets_without_a_posterior_are_named(tmp_path: Path) -> None:
    run = linear_run(tmp_path, "{name: jmvae}")
    client = TestClient(make_app(TrainedModel(run.model, run.recipe, run.path, "")), base_url="http://localhost")
    form = {"known": ["0", "1", "2"], "value-0": "1 2", "value-1": "1 2", "value-2": "1 2", "want": ["1"]}
    steps = client.post("/answer", data=form).json()["steps"]
    assert [step["kl"] is None for step in steps] == [False, False, True, False]
    refused = client.post("/answer", data=form | {"known": ["0", "1"]})
    assert refused.status_code == 422 and "no posterior given a, b" in refused.json()["error"]


def test_walking_decodes_the_point(model: TrainedModel, client: TestClient) -> None:
    z = [0.5, -1.0, 2.0, 0.0]
    said = post(client, "/walk", {}, ["position", "class"], z=json.dumps(z)).json()["predictions"]
    found = model.decode(torch.tensor([z]), ["position", "class"])
    assert [one["value"]["text"] for one in said] == [found[n].show() for n in ("position", "class")]
    assert torch.equal(found["position"].value, model.model.predict("position", torch.tensor([z])).detach())
    for wrong in (
        "[1, 2]",
        "[1, 2, 3, NaN]",
        "x",
        '{"1": 0, "2": 0, "3": 0, "3": 1}',
        "1234",
        '["1", 2, 3, 4]',
        "[" * 99,
    ):
        refused = post(client, "/walk", {}, ["class"], z=wrong)
        assert refused.status_code == 422 and "list of 4 numbers" in refused.json()["error"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({"image": b"%PDF-1.7"}, "modality 'image': the upload is no picture that can be read"),
    "cut": ({"image": picture()[:300]}, "modality 'image': the upload is no picture"),
    "script": ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "no picture that can be read"),
    "pixels": (
        {"image": picture((1, 1)).replace(b"\0\0\0\1\0\0\0\1", b"\0\0\xff\xff\0\0\xff\xff")},
        "no picture|pixels",
    ),
    "text for picture": ({"image": "/etc/passwd"}, "choose a picture to upload"),
    "class": ({"class": "7"}, "modality 'class': give a value"),
    "flag": ({"wears": ["0", "x"]}, "modality 'wears': give a value"),
    "numbers": ({"position": "1"}, "modality 'position': '1': give 2 finite numbers"),
    "path": ({"text": "/a.b"}, ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(client: TestClient, case: str) -> None:
    values, message = WRONG[case]
    refused = post(client, "/answer", values, ["counts"])
    if message:
        assert refused.status_code == 422 and re.search(message, refused.json()["error"])
    else:
        assert refused.status_code == 200  # a string like another


def test_large_pictures_are_refused_by_their_header(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalkit.playground.controls.MOST_PIXELS", 1000)
    refused = post(client, "/answer", {"image": picture()}, ["class"])
    assert refused.status_code == 422 and "70 x 50 pixels" in refused.json()["error"]


@pytest.mark.parametrize("name", ["secret.txt", "secret.npy", "secret.json", "secret"])
def test_no_text_of_a_form_is_opened(
    run: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The library opens such paths, and a kind's read may; the page opens none."""
    (tmp_path / name).write_text("[1, 2]")
    monkeypatch.chdir(tmp_path)
    for text in (name, str(tmp_path / name)):
        refused = post(client, "/answer", {"position": text}, ["class"])
        assert refused.status_code == 422 and "not numbers" in refused.json()["error"]

    def read(schema: Schema, source: str) -> torch.Tensor:
        return torch.tensor(json.loads(Path(source).read_text())).float()

    from modalkit import registry

    opening = registry.modality("vector").__class__(**{**vars(registry.modality("vector")), "read": read})
    monkeypatch.setattr(registry, "modality", lambda kind: opening)
    assert read(modalkit.schema("vector", size=2), name).tolist() == [1, 2]
    refused = post(client, "/answer", {"position": name}, ["position"])
    assert refused.status_code == 422 and "names no file" in refused.json()["error"]


def test_only_this_machines_names_are_answered(model: TrainedModel, client: TestClient) -> None:
    for host, status in {
        "localhost:8000": 200, "127.0.0.1": 200, "[::1]:8000": 200, "LOCALHOST": 200,
        "evil.example": 421, "127.0.0.1.evil.example": 421, "192.168.0.7": 421, "": 421, "[": 421,
    }.items():  # fmt: skip
        assert client.get("/", headers={"host": host}).status_code == status, host
    open_ = TestClient(make_app(model, "0.0.0.0"))
    assert open_.get("/", headers={"host": "192.168.0.7:80"}).status_code == 200
    assert open_.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.post("/answer", headers={"origin": "http://["}).status_code == 403
    assert client.post("/walk", data={"z": f"[1{'0' * 400}]"}).status_code == 422
    foreign = client.post("/answer", headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert client.post("/answer", data={"want": "2"}, headers={"origin": "http://localhost"}).status_code == 200


def test_every_answer_has_strict_headers(client: TestClient) -> None:
    for address in ("/", "/static/playground.js", "/rows/0", "/nowhere", "/static/../app.py", "/static/%2e%2e/app.py"):
        answer = client.get(address)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert ("py" in address) == (answer.status_code == 404) or address == "/nowhere"
    page = client.get("/").text
    assert not re.findall(r'(?:src|href)="(?!static/|data:)', page) and "style=" not in page and "onclick" not in page


def test_a_field_that_is_given_twice_is_refused(client: TestClient) -> None:
    for address, field, values in (("/answer", "seed", ["1", "2"]), ("/walk", "z", ["[1, 2, 3, 4]", "[0, 0, 0, 0]"])):
        refused = post(client, address, {}, ["class"], **{field: values})
        assert refused.status_code == 422 and f"{field}: give one text, once" in refused.json()["error"]
    chosen = post(client, "/answer", {"image": None}, ["class"], row=["0", "1"])
    assert chosen.status_code == 422 and "row: give" in chosen.json()["error"]


def test_too_much_at_once_is_refused(client: TestClient) -> None:
    large = {"content-length": str(MOST_BYTES + 1), "content-type": "multipart/form-data; boundary=x"}
    assert client.post("/answer", headers=large, content=b"").status_code == 413
    endless = (b"--x\r\ncontent-disposition: form-data; name=a; filename=b\r\n\r\n", *[b"a" * (1 << 20)] * 40)
    refused = client.post("/answer", content=iter(endless), headers={"content-type": large["content-type"]})
    assert refused.status_code == 413 and "32 MiB" in refused.json()["error"]
    assert post(client, "/answer", {"text": "a" * 100_000}, ["class"]).status_code in (400, 422)


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[tuple[str, Child]]:
    """The real command."""
    process = Child("serve", run, "--port", 0, cwd=run.parent)
    address = process.line().split()[0]
    yield address, process
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and process.stderr.splitlines()[1:] == ["stopped"]


def test_fifty_at_once_wait_their_turn(served: tuple[str, Child]) -> None:
    address, process = served

    def resident() -> int:
        return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0]) >> 10

    content = picture((600, 800))
    with httpx.Client(base_url=address, timeout=120, limits=httpx.Limits(max_connections=50)) as client:
        post(client, "/answer", {"image": content}, ["image"])
        before = resident()
        with ThreadPoolExecutor(50) as threads:
            asked = [threads.submit(post, client, "/answer", {"image": content}, ["image"], seed=1) for _ in range(50)]
            answers = [one.result() for one in asked]
    assert [one.status_code for one in answers] == [200] * 50
    assert len({json.dumps(one.json()["predictions"]) for one in answers}) == 1
    assert resident() - before < 200, "MiB more than one request takes"


FORM = (
    b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: %d\r\n\r\nx"
)


def test_those_who_ask_nothing_keep_nobody_out(served: tuple[str, Child]) -> None:
    address, _ = served
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(300)]
        for number, one in enumerate(idle):  # nothing, half a head, or some of a large body
            one.sendall((b"", FORM[:30], FORM % (1 << 24) if number > 200 else b"")[number % 3])
        with httpx.Client(base_url=address, timeout=20) as client:
            assert post(client, "/answer", {"position": "1, 0"}, ["class"]).status_code == 200
        assert idle[0].recv(1) == b""  # the longest idle ones made room


def test_a_slow_body_is_refused_and_an_idle_connection_closed(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modalkit.playground.connections.SECONDS_TO_ASK", 0.2)
    monkeypatch.setattr("modalkit.playground.gate.SECONDS_TO_BEGIN", 0.2)
    with serving(model) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 20) as slow:
            slow.sendall(FORM % 9)
            assert slow.recv(999).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", port), 20) as idle:
            idle.sendall(b"GET /rows/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while part := idle.recv(1 << 20):  # the end: it asked once, and then nothing
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A page in the browser, whose scripts raise nothing and break no policy."""
    page = browser.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if "Security" in message.text else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    assert wrong == []


@pytest.fixture(scope="module")
def page(browser: Browser, served: tuple[str, Child]) -> Iterator[Page]:
    with opened(browser, served[0]) as page:
        yield page


def test_the_page_in_a_browser(page: Page) -> None:
    expect(page.get_by_role("status")).to_contain_text("given image")  # the first row, as it opens
    page.locator("#known-1").check()
    expect(page.get_by_role("status")).to_contain_text("given image, position")
    expect(page.get_by_alt_text("class, the truth").or_(page.get_by_text("truth")).first).to_be_visible()
    page.get_by_label("Upload a picture for image").set_input_files(
        {"name": "a.png", "mimeType": "", "buffer": picture()}
    )
    expect(page.get_by_alt_text("image, as the model sees it")).to_be_visible()
    expect(page.locator("#known-1")).not_to_be_checked()  # the row's position is not the upload's
    expect(page.get_by_text("truth", exact=True)).to_have_count(0)
    page.locator("#known-2").check()
    page.get_by_label("class", exact=True).select_option("2")
    expect(page.get_by_role("status")).to_contain_text("given image, class")
    rows = page.locator("#steps tr")
    expect(rows).to_have_count(3)
    assert "nothing" in rows.nth(0).inner_text() and "+ class" in rows.nth(2).inner_text()
    page.locator("#want-0").check()
    expect(page.get_by_alt_text("image, sample 8")).to_be_visible()
    before = page.get_by_alt_text("image, sample 8").get_attribute("src")
    page.get_by_role("button", name="Sample again").click()
    expect(page.get_by_alt_text("image, sample 8")).not_to_have_attribute("src", str(before))
    walked = page.get_by_alt_text("image decoded from this point")
    expect(walked).to_be_visible()
    at = walked.get_attribute("src")
    page.locator("#sliders input").first.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_alt_text("image decoded from this point")).not_to_have_attribute("src", str(at))
    page.get_by_role("button", name="Back to the posterior").click()
    expect(page.get_by_alt_text("image decoded from this point")).to_have_attribute("src", str(at))


def test_a_wrong_file_in_a_browser(page: Page) -> None:
    upload = page.get_by_label("Upload a picture for image")
    upload.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("modality 'image': the upload is no picture")
    upload.set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": picture()})
    expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_role("radio").nth(3).check()
    expect(page.locator("#source-0")).to_contain_text("row ")


@contextmanager
def serving(model: TrainedModel) -> Iterator[str]:
    """The address at which a thread of this process serves a model."""
    server = make_server(make_app(model))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


PICTURES = """\
data: {path: DATA}
modalities:
  edges: {kind: edges, size: 12, network: &small {type: mlp, hidden: [4]}}
  age: {kind: vector, size: 1}
  mask: {kind: landmarks, size: 12, network: *small}
  colour: {kind: image, size: 12, channels: 3, network: *small}
  gray: {kind: image, size: 12, channels: 1, network: *small}
  other: {kind: image, size: 12, channels: 3, network: *small}
  class: {kind: label, classes: 3}
model: {latent_dim: 2}
"""


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A model of five pictures, a number and a class, not trained; the first rows lack the gray picture."""
    folder = tmp_path_factory.mktemp("portraits")
    (folder / "recipe.yaml").write_text(PICTURES.replace("DATA", str(folder / "data")))
    recipe = load_recipe(folder / "recipe.yaml")
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        name: random.integers(0, 256 if schema.kind == "image" else 2, (40, *schema.event_shape)).astype(np.uint8)
        for name, schema in recipe.modalities.items()
        if len(schema.event_shape) == 3
    }
    values |= {"age": random.normal(size=(40, 1)), "class": random.integers(0, 3, 40)}
    present, split = {"gray": np.arange(40) > 25}, ["train"] * 20 + ["test"] * 20
    modalkit.write_dataset(folder / "data", recipe.modalities, values, present=present, split=split)
    return TrainedModel(assemble(recipe).eval(), recipe, folder, "")


def shown(page: Page) -> list[str]:
    """The answers on the page: its pictures and texts of predictions, posteriors and points of the latent space."""
    return page.locator("#answer figcaption, #steps tr, #sliders label, #walked figcaption").all_inner_texts()


def test_the_page_opens_with_colour_from_gray(portraits: TrainedModel) -> None:
    first = TestClient(make_app(portraits), base_url="http://localhost").get("/").text
    assert re.findall(r'data-name="(\w+)"[^>]*data-first="(\w+)"', first) == [("colour", "want"), ("gray", "known")]
    start = int(re.findall(r'value="(\d+)" data-start', first)[0])
    client = TestClient(make_app(portraits), base_url="http://localhost")
    gray = [client.get(f"/rows/{row}").json()["cells"][4] for row in range(12)]
    assert gray[start] and not any(gray[:start]) and start > 0


def test_an_upload_clears_what_does_not_belong_to_it(browser: Browser, portraits: TrainedModel) -> None:
    with serving(portraits) as address, opened(browser, address) as page:
        expect(page.get_by_role("status")).to_contain_text("colour, given gray ·")
        expect(page.get_by_alt_text("colour, the truth")).to_be_visible()
        page.locator("#known-1").check()
        page.locator("#known-6").check()
        expect(page.get_by_role("status")).to_contain_text("colour, given gray, age, class ·")
        page.route("**/answer", lambda route: None)  # the answer does not come
        page.locator("#own-5").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
        expect(page.locator("#source-5")).to_have_text("your own value")
        assert shown(page) == [] and page.get_by_role("status").inner_text() == ""
        assert page.locator(".strip :checked").count() == 0 and page.locator(".preview img").count() == 0
        assert page.locator(".source").all_inner_texts() == [""] * 5 + ["your own value", ""]
        assert page.locator("#own-1").input_value() == "" and page.locator("#own-6").input_value() == "0"
        page.unroute("**/answer")
        page.locator("#want-0").check()
        expect(page.get_by_role("status")).to_contain_text("edges, colour, given other ·")
        assert page.get_by_text("truth", exact=True).count() == 0
        assert page.locator(".preview img").count() == 1  # the upload, as the model sees it
        assert "mean" in shown(page) and page.locator("#steps tr").count() == 2

        upload = {"name": "b.png", "mimeType": "image/png", "buffer": b"no picture"}
        page.locator("#own-4").set_input_files(upload)
        expect(page.get_by_role("alert")).to_contain_text("modality 'gray': the upload is no picture")
        assert shown(page) == [] and page.locator("#preview-4 img").count() == 0
        page.locator("#own-4").set_input_files([])  # the user takes it back
        expect(page.get_by_role("status")).to_contain_text("given other ·")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_row_that_arrives_after_an_upload_is_dropped(browser: Browser, portraits: TrainedModel) -> None:
    with serving(portraits) as address, opened(browser, address) as page:
        expect(page.get_by_alt_text("colour, the truth")).to_be_visible()
        held: list[Any] = []
        page.route("**/rows/11", lambda route: held.append(route))
        page.locator(".strip input").nth(11).check()
        page.locator("#own-3").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
        expect(page.get_by_role("status")).to_contain_text("given colour ·")  # colour alone was wanted, so now the rest
        with page.expect_response("**/rows/11"):
            held[0].continue_()
        page.get_by_role("button", name="Sample again").click()
        expect(page.get_by_role("status")).to_contain_text("edges, age, mask, gray, other, class, given colour ·")
        assert (
            page.get_by_text("truth", exact=True).count() == 0 and "row" not in page.locator("#source-1").inner_text()
        )
        page.unroute("**/rows/11")
        page.route("**/rows/3", lambda route: route.abort())
        page.locator(".strip input").nth(3).check()
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        assert shown(page) == []


def test_answers_begin_on_the_first_screen_of_a_phone(browser: Browser, portraits: TrainedModel) -> None:
    with serving(portraits) as address, opened(browser, address) as page:
        page.set_viewport_size({"width": 390, "height": 800})
        for name in ("colour, the truth", "colour, predicted mean"):
            expect(page.get_by_alt_text(name)).to_be_in_viewport(ratio=1)
        last = page.locator("#known-6")
        last.check()  # the cards are swiped
        expect(page.get_by_role("status")).to_contain_text("given gray, class ·")
        expect(page.get_by_alt_text("colour, predicted mean")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_fits_a_phone_and_a_desktop(browser: Browser, portraits: TrainedModel, tmp_path: Path) -> None:
    """What it looks like is kept if MODALKIT_SCREENSHOTS names a folder: phone.png and desktop.png."""
    folder = Path(os.environ.get("MODALKIT_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    with serving(portraits) as address, opened(browser, address) as page:
        for name, size in (("phone", (390, 800)), ("desktop", (1280, 800))):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            expect(page.get_by_alt_text("colour, predicted mean")).to_be_in_viewport(ratio=1)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            page.screenshot(path=folder / f"{name}.png")
            with Image.open(folder / f"{name}.png") as picture:
                assert picture.size == size
                assert picture.convert("RGB").getcolors(20) is None  # a blank page has one colour, plain text a few


def test_everything_on_the_page_has_a_name(page: Page) -> None:
    for control in page.locator("input, select, button").all():
        assert control.evaluate("e => (e.labels && e.labels.length) || e.ariaLabel || e.textContent.trim()"), control
    assert page.locator("img:not([alt])").count() == 0
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_serve_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    nothing = here("serve", "nowhere", cwd=tmp_path)
    assert nothing.returncode == 2 and "is not a run" in nothing.stderr
    host = here("serve", run, "--host", "no.such.name.invalid", cwd=tmp_path)
    assert host.returncode == 2 and "--host no.such.name.invalid" in host.stderr


def test_a_port_that_is_taken_is_said(run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = here("serve", run, "--port", port, cwd=tmp_path)
    assert taken.returncode == 2 and f"port {port}" in taken.stderr and "--port 0 takes a free one" in taken.stderr


def test_a_conditional_model_is_walked_under_its_condition(tmp_path: Path) -> None:
    text = "data: {path: x}\nmodalities:\n  position: {kind: vector, size: 2}\n  class: {kind: label, classes: 3}\n"
    (tmp_path / "cvae.yaml").write_text(f"{text}model: {{latent_dim: 2}}\nobjective: {{name: cvae}}\n")
    recipe = load_recipe(tmp_path / "cvae.yaml")
    conditional = TrainedModel(assemble(recipe).eval(), recipe, tmp_path, "")
    client = TestClient(make_app(conditional), base_url="http://localhost")
    page = client.get("/").text
    assert page.count("data-alone") == 1 and page.count('class="want"') == 1  # class is given, position is predicted
    form = {"want": ["0"], "z": "[0.5, 1]"}
    walked = [client.post("/walk", data=form | {"known": "1", "value-1": k}).json()["predictions"] for k in "02"]
    decoded = conditional.decode(torch.tensor([[0.5, 1.0]] * 2), ["position"], {"class": [0, 2]})["position"]
    assert [one[0]["value"]["text"] for one in walked] == [decoded.show(0), decoded.show(1)] and walked[0] != walked[1]
    refused = client.post("/walk", data=form)
    assert refused.status_code == 422 and "no posterior given nothing" in refused.json()["error"]


def test_serve_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modalkit.playground.server", None)
    monkeypatch.delitem(sys.modules, "modalkit.playground.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused = here("serve", run, cwd=tmp_path)
    assert refused.returncode == 2 and "pip install 'modalkit-vae[serve]'" in refused.stderr
