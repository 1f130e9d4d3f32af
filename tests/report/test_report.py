"""Pages of runs, and runs side by side, through the command line and in a browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.toys import here, train_circle, write_circle, write_recipe
from torch.distributions import Normal, kl_divergence

import modalkit
from modalkit.inference import Embedding
from modalkit.model import assemble
from modalkit.recipe.loading import load_recipe
from modalkit.report.calibration import reliability
from modalkit.report.latent import divergence
from modalkit.runs.checkpoint import save_weights
from modalkit.runs.folder import RunFolder, claim

MIXED = """\
description: Six kinds <of> things & more
data: {path: DATA}
modalities:
  image: {kind: image, size: 8, channels: 3, network: &small {type: mlp, hidden: [8], decoder_hidden: [8]}}
  class: {kind: label, names: [cat, dog, "<b>"], network: *small}
  bit: {kind: bit, network: *small}
  traits: {kind: attributes, names: [tall, quick], network: *small}
  word: {kind: tokens, alphabet: ab, max_length: 3, network: {type: gru, embedding: 4, hidden: 4}}
  position: {kind: vector, size: 2, network: *small}
model: {latent_dim: 3}
train: {epochs: 2, batch_size: 20, accelerator: cpu, log_every: 1, pictures_every: 0}
"""


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img") and tag not in ("path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def titles(self) -> list[str]:
        return [str(one["id"]) for one in self.all("h2")]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run of six kinds."""
    folder = tmp_path_factory.mktemp("report")
    g = torch.Generator().manual_seed(0)
    (folder / "mixed.yaml").write_text(MIXED.replace("DATA", str(folder / "data")))
    schemas = load_recipe(folder / "mixed.yaml").modalities
    bits = torch.randint(2, (120, 4), generator=g)
    modalkit.write_dataset(
        folder / "data",
        schemas,
        {
            "image": torch.randint(256, (120, 3, 8, 8), generator=g),
            "class": torch.randint(3, (120,), generator=g),
            "bit": bits[:, 0],
            "traits": bits[:, 1:3],
            "word": ["ab"[int(b) :] for b in bits[:, 3]],
            "position": torch.randn(120, 2, generator=g),
        },
        present={"class": torch.rand(120, generator=g) < 0.6},
    )
    assert here("train", "mixed.yaml", "--out", "run", cwd=folder).returncode == 0
    return folder


def untrained(folder: Path, name: str, recipe_text: str) -> Path:
    """Make a run as trained as its first weights."""
    path = folder / f"{name}.yaml"
    path.write_text(recipe_text)
    recipe, run = load_recipe(path), folder / name
    (run / "checkpoints").mkdir(parents=True)
    claim(recipe, RunFolder(run))
    save_weights(run / "checkpoints" / "best.safetensors", assemble(recipe))
    return run


def test_a_report_shows_a_run_from_all_sides(mixed: Path) -> None:
    done = here("report", "run", "-o", "page.html", "--rows", "50", cwd=mixed)
    assert done.returncode == 0 and "page.html" in done.stdout
    page = Page(html := (mixed / "page.html").read_text())
    assert page.open == []
    assert page.titles == [
        *("translations", "samples", "learning-curves", "latent-traversals", "latent-map", "who-tells-what"),
        *("calibration", "parameters", "data", "how-it-was-made"),
    ]
    assert len(page.all("table")) == len(page.all("caption")) > 8
    assert html.index("<img") < html.index("Nats per dimension above") < html.index('id="learning-curves"')
    pictures = page.all("img")
    assert pictures and all(str(one["src"]).startswith("data:image/png;base64,") and one["alt"] for one in pictures)
    assert all(one["aria-label"] for one in page.all("svg") if one.get("role") == "img")
    # Nothing from elsewhere, and nothing of a recipe that a browser would take for HTML.
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html) and "url(" not in html and "@import" not in html
    assert "<b>" not in html and "Six kinds <of> things & more" in page.text
    for said in ("only:image", "from position", "calibration error", "2 epochs", "all of them", torch.__version__):
        assert said in page.text, said
    assert {"class", "bit", "traits"} <= set(re.findall(r"[a-z]+", page.text[page.text.index("Brier score") :]))
    assert len(html) < 1_000_000


