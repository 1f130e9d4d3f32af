"""Training from Python: recipes and data in every form, in memory and into a run folder."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import tqdm.auto
from support.toys import here

import modalkit
from modalkit import registry
from modalkit.errors import InputError
from modalkit.util.progress import bar

RECIPE: dict[str, Any] = {
    "modalities": {
        "a": {"kind": "vector", "size": 2, "network": {"type": "mlp", "hidden": [4], "decoder_hidden": [4]}},
        "c": {"kind": "label", "classes": 2, "network": {"type": "mlp", "hidden": [4], "decoder_hidden": [4]}},
    },
    "model": {"latent_dim": 2},
    "train": {"epochs": 2, "accelerator": "cpu", "loggers": [], "pictures_every": 0},
}
VALUES = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
CLASSES = (VALUES[:, 0] > 0).astype(int)
ARRAYS = {"a": VALUES, "c": CLASSES}


def train(*given: Any, **more: Any) -> modalkit.TrainedModel:
    return modalkit.train(*given, **({"progress": False} | more))


def weights(model: modalkit.TrainedModel) -> dict[str, torch.Tensor]:
    return dict(model.model.state_dict())


def equal(one: modalkit.TrainedModel, other: modalkit.TrainedModel) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rows() -> Iterator[dict[str, Any]]:
    for value, label in zip(VALUES, CLASSES, strict=True):
        yield {"a": torch.from_numpy(value), "c": int(label)}


class MapStyle:
    """As a torch dataset that has a length and is indexed, and is not made to be iterated."""

    def __len__(self) -> int:
        return len(VALUES)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"a": VALUES[row], "c": CLASSES[row]}


def test_every_form_of_recipe_and_data_gives_the_same_model(tmp_path: Path) -> None:
    first = train(RECIPE, ARRAYS)
    assert [line["epoch"] for line in first.history] == [1, 2] and "valid/elbo" in first.history[0]
    schemas = {name: modalkit.schema(**entry) for name, entry in RECIPE["modalities"].items()}
    rest = {key: RECIPE[key] for key in ("model", "train")}
    assert equal(first, train(modalkit.Recipe(modalities=schemas, **rest), ARRAYS))
    assert equal(first, train({"modalities": schemas, **rest}, rows()))
    assert equal(first, train(RECIPE, MapStyle()))
    modalkit.write_dataset(tmp_path / "data", schemas, ARRAYS)
    assert equal(first, train(RECIPE, tmp_path / "data"))
    assert equal(first, train(RECIPE | {"data": {"path": tmp_path / "data"}}))
    assert equal(first, train(RECIPE, modalkit.Dataset(tmp_path / "data")))


def test_a_run_folder_has_all_of_a_run_and_the_command_line_gives_the_same(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    model = train(RECIPE, ARRAYS, run, set={"train.batch_size": 20})
    assert model.path == run and model.recipe.train.batch_size == 20
    assert here("train", run / "recipe.yaml", "--out", other, "--quiet", cwd=tmp_path).returncode == 0
    for name in ("checkpoints/best.safetensors", "checkpoints/last.safetensors", "translations.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    assert equal(model, modalkit.load(run)) and modalkit.load(run).history == model.history


def test_the_same_call_resumes_and_other_data_does_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(RECIPE, ARRAYS, run, epochs=1)
    resumed = train(RECIPE, ARRAYS, run, epochs=2)
    assert len(resumed.history) == 2 and equal(resumed, train(RECIPE, ARRAYS))
    assert equal(resumed, train(run, run=run))
    with pytest.raises(InputError, match="holds a run on other data"):
        train(RECIPE, ARRAYS | {"a": VALUES + 1}, run)


def test_a_recipe_is_drafted_for_data_alone() -> None:
    values = {
        "a": VALUES[:15],
        "c": ["cat" if c else "dog" for c in CLASSES[:15]],
        "picture": np.zeros((15, 8, 8, 3), "uint8"),
    }
    values["picture"][:, :4] = np.arange(15)[:, None, None, None]
    model = train(data=values, set={"train.max_steps": 1})
    kinds = {name: schema.kind for name, schema in model.schemas.items()}
    assert kinds == {"a": "vector", "c": "label", "picture": "image"}
    assert model.infer({"c": "cat"})["picture"].value.shape == (1, 3, 8, 8)


def test_nothing_that_is_given_changes() -> None:
    present = {"c": np.arange(60) % 2 > 0}
    arrays = {name: value.copy() for name, value in ARRAYS.items()}
    for given in (*arrays.values(), *present.values()):
        given.flags.writeable = False
    model = train(RECIPE, arrays, present=present, epochs=1)
    assert model.modalities == ("a", "c") and RECIPE["train"]["epochs"] == 2


INTERRUPTING = """
import signal
from modalkit.plugin import Schedule, ScheduleOptions
left = [1]

def factor(options, done):
    if left and done >= 0.2:
        left.pop()
        signal.raise_signal(signal.SIGINT)
    return 1.0

