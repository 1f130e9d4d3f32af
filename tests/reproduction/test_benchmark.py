"""`modalkit benchmark`, as a user asks for it, on a small dataset of the real builder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.toys import here, overrides

SMALL = overrides(
    "data.path=poly",
    "data.build.0={builder: poly-mnist, digits: sklearn, views: 3, train: 200, valid: 20, test: 40}",
    "modalities.view{}.each=0..2",
    "modalities.view{}.network={type: dcgan, widths: [4, 8], hidden: 16, decoder_hidden: [16]}",
    "modalities.label.network={type: mlp, hidden: [16], decoder_hidden: [16]}",
    "model.latent_dim=4",
    "train.max_steps=1",
    "train.pictures_every=0",
    "train.accelerator=cpu",
)
ASKED = ("benchmark", "poly-mnist", "--epochs", 1, "--objectives", "mvae,jmvae", "--particles", 2, *SMALL)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two objectives were compared."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = here(*ASKED, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    (folder / "logged.txt").write_text(done.stderr)
    return folder


def test_objectives_are_trained_and_compared_in_one_table(work: Path) -> None:
    found = {
        one["objective"]: one for one in json.loads((work / "benchmark/poly-mnist.json").read_text())["objectives"]
    }
    shared = {"joint, prior", "joint, real", "FD, given nothing", "FD, 1 given", "right, 1 given", "log p(all)"}
    assert found["mvae"]["figures"].keys() == shared | {"right, 2 given", "probe"}
    assert found["jmvae"]["figures"].keys() == shared  # it has no posterior given two of four
    for one in found.values():
        assert one["seconds"] > 0 and one["epochs"] == 1
        assert one["mebibytes"] is None or one["mebibytes"] > 50
        for column, (mean, error) in one["figures"].items():
            assert error >= 0 and (column == "log p(all)" or mean >= 0)
    text = (work / "benchmark/poly-mnist.txt").read_text()
    assert text in (work / "printed.txt").read_text()
    assert {line.split("  ")[0] for line in text.splitlines()[1:]} == shared | {
        *("right, 2 given", "probe", "seconds", "memory, MiB")
    }
    assert "so it cannot judge samples well" in (work / "logged.txt").read_text()


def test_a_second_call_trains_and_measures_nothing(work: Path) -> None:
    before = (work / "benchmark/poly-mnist.json").read_bytes()
    states = {path: path.stat().st_mtime_ns for path in work.glob("runs/benchmark/*/*") if path.is_file()}
    assert len(list(work.glob("runs/benchmark/*/evaluation/classifier-*"))) == 6
    assert here(*ASKED, cwd=work).returncode == 0
    assert (work / "benchmark/poly-mnist.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in states} == states


def test_runs_of_another_budget_are_refused(work: Path) -> None:
    done = here(*ASKED, "--epochs", 2, cwd=work)
    assert done.returncode == 2 and "poly_mnist-mvae: was trained with another recipe (train.epochs" in done.stderr
    done = here(*ASKED, "--objectives", "mvae,nothing", "--runs", "elsewhere", cwd=work)
    assert done.returncode == 2 and "nothing" in done.stderr and not (work / "elsewhere").exists()


def test_the_time_of_another_commands_training_is_not_known(work: Path) -> None:
    kept = work / "runs/benchmark/poly_mnist-mvae/benchmark.json"
    kept.write_text("{}")
    done = here(*ASKED, "--objectives", "mvae", "--out", "again", cwd=work)
    assert done.returncode == 2 and "benchmark.json: cannot be read; delete it" in done.stderr
    kept.unlink()
    assert here(*ASKED, "--objectives", "mvae", "--out", "again", cwd=work).returncode == 0
    (one,) = json.loads((work / "again/poly-mnist.json").read_text())["objectives"]
    (first, _) = json.loads((work / "benchmark/poly-mnist.json").read_text())["objectives"]
    assert one["seconds"] is None and one["figures"] == first["figures"]


def test_a_resumed_training_adds_its_time(work: Path) -> None:
    """Few rows suffice for coherence, but not for the covariance of features."""
    before = json.loads((work / "runs/benchmark/poly_mnist-jmvae/benchmark.json").read_text())
    more = ("--objectives", "jmvae", "--out", "more", "--rows", 2, *overrides("train.max_steps=2"))
    assert here(*ASKED, *more, cwd=work).returncode == 0
    (one,) = json.loads((work / "more/poly-mnist.json").read_text())["objectives"]
    assert one["seconds"] > before["seconds"]
    assert one["figures"].keys() == {"joint, prior", "joint, real", "right, 1 given", "log p(all)"}