def test_a_map_is_coloured_by_classes_and_bits_that_only_the_dataset_has(tmp_path: Path) -> None:
    """Those that the map tells apart come first, each once, and brightness last."""
    g = torch.Generator().manual_seed(0)
    bright, noise = torch.arange(60) % 2, torch.randint(2, (60, 4), generator=g)
    image = 60 * torch.rand(60, 1, 8, 8, generator=g) + 180 * bright.reshape(-1, 1, 1, 1)
    schemas = {
        "image": modalkit.schema("image", size=8, channels=1),
        "traits": modalkit.schema("attributes", names=["a", "b", "c", "d", "bright"]),
        "bright": modalkit.schema("bit"),
        "length": modalkit.schema("vector", size=1),
    }
    values = {"image": image.byte(), "traits": torch.cat([noise, bright[:, None]], 1), "bright": bright}
    values["length"] = torch.randn(60, 1, generator=g)
    modalkit.write_dataset(tmp_path / "data", schemas, values, split=["train"] * 10 + ["test"] * 50)
    image_alone = "image: {kind: image, size: 8, channels: 1, network: {type: mlp, hidden: [8], decoder_hidden: [8]}}"
    text = f"data: {{path: {tmp_path}/data}}\nmodalities:\n  {image_alone}\nmodel: {{latent_dim: 2}}\n"
    run = untrained(tmp_path, "run", text)
    assert here("report", run, "-o", "page.html", cwd=tmp_path).returncode == 0
    html = (tmp_path / "page.html").read_text()
    drawn = re.findall(r'class="title"[^>]*>([^<]*)', html[html.index('id="latent-map"') : html.index('id="who-tells')])
    assert drawn[0] == "traits: bright" and drawn[-1] == "image, mean"
    assert sorted(drawn[1:-1]) == [f"traits: {name}" for name in "abcd"]


def test_reports_are_the_same_every_time(mixed: Path) -> None:
    for name in ("one.html", "two.html"):
        assert here("report", "run", "-o", name, cwd=mixed).returncode == 0
    assert (mixed / "one.html").read_text() == (mixed / "two.html").read_text()


def test_without_its_dataset_a_report_says_what_is_left_out(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed / "run", tmp_path / "run")
    recipe = (tmp_path / "run" / "recipe.yaml").read_text()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.replace(str(mixed / "data"), "gone"))
    done = here("report", "run", cwd=tmp_path)
    assert done.returncode == 0 and "left out" in done.stderr and "--data" in done.stderr
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert page.titles == [
        *("left-out", "samples", "learning-curves", "latent-traversals", "parameters", "how-it-was-made"),
    ]
    again = here("report", "run", "--data", mixed / "data", cwd=tmp_path)
    assert again.returncode == 0 and "calibration" in Page((tmp_path / "run" / "report.html").read_text()).titles


def test_what_is_damaged_is_left_out_and_said(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed / "run", tmp_path / "run")
    (tmp_path / "run" / "translations.json").unlink()  # measured anew
    (tmp_path / "run" / "evaluation.json").write_text("{")
    done = here("report", "run", "--rows", "20", cwd=tmp_path)
    assert done.returncode == 0 and "Evaluation: left out" in done.stderr and "evaluation.json" in done.stderr
    assert {"left-out", "translations"} <= set(Page((tmp_path / "run" / "report.html").read_text()).titles)


def test_a_run_without_weights_shows_its_curves(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed / "run", tmp_path / "run", ignore=lambda *_: ["checkpoints"])
    done = here("report", "run", cwd=tmp_path)
    assert done.returncode == 0 and "no weights" in done.stderr
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert page.titles == ["left-out", "learning-curves", "data", "how-it-was-made"]