SCHEDULE = Schedule(name="interrupting", summary="interrupts once", options=ScheduleOptions, factor=factor)
"""


@pytest.mark.parametrize("epochs", [1, 2])  # one: no epoch ends, so that there are no best weights
def test_an_interrupt_leaves_a_model_that_answers_and_a_run_that_resumes(tmp_path: Path, epochs: int) -> None:
    plugin = tmp_path / "interrupting.py"
    plugin.write_text(INTERRUPTING.replace("0.2", str(0.2 if epochs == 1 else 0.6)))
    recipe = RECIPE | {"plugins": [plugin]}
    train_settings = RECIPE["train"] | {"schedule": "interrupting", "epochs": epochs, "batch_size": 10, "average": 0.9}
    recipe |= {"train": train_settings}
    try:
        model = train(recipe, ARRAYS, tmp_path / "run")
        assert len(model.history) < epochs and (epochs == 1) != (tmp_path / "run/checkpoints/best.safetensors").exists()
        assert model.infer({"c": 1})["a"].value.isfinite().all()
        finished = train(recipe, ARRAYS, tmp_path / "run")
        assert len(finished.history) == epochs and equal(finished, train(recipe, ARRAYS))
    finally:
        registry.forget_files()


def test_a_model_in_memory_can_be_saved(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(modalkit.Recipe(**RECIPE).to_yaml())
    model = train(tmp_path / "recipe.yaml", ARRAYS, epochs=1)  # a file, with the data apart
    model.save(tmp_path / "saved")
    assert equal(model, modalkit.load(tmp_path / "saved")) and equal(model, pickle.loads(pickle.dumps(model)))
    with pytest.raises(InputError, match="exists already"):
        model.save(tmp_path / "saved")


def test_a_bar_of_a_notebook_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    with bar(2, "training") as shown:
        assert isinstance(shown, tqdm.auto.tqdm)


def test_it_trains_outside_the_main_thread() -> None:
    with ThreadPoolExecutor(1) as thread:
        model = thread.submit(train, RECIPE, ARRAYS, epochs=1).result()
    assert repr(model) == "<TrainedModel: a, c; mvae, 2 latent dimensions>"


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "key": (lambda: train(RECIPE | {"modalitis": {}}, ARRAYS), "recipe: modalitis: unknown key .did you mean 'modal"),
    "inner key": (lambda: train(RECIPE | {"train": {"epoch": 1}}, ARRAYS), "recipe: train.epoch: unknown key"),
    "value": (
        lambda: train(RECIPE | {"model": {"latent_dim": object()}}, ARRAYS),
        "recipe: model.latent_dim: a object",
    ),
    "built in code": (
        lambda: modalkit.Recipe(
            modalities={"a": {"kind": "vector", "size": 0}}, objective={"name": "mvae", "betta": 2}
        ),
        "recipe: modalities.a.size: should be a number above 0, got 0\nrecipe: objective.betta: .*did you mean 'beta'",
    ),
    "no data": (lambda: train(RECIPE), "recipe: data: is missing; give `data=`"),
    "nothing": (lambda: train(), "give a recipe, data, or both"),
    "data first": (lambda: train(VALUES), "recipe: is a ndarray; give"),
    "name": (lambda: train(RECIPE, ARRAYS | {"b": VALUES}), "no modality 'b'"),
    "lacking": (lambda: train(RECIPE, {"a": VALUES}), "has no 'c', which the recipe lists"),
    "lengths": (lambda: train(RECIPE, ARRAYS | {"c": CLASSES[1:]}), "60 of 'a', 59 of 'c'"),
    "no rows": (lambda: train(RECIPE, []), "data: has no rows"),
    "empty": (lambda: train(RECIPE, {"a": VALUES[:0], "c": CLASSES[:0]}), "data: has no rows"),
    "fields": (lambda: train(data=[{"a": 1.0}, {"a": 1.0, "b": 2.0}]), "row 1 has the field 'b', which row 0 has not"),
    "fewer": (lambda: train(data=[{"a": 1.0, "b": 2.0}, {"a": 1.0}]), "row 1 lacks the field 'b'"),
    "row": (lambda: train(data=[(1, 2)]), "row 0 is a tuple; give a dict"),
    "type": (lambda: train(data=3), "data: is a int; give a table"),
    "absent": (lambda: train(data={"a": VALUES, "b": [None] * 60}), "'b' is absent from every row"),
    "shapes": (lambda: train(data=[{"a": np.zeros(2)}, {"a": np.zeros(3)}]), r"\(2,\) in row 0 and \(3,\) in row 1"),
    "override": (lambda: train(RECIPE, ARRAYS, set={"train.epoch": 3}), "train.epoch: unknown key"),
    "twice": (lambda: train(RECIPE, ARRAYS, epochs=3, set={"train.epochs": 3}), "'train.epochs' is given twice"),
    "present": (lambda: train(RECIPE, ARRAYS, present={"c": [1, 2]}), "present: 'c' should be 60 booleans"),
    "file": (lambda: train(data=__file__), "is a file; give what it holds"),
    "nowhere": (lambda: train(data="nowhere"), "nowhere: "),
    "split": (lambda: train(RECIPE, "somewhere", split={"train": 1.0}), "split: is for arrays and tables"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_an_error_that_says_where(what: str) -> None:
    call, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        call()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and not a run"):
        train(RECIPE, ARRAYS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
