"""A trained model asked: against closed forms, with values as people have them, and through the command line."""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import csv, parquet
from safetensors.torch import load_file
from support.linear import ROWS, SLOPES, exact_posterior, linear_run
from support.toys import here, write_circle, write_recipe

import modalkit
from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.inference import TrainedModel, as_batch
from modalkit.model import assemble
from modalkit.recipe.loading import load_recipe
from modalkit.runs.checkpoint import save_weights


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Dataset]:
    run = linear_run(tmp_path_factory.mktemp("exact"))
    for head in run.model.heads.values():
        with torch.no_grad():
            head.bias[:2] = 0  # type: ignore[index]  # the evaluation's tests shift the experts on purpose
    return TrainedModel(run.model, run.recipe, run.path, run.weights), run.dataset


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of four modalities and a run of it, as trained as its first weights."""
    folder = tmp_path_factory.mktemp("inference")
    recipe = write_recipe(folder, write_circle(folder))
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.read_text())
    save_weights(run / "checkpoints" / "best.safetensors", assemble(load_recipe(recipe)))
    Image.fromarray((np.random.default_rng(0).random((50, 70, 3)) * 255).astype(np.uint8)).save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def model(work: Path) -> TrainedModel:
    return modalkit.load(work / "run")


def test_standardised_numbers_are_given_and_answered_in_their_own_units(tmp_path: Path) -> None:
    own = {"loc": [120.0, -3.0], "scale": [15.0, 0.5]}
    (tmp_path / "recipe.yaml").write_text(
        "data: {path: nowhere}\nmodalities:\n"
        f"  blood: {{kind: vector, size: 2, standardize: {json.dumps(own)}}}\n  age: {{kind: vector, size: 1}}\n"
    )
    (tmp_path / "checkpoints").mkdir()
    save_weights(tmp_path / "checkpoints" / "best.safetensors", assemble(load_recipe(tmp_path / "recipe.yaml")))
    asked = modalkit.load(tmp_path)
    schema = asked.schemas["blood"]
    seen = torch.tensor([[0.2, -1.0]])
    stored = as_batch(asked.schemas, {"blood": [135.0, -3.5]}).values["blood"]
    assert stored.tolist() == [[135.0, -3.5]] and schema.unpack(stored).tolist() == [[1.0, -1.0]]
    answer = asked.infer({"age": [40.0]}, ["blood"])["blood"]
    value, scale = answer.in_units(answer.value), answer.width_in_units(answer.scale)
    torch.testing.assert_close(schema.unpack(value), answer.value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scale, answer.scale * torch.tensor(own["scale"]), rtol=1e-3, atol=1e-3)
    assert f"{schema.pack(seen)[0, 0]:.0f}" == "123"
    done = here("translate", str(tmp_path), "--given", "age=40", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "out" / "answer.json").read_text()
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d+", told)]
    assert any(60 < number < 180 for number in numbers), told


# Closed forms


def test_posteriors_and_predictions_are_the_exact_ones(exact: tuple[TrainedModel, Dataset]) -> None:
    asked, _ = exact
    given = {"a": torch.tensor([1.0, -0.5]), "c": torch.tensor([0.3, 2.0])}
    loc, scale = exact_posterior(given)
    found = asked.embed(given)
    assert torch.allclose(found.loc[0], loc) and torch.allclose(found.scale[0], scale)
    prediction = asked.infer(given, ["b"], 3, draws=40_000)["b"]
    slope = torch.tensor(SLOPES["b"]).double()
    assert torch.allclose(prediction.value[0], slope * loc, atol=0.02)
    assert prediction.spread is not None and torch.allclose(prediction.spread[0], slope * scale, atol=0.02)
    assert prediction.scale is not None
    assert torch.allclose(prediction.scale[0], (1 + (slope * scale) ** 2).sqrt(), atol=0.02)
    assert prediction.samples.shape == (3, 1, 2) and prediction.probability is None
    noisy = asked.infer(given, ["b"], 20_000, noise=True)["b"].samples[:, 0]
    assert torch.allclose(noisy.std(0), prediction.scale[0], atol=0.04)


def test_what_is_imputed_is_the_exact_conditional(exact: tuple[TrainedModel, Dataset]) -> None:
    asked, dataset = exact
    filled = asked.impute(dataset, draws=4000)
    assert bool(filled.batch.present.all()) and torch.equal(filled.imputed, ~dataset.present)
    batch = dataset[torch.arange(ROWS)]
    for row in range(ROWS):
        there = {n: batch.values[n][row] for m, n in enumerate(SLOPES) if batch.present[row, m]}
        loc, scale = exact_posterior(there)
        for name, s in SLOPES.items():
            value, sd = filled.batch.values[name][row].double(), filled.scale[name][row]
            if name in there:
                assert torch.equal(value, batch.values[name][row].double()) and bool(sd.isnan().all())
            else:
                slope = torch.tensor(s).double()
                assert torch.allclose(value, slope * loc, atol=0.1)
                assert torch.allclose(sd, (1 + (slope * scale) ** 2).sqrt(), atol=0.05)


def test_imputed_samples_of_a_row_belong_together(exact: tuple[TrainedModel, Dataset]) -> None:
    """From the prior, a and c are correlated by their slopes; drawn apart they would not be."""
    asked, _ = exact
    filled = asked.impute({"b": [None] * 4000}, sample=True)
    both = torch.stack([filled.batch.values[n][:, 0].double() for n in "ac"])
    slopes = torch.tensor([SLOPES[n][0] for n in "ac"]).double()
    expected = slopes.prod() / (1 + slopes**2).prod().sqrt()
    assert abs(float(torch.corrcoef(both)[0, 1] - expected)) < 0.05


def test_scores_are_the_exact_likelihoods(exact: tuple[TrainedModel, Dataset]) -> None:
    asked, _ = exact
    b, c = torch.tensor([[0.4, -1.0], [2.0, 0.1]]), torch.tensor([0.3, 2.0])
    found = asked.score({"c": c}, {"b": b}, particles=2000)
    loc, scale = exact_posterior({"c": c})
    slope = torch.tensor(SLOPES["b"]).double()
    predictive = torch.distributions.Normal(slope * loc, (1 + (slope * scale) ** 2).sqrt())
    assert torch.allclose(found.log_p, predictive.log_prob(b.double()).sum(1), atol=0.05)
    partly = asked.score({"a": [None, [0.1, 0.2]]}, {"b": [[0.4, -1.0], None]}, particles=200)
    marginal = torch.distributions.Normal(torch.zeros(2).double(), (1 + slope**2).sqrt())
    assert math.isclose(partly.log_p[0], marginal.log_prob(b[0].double()).sum(), abs_tol=0.1)
    assert math.isnan(partly.log_p[1])


def test_rows_may_have_different_subsets(exact: tuple[TrainedModel, Dataset]) -> None:
    asked, _ = exact
    together = asked.embed({"a": [[1.0, 2.0], None, None], "b": [None, [0.5, 0.5], None]})
    apart = [asked.embed({"a": [1.0, 2.0]}), asked.embed({"b": [0.5, 0.5]}), asked.embed({})]
    assert torch.allclose(together.loc, torch.cat([one.loc for one in apart]))
    assert together.scale[2].tolist() == [1, 1]


# Objectives


def test_mixtures_are_embedded_by_their_moments(tmp_path: Path) -> None:
    run = linear_run(tmp_path, "{name: mmvae}")
    asked = TrainedModel(run.model, run.recipe, run.path, run.weights)
    given = {"a": torch.tensor([1.0, -0.5]), "c": torch.tensor([0.3, 2.0])}
    one, other, both = asked.embed({"a": given["a"]}), asked.embed({"c": given["c"]}), asked.embed(given)
    assert torch.allclose(both.loc, (one.loc + other.loc) / 2)
    second = (one.scale**2 + one.loc**2 + other.scale**2 + other.loc**2) / 2
    assert torch.allclose(both.scale, (second - both.loc**2).sqrt())


def test_only_subsets_with_a_posterior_are_asked(tmp_path: Path) -> None:
    run = linear_run(tmp_path, "{name: jmvae}")
    asked = TrainedModel(run.model, run.recipe, run.path, run.weights)
    x = [0.1, 0.2]
    with pytest.raises(InputError, match=r"jmvae.*no posterior given a, b; .* a, b, c, all together"):
        asked.infer({"a": x, "b": x})
    assert list(asked.infer({"b": x})) == ["a", "c"]
    filled = asked.impute({"a": [x, None], "b": [x, x], "c": [None, x]})
    assert bool(filled.batch.present.all())
    assert filled.given.tolist() == [[True, False, False], [False, True, False]]  # the first that has one alone


def test_a_conditional_model_needs_its_condition(tmp_path: Path) -> None:
    data = write_circle(tmp_path)
    (tmp_path / "cvae.yaml").write_text(
        f"data: {{path: {data}}}\nmodalities:\n  position: {{kind: vector, size: 2}}\n"
        "  class: {kind: label, classes: 3}\nmodel: {latent_dim: 2}\nobjective: {name: cvae}\n"
    )
    recipe = load_recipe(tmp_path / "cvae.yaml")
    asked = TrainedModel(assemble(recipe).eval(), recipe, tmp_path, "")
    assert asked.predictable == ("position",)
    found = asked.infer({"class": [0, 1]}, samples=2)
    assert found["position"].samples.shape == (2, 2, 2) and not torch.equal(*found["position"].value)
    for wrong in ({}, {"position": [0.1, 0.2]}):
        with pytest.raises(InputError, match="no posterior given"):
            asked.infer(wrong, ["position"])
    with pytest.raises(InputError, match="only conditions on it"):
        asked.infer({"class": 1}, ["class"])
    filled = asked.impute({"class": [0, None], "position": [None, [0.1, 0.2]]})
    assert filled.batch.present.tolist() == [[True, True], [True, False]]  # nothing tells the class


# Values as people have them


def test_pictures_come_in_any_form(work: Path, model: TrainedModel) -> None:
    path = work / "photo.jpg"
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    array = np.array(picture)
    forms = [
        path, str(path), picture, array, torch.from_numpy(array), array.transpose(2, 0, 1),
        array.astype(np.float32) / 255, picture.convert("RGBA"),
    ]  # fmt: skip
    first, *others = [as_batch(model.schemas, {"image": form}).values["image"] for form in forms]
    assert first.shape == (1, 1, 12, 12) and all(torch.equal(first, other) for other in others)
    several = as_batch(model.schemas, {"image": [path, None, array[:, :, 0]], "class": 2})
    assert several.present.tolist() == [[i != 1, False, True, False] for i in range(3)]
    batch = as_batch(model.schemas, {"image": torch.rand(5, 1, 12, 12)})
    assert len(batch) == 5 and batch.values["image"].dtype == torch.uint8
    assert len(as_batch(model.schemas, {"image": np.zeros((3, 12, 12))})) == 3  # gray, without a channel


def test_files_say_what_they_hold(tmp_path: Path, model: TrainedModel) -> None:
    np.save(tmp_path / "p.npy", np.array([[0.5, 1.0], [2.0, 3.0]]))
    (tmp_path / "c.json").write_text("[1, 2]")
    (tmp_path / "n.txt").write_text("3 4\n")
    found = as_batch(model.schemas, {"position": tmp_path / "p.npy", "class": tmp_path / "c.json"})
    assert found.values["position"].tolist() == [[0.5, 1.0], [2.0, 3.0]] and found.values["class"].tolist() == [1, 2]
    assert as_batch(model.schemas, {"counts": str(tmp_path / "n.txt")}).values["counts"].tolist() == [[3, 4]]


WRONG = {
    "name": ({"imgae": 1}, "no modality 'imgae'.*did you mean 'image'.*image, position"),
    "class": ({"class": 7}, "modality 'class': 7 cannot be"),
    "word": ({"class": "seven"}, "modality 'class': 'seven' is no class"),
    "shape": ({"position": [1.0, 2.0, 3.0]}, r"modality 'position': got the shape \(3,\); give \(2,\) for one"),
    "nan": ({"position": [1.0, math.nan]}, "modality 'position': .*NaN or out of range"),
    "fraction": ({"counts": [0.5, 1.0]}, "modality 'counts': 0.5 is no whole number"),
    "unreadable": ({"image": "nowhere.png"}, "modality 'image': nowhere.png: there is no such file"),
    "missing": ({"position": "nowhere.npy"}, "modality 'position': nowhere.npy: there is no such file"),
    "range": ({"image": np.full((40, 40), 7.0)}, r"modality 'image': intensities must lie in \[0, 1\]"),
    "picture": ({"image": np.zeros((2, 40, 40))}, "no picture's"),
    "object": ({"position": {"x": 1}}, "modality 'position': a dict is no value"),
    "nested": ({"image": [np.zeros((5, 1, 12, 12))]}, "number 1 of the list is several samples"),
    "rows": ({"class": [0, 1], "counts": [[1, 2]] * 3}, "2 of 'class', 3 of 'counts'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(model: TrainedModel, case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        model.infer(given)  # type: ignore[arg-type]


def test_what_is_wanted_is_checked(model: TrainedModel) -> None:
    with pytest.raises(InputError, match="did you mean 'class'"):
        model.infer({"position": [0, 0]}, ["clas"])
    with pytest.raises(InputError, match=r"give a list of modalities, such as \['class'\]"):
        model.infer({"position": [0, 0]}, "class")
    with pytest.raises(InputError, match="cannot be both given and a target"):
        model.score({"class": 1}, {"class": 1})
    with pytest.raises(InputError, match="3 given, 2 of the targets"):
        model.score({"class": [0, 1, 2]}, {"counts": [[1, 2], [3, 4]]})


# Answers


def test_every_kind_says_how_sure_it_is(model: TrainedModel) -> None:
    found = model.infer({"position": [0.5, 0.5]}, samples=5)
    assert set(found) == {"image", "class", "counts"} and found.posterior.loc.shape == (1, 4)
    label, picture, counts = found["class"], found["image"], found["counts"]
    assert label.probabilities is not None and label.probability is not None and label.scale is None
    assert torch.isclose(label.probabilities.sum(), torch.tensor(1.0))
    assert label.probability[0] == label.probabilities[0, label.value[0]]
    assert picture.scale is not None and picture.spread is not None and counts.scale is not None
    assert bool((picture.spread < picture.scale).all())
    assert counts.value.dtype == torch.int64 and isinstance(counts.show(), str)
    shown = picture.show(0, 4)
    assert isinstance(shown, np.ndarray) and shown.shape == (12, 12) and label.show() in "012"
    assert model.measures == {"image": "scale", "position": "scale", "class": "probability", "counts": "scale"}


def test_what_is_found_is_told_in_a_line(model: TrainedModel) -> None:
    found = model.infer({"position": [[0.5, 0.5]] * 2}, ["image", "class"], samples=5)
    assert repr(found) == "<Inference: 2 rows of image, class>"
    assert repr(found["image"]) == "<Prediction of kind 'image' (1 x 12 x 12), 2 rows, 5 samples>"
    several = model.infer({"position": [0.5, 0.5]})
    one = several["class"]
    assert all(len(repr(prediction)) < 99 for prediction in several.values())
    assert repr(one) == f"<Prediction of kind 'label' (one value), 1 row, 0 samples: {one.show()}>"


def test_answers_depend_on_the_seed_alone(model: TrainedModel) -> None:
    given = {"position": torch.randn(300, 2)}  # more than one chunk
    first = model.infer(given, ["class"], 2, noise=True, seed=3)["class"]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    found: dict[int, torch.Tensor] = {}

    def ask(index: int) -> None:
        found[index] = model.infer(given, ["class"], 2, noise=True, seed=3)["class"].samples

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(first.samples, one) for one in found.values())
    assert torch.equal(before, torch.random.get_rng_state())  # nobody's generator was touched
    assert not torch.equal(first.samples, model.infer(given, ["class"], 2, noise=True, seed=4)["class"].samples)


def test_samples_of_the_prior_are_whole_rows(model: TrainedModel) -> None:
    drawn = model.sample(6, seed=1)
    assert set(drawn) == set(model.modalities) and drawn["image"].value.shape == (6, 1, 12, 12)
    assert torch.equal(drawn["position"].value, drawn["position"].samples[0])
    assert len({tuple(row) for row in drawn["position"].value.tolist()}) == 6


def test_a_temperature_scales_samples_of_the_prior(exact: tuple[TrainedModel, Dataset]) -> None:
    linear, _ = exact
    mean, half, whole = (linear.sample(5, temperature=t, seed=1)["a"].value for t in (0.0, 0.5, 1.0))
    assert torch.equal(mean, mean[:1].expand_as(mean))
    torch.testing.assert_close(half - mean, 0.5 * (whole - mean))
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="temperature"):
            linear.sample(2, temperature=wrong)


def test_a_run_that_is_none_or_has_no_weights(tmp_path: Path, work: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run \(no recipe.yaml\)"):
        modalkit.load(tmp_path)
    (tmp_path / "recipe.yaml").write_text((work / "circle.yaml").read_text())
    with pytest.raises(InputError, match="no weights there"):
        modalkit.load(tmp_path)


# The command line


def test_translate_writes_what_opens_anywhere(work: Path) -> None:
    command = ("translate", "run", "--given", "image=photo.jpg", "--given", "class=1", "--samples", 2, "-o", "out")
    done = here(*command, cwd=work)
    assert done.returncode == 0, done.stderr
    expected = {"position-mean.txt", "position-1.npy", "counts-mean.txt", "counts-0.txt", "sheet.png", "answer.json"}
    assert expected <= {path.name for path in (work / "out").iterdir()}
    answer, files = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1]
    assert [line.split(":")[0] for line in answer] == ["position", "counts"] and "standard deviation" in answer[0]
    assert files == f"{len(list((work / 'out').iterdir()))} files in out; all side by side: {Path('out/sheet.png')}"
    about = json.loads((work / "out" / "answer.json").read_text())
    said = about["predictions"]["position"]
    assert said["value"] == pytest.approx(np.load(work / "out" / "position-mean.npy").tolist())
    assert len(said["samples"]) == 2 and len(said["scale"]) == 2 and len(about["posterior"]["loc"]) == 4
    pictures = here("translate", "run", "--given", "position=0.5, 1", "--want", "image,class", "-o", "out", cwd=work)
    assert pictures.returncode == 0 and "class: " in pictures.stdout and "probability" in pictures.stdout
    assert pictures.stdout.startswith(f"image: {Path('out/image-mean.png')}\n")
    likely = json.loads((work / "out" / "answer.json").read_text())["predictions"]["class"]["probabilities"]
    assert list(likely) == ["0", "1", "2"] and sum(likely.values()) == pytest.approx(1)
    (work / "words.txt").write_text("hello")
    wrong = here("translate", "run", "--given", "image=words.txt", "-o", "none", cwd=work)
    assert "modality 'image': what words.txt holds was taken as the value: hello: there is no such" in wrong.stderr
    numbers = here("translate", "run", "--given", "position=0.5, 1", "--want", "class", "-o", "texts", cwd=work)
    assert numbers.stdout.endswith("11 files in texts\n") and not (work / "texts/sheet.png").exists(), numbers.stdout
    with Image.open(work / "out" / "image-mean.png") as picture:
        assert picture.size == (12, 12)
    assert {path.name.split("-")[0] for path in (work / "out").iterdir()} == {
        "image",
        "class",
        "sheet.png",
        "answer.json",
        "answer.csv",
    }


REFUSED = {
    "name": (("--given", "imgae=photo.jpg"), "did you mean 'image'"),
    "form": (("--given", "photo.jpg"), "--given photo.jpg: write NAME=VALUE"),
    "twice": (("--given", "class=1", "--given", "class=2"), "'class' is given twice"),
    "want": (("--given", "class=1", "--want", "postion"), "did you mean 'position'"),
    "picture": (("--given", "image=circle.yaml"), "circle.yaml: cannot be read as a picture"),
    "missing": (("--given", "image=nowhere.jpg"), "error: modality 'image': nowhere.jpg: there is no such file\n"),
    "folder": (("--given", "image=circle"), "circle: is a folder, not a picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_translate_refuses_and_writes_nothing(work: Path, case: str) -> None:
    given, message = REFUSED[case]
    done = here("translate", "run", *given, "-o", "refused", cwd=work)
    assert done.returncode == 2 and message in done.stderr and not (work / "refused").exists()


def test_other_things_are_not_overwritten(work: Path) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").write_text("mine")
    for command in (("translate", "run", "--given", "class=1"), ("sample", "run"), ("impute", "run")):
        done = here(*command, "-o", "mine", cwd=work)
        assert done.returncode == 2 and "mine: " in done.stderr, done.stderr
    assert [path.name for path in (work / "mine").iterdir() if path.name != ".lock"] == ["thesis.txt"]


def test_sample_writes_rows(work: Path) -> None:
    done = here("sample", "run", "-n", 3, "-o", "drawn", cwd=work)
    names = {path.name for path in (work / "drawn").iterdir()}
    assert done.returncode == 0 and {"image-2.png", "class-0.txt", "sheet.png"} <= names and "image-3.png" not in names


def test_impute_writes_a_complete_dataset_and_a_table(work: Path) -> None:
    done = here("impute", "run", "-o", "complete", cwd=work)
    assert done.returncode == 0 and "table: complete/imputed" in done.stdout, done.stderr
    before, after = Dataset(work / "circle"), Dataset(work / "complete")
    assert bool(after.present.all()) and torch.equal(before.split, after.split)
    rows = torch.arange(len(before))
    for column, name in enumerate(before.names):
        there = before.present[:, column]
        assert torch.equal(before[rows].values[name][there], after[rows].values[name][there])
    table = parquet.read_table(work / "complete" / "imputed").to_pydict()
    assert table["key"] == [before.key(int(row)) for row in rows]
    absent = ~before.present[:, before.names.index("class")]
    assert table["class.imputed"] == absent.tolist() and any(absent)
    assert [one is not None for one in table["class.probability"]] == absent.tolist()
    assert table["class"] == [str(one) for one in after[rows].values["class"].tolist()]
    assert table["position.scale.0"] == [None] * len(before) and "image" not in table and "image.imputed" in table
    again = here("impute", "run", "-o", "complete", cwd=work)
    assert again.returncode == 0 and again.stdout == done.stdout
    other = here("impute", "run", "-o", "complete", "--seed", 1, cwd=work)
    assert other.returncode == 2 and "seed: 0 there, 1 now" in other.stderr


def test_an_interrupted_imputation_goes_on_to_the_same_bytes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalkit.inference.imputing.ROWS", 50)
    assert here("impute", "run", "-o", "whole", "--sample", cwd=work).returncode == 0
    real, calls = TrainedModel.impute, iter(range(9))

    def stop(*arguments: object, **options: object) -> object:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TrainedModel, "impute", stop)
        assert here("impute", "run", "-o", "parts", "--sample", cwd=work).returncode == 130
    assert not (work / "parts" / "manifest.json").exists()
    assert here("impute", "run", "-o", "parts", "--sample", cwd=work).returncode == 0
    for path in sorted((work / "whole").rglob("0*.*")):
        assert path.read_bytes() == (work / "parts" / path.relative_to(work / "whole")).read_bytes(), path


def test_embed_writes_a_table(work: Path, model: TrainedModel) -> None:
    done = here("embed", "run", "circle", "--given", "class", "--split", "train", "-o", "e.parquet", cwd=work)
    assert done.returncode == 0 and "left out" in done.stdout, done.stderr
    table = parquet.read_table(work / "e.parquet").to_pydict()
    dataset = Dataset(work / "circle")
    rows = dataset.rows("train")
    rows = rows[dataset.present[rows, dataset.names.index("class")]]
    assert table["key"] == [dataset.key(int(row)) for row in rows] and set(table["split"]) == {"train"}
    found = model.embed({"class": dataset[rows].values["class"]})
    assert table["loc_3"] == pytest.approx(found.loc[:, 3].tolist(), abs=1e-6)
    assert table["scale_0"] == pytest.approx(found.scale[:, 0].tolist(), abs=1e-6)
    assert here("embed", "run", "-o", "e.csv", cwd=work).returncode == 0
    assert csv.read_csv(work / "e.csv").num_rows == len(dataset)
    wrong = here("embed", "run", "-o", "e.xlsx", cwd=work)
    assert wrong.returncode == 2 and "FILE.csv, FILE.tsv or FILE.parquet" in wrong.stderr


def test_a_dataset_that_does_not_fit_is_refused(work: Path) -> None:
    modalkit.write_dataset(
        work / "other", {"position": modalkit.schema("vector", size=3)}, {"position": torch.zeros(10, 3)}
    )
    for command in ("impute", "embed"):
        done = here(command, "run", "other", "-o", "never.parquet", cwd=work)
        assert done.returncode == 2 and "other" in done.stderr and not (work / "never.parquet").exists(), done.stderr


def test_weights_are_those_of_the_run(work: Path, model: TrainedModel) -> None:
    saved = load_file(work / "run" / "checkpoints" / "best.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in model.model.state_dict().items() if name in saved)