@pytest.mark.parametrize(
    ("objective", "modalities"),
    [
        ("{name: jmvae}", ["image", "position"]),
        ("{name: bivcca}", ["image", "position"]),
        ("{name: cvae, target: image}", ["image", "position"]),
        ("{name: mopoe}", ["image", "position", "counts"]),
    ],
    ids=["jmvae", "bivcca", "cvae", "mopoe"],
)
def test_objectives_that_do_not_have_every_posterior(objective: str, modalities: list[str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path)).read_text().replace("{warmup_epochs: 1}", objective)
    for name in {"image", "position", "class", "counts"} - set(modalities):
        recipe = re.sub(rf"  {name}:\s*\{{[^{{}}]*\{{[^{{}}]*\}}\}}\n", "", recipe)
    untrained(tmp_path, "run", recipe)
    done = here("report", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "left-out" not in page.titles and {"translations", "samples", "latent-map"} <= set(page.titles)


def test_many_modalities_are_bounded(tmp_path: Path) -> None:
    names = [f"bit{i}" for i in range(40)]
    schemas = {name: modalkit.schema("bit") for name in names}
    values = {name: torch.arange(60) % 2 for name in names}
    modalkit.write_dataset(tmp_path / "data", schemas, values)
    small = "{kind: bit, network: {type: mlp, hidden: [2], decoder_hidden: [2]}}"
    lines = "".join(f"  {name}: {small}\n" for name in names)
    run = untrained(
        tmp_path, "run", f"data: {{path: {tmp_path / 'data'}}}\nmodalities:\n{lines}model: {{latent_dim: 2}}\n"
    )
    assert here("report", "run", "--rows", "20", cwd=tmp_path).returncode == 0
    page = Page(html := (run / "report.html").read_text())
    assert "16 of 40 modalities are shown" in page.text and len(html) < 300_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run of many measurements and, last, a class; and what its training printed."""
    folder = tmp_path_factory.mktemp("wide")
    names = [f"a_measurement_of_{i}_long_words" for i in range(17)]
    own, g = {"loc": [900.0], "scale": [10.0]}, torch.Generator().manual_seed(0)
    schemas = {name: modalkit.schema("vector", size=1, standardize=own) for name in names}
    schemas["sort"] = modalkit.schema("label", names=["red", "white"])
    values = {name: 900 + 10 * torch.randn(90, 1, generator=g) for name in names} | {"sort": torch.arange(90) % 2}
    modalkit.write_dataset(
        folder / "data", schemas, values, present={n: torch.arange(90) % 17 != i for i, n in enumerate(names)}
    )
    drafted = here("init", "data", cwd=folder).stdout
    (folder / "wide.yaml").write_text(drafted)
    small = ("train.epochs=2", "train.accelerator=cpu", "train.pictures_every=0")
    done = here("train", "wide.yaml", *(word for text in small for word in ("--set", text)), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_wide_run_fits_the_terminal_and_the_page_has_its_classes(wide: tuple[Path, str]) -> None:
    folder, printed = wide
    translations = printed.splitlines()
    assert [line for line in translations if len(line) > 100 and not line.startswith(("refit for ", "warning: "))] == []
    assert "given the best other" in printed and "translations.json" in printed
    assert re.search(r"refit for [012] epochs? done: \S+, with the weights of the refit", printed)
    rows = re.search(r"on the (\d+ to \d+ test) rows that have both", printed)
    done = here("report", "runs/wide", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = Page((folder / "runs" / "wide" / "report.html").read_text())
    assert rows and f"each on the {rows[1]} rows that have both" in page.text
    assert "16 of 18 modalities are shown, those with classes first" in page.text and "from sort" in page.text
    assert {"red", "white"} <= set(page.text.split()) and not re.search(r"long_words\s+[-−]?[012]\.", page.text)


def test_long_names_do_not_run_into_each_other_on_a_sheet(wide: tuple[Path, str]) -> None:
    sheet = np.asarray(Image.open(wide[0] / "runs" / "wide" / "pictures" / "final.png"))
    margin, pitch, heading = 92, 100, 30
    assert (sheet[:, margin - 4 : margin] == 255).all() and (sheet[heading:, :margin] < 128).any()
    for column in range(margin, sheet.shape[1], pitch):
        assert (sheet[:heading, column - 2 : column + 2] == 255).all()
        assert (sheet[:heading, column : column + pitch] < 128).any()


def test_what_is_cut_and_what_is_alike_is_said(wide: tuple[Path, str]) -> None:
    folder, _ = wide
    shutil.copytree(folder / "runs" / "wide", folder / "runs" / "again", dirs_exist_ok=True)
    compared = here("compare", "runs/wide", "runs/again", cwd=folder)
    assert "The recipes are the same, key by key." in compared.stdout
    assert re.search(r"\(the first 60 of \d+ lines; the page has more\)", compared.stdout)


def test_errors_name_what_to_do(mixed: Path) -> None:
    for given, said in (
        (("report", "nothing"), "is not a run"),
        (("report", "run", "-o", "page.pdf"), "name an HTML file"),
        (("report", "run", "--data", "nothing"), "nothing"),
        (("compare", "run"), "two run folders"),
        (("compare", "run", "run"), "each once"),
    ):
        done = here(*given, cwd=mixed)
        assert done.returncode == 2 and said in done.stderr, given


def test_the_kl_of_a_dimension_is_the_gaussians() -> None:
    g = torch.Generator().manual_seed(0)
    posterior = Embedding(torch.randn(5, 3, generator=g), torch.rand(5, 3, generator=g) + 0.1)
    exact = kl_divergence(Normal(posterior.loc, posterior.scale), Normal(0.0, 1.0))
    assert torch.allclose(divergence(posterior), exact, atol=1e-6)


def test_calibration_of_what_is_calibrated() -> None:
    g = torch.Generator().manual_seed(0)
    probability = torch.rand(20_000, generator=g, dtype=torch.float64)
    happened = (torch.rand(20_000, generator=g, dtype=torch.float64) < probability).double()
    bins, error = reliability(probability, happened)
    assert len(bins) == 10 and sum(count for *_, count in bins) == 20_000 and error < 0.015
    assert abs(reliability(probability, 1 - happened)[1] - 0.5) < 0.015  # E|2p - 1|, p uniform


def test_runs_side_by_side(mixed: Path, tmp_path: Path) -> None:
    done = here("train", mixed / "mixed.yaml", "--out", tmp_path / "wide", "--set", "model.latent_dim=5", cwd=mixed)
    assert done.returncode == 0
    kept = {"joint": {"log_p": [-1.5, 0.1], "settings": {}}}
    (tmp_path / "wide" / "evaluation.json").write_text(json.dumps({"log_likelihoods": kept}))
    compared = here("compare", mixed / "run", tmp_path / "wide", "-o", tmp_path / "both.html", cwd=mixed)
    assert compared.returncode == 0, compared.stderr
    page = Page((tmp_path / "both.html").read_text())
    assert page.open == [] and page.titles == ["errors", "metrics", "curves", "recipes", "translations", "evaluation"]
    lines = {line.split("  ")[0]: re.split("  +", line.strip())[-2:] for line in compared.stdout.splitlines()}
    assert lines["model.latent_dim"] == ["3", "5"] and lines["joint"] == ["–", "-1.500 ± 0.100"]
    best = [
        max(one["elbo"] for one in map(json.loads, (run / "metrics.jsonl").open()) if one["split"] == "valid")
        for run in (mixed / "run", tmp_path / "wide")
    ]
    assert lines["best validation ELBO"] == [f"{one:,.3f}" for one in best]
    assert bold((tmp_path / "both.html").read_text(), "best validation ELBO") == [f"{max(best):,.3f}"]


def bold(page: str, row: str) -> list[str]:
    """Return the cells that stand out in the rows of a page's tables that begin so."""
    rows = [one for one in page.split("<tr") if re.match(rf"[^>]*>\s*<th[^>]*>{row}<", one)]
    assert rows, row
    return [cell.strip() for one in rows for cell in re.findall(r'class="best"[^>]*>([^<]*)', one)]


@pytest.mark.parametrize(("change", "elbo"), [("seed", True), ("network", True), ("weight", False), ("name", False)])
def test_nats_stand_out_only_where_they_compare(mixed: Path, tmp_path: Path, change: str, elbo: bool) -> None:
    other = tmp_path / "other"
    shutil.copytree(mixed / "run", other)
    lines = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    better = [{n: v + 1 if n.startswith(("elbo", "log_px")) else v for n, v in line.items()} for line in lines]
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in better))
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    recipe |= {
        "seed": {"seed": 9},
        "network": {"modalities": recipe["modalities"] | {"bit": {"kind": "bit", "network": "mlp"}}},
        "weight": {"modalities": recipe["modalities"] | {"bit": {"kind": "bit", "weight": 2.0, "network": "mlp"}}},
        "name": {"objective": {"name": "mopoe"}},
    }[change]
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = here("compare", mixed / "run", other, "-o", tmp_path / "both.html", cwd=mixed)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "both.html").read_text()
    assert bool(bold(page, "best validation ELBO")) is bool(bold(page, "log_px/bit")) is elbo
    assert bool(bold(page, "log_px/class")) is (change != "name")


def test_a_browser_shows_the_page_on_a_phone(mixed: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if chromium is None:
        pytest.skip("there is no Chromium")
    assert here("report", "run", "-o", "page.html", "--rows", "20", cwd=mixed).returncode == 0
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=quiet)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto((mixed / "page.html").as_uri())
            assert said == [] and [url for url in asked if not url.startswith("data:")] == [page.url]
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            wide = "[...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth)"
            assert page.evaluate(f"{wide}.length") > 0  # these are swiped, beside their first column, and say so
            for kept in ("getComputedStyle(one).backgroundImage.includes('gradient')", "one.tabIndex === 0"):
                assert page.evaluate(f"{wide}.every(one => {kept})")
            heads = f"{wide}.map(one => one.querySelector('tbody th'))"
            assert page.evaluate(f"{heads}.every(one => getComputedStyle(one).position === 'sticky')")
            assert page.evaluate(f"{heads}.every(one => one.offsetWidth < 180)")
            assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == (scheme == "dark")
        browser.close()


def test_a_report_swaps_the_styles_of_rows(tmp_path: Path) -> None:
    write_recipe(tmp_path, write_circle(tmp_path))
    private = ("modalities.image.private_dim=2", "modalities.position.private_dim=1")
    train_circle(tmp_path, "run", "objective.name=dmvae", "train.epochs=1", *private)
    assert here("report", "run", "-o", "page.html", cwd=tmp_path).returncode == 0
    page = (tmp_path / "page.html").read_text()
    pictures = re.findall(r'alt="image: content of (\w+), style of (\w+)"', page)
    rows = {content for content, _ in pictures}
    assert len(rows) > 1 and sorted(pictures) == sorted((one, other) for one in rows for other in rows)
    assert "position: content and style" in page and "counts: content and style" not in page
