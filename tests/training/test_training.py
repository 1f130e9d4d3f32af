"""Training through the command line, as a user types it: killed, interrupted, resumed, stopped."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import modalkit
from support.processes import Child
from support.same import same_run
from support.toys import here, write_circle, write_recipe

from modalkit import schema, write_dataset


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_recipe(folder, write_circle(folder))
    return folder


@pytest.fixture(scope="module")
def unbroken(work: Path) -> Path:
    done = here("train", "circle.yaml", "--out", "unbroken", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "given image" in done.stdout and "3 epochs done" in done.stdout
    return work / "unbroken"


def steps_logged(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def start_and_signal(work: Path, name: str, number: int, after_step: int) -> int:
    """Start a training, send a signal once it has logged a step, and return its exit status."""
    process = Child("train", "circle.yaml", "--out", name, "--set", "train.log_every=1", cwd=work)
    deadline = time.monotonic() + 120
    while steps_logged(work / name) < after_step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(60)


def test_a_run_folder_holds_what_it_promises(unbroken: Path) -> None:
    names = {p.name.split(".")[0] for p in unbroken.iterdir()}
    assert {"recipe", "environment", "metrics", "events", "checkpoints", "pictures", "translations"} <= names
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["split"] == "valid"] == [1, 2, 3]
    assert (unbroken / "pictures" / "final.png").stat().st_size > 1000
    table = json.loads((unbroken / "translations.json").read_text())
    assert {(t["given"], t["want"]) for t in table} >= {("all", "image"), ("class", "position"), ("image", "image")}


def test_killed_at_a_random_step_and_resumed_equals_unbroken_bit_for_bit(work: Path, unbroken: Path) -> None:
    name = "killed"
    for after in (4, 11):  # mid-epoch, twice; the last checkpoint is some steps behind
        assert start_and_signal(work, name, signal.SIGKILL, after) == -signal.SIGKILL
    done = here("train", name, cwd=work)  # by its run folder
    assert done.returncode == 0, done.stderr
    same_run(unbroken, work / name)
    steps = [json.loads(line)["step"] for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_saves_leaves_with_its_code_and_goes_on(work: Path, unbroken: Path, number: int) -> None:
    name = f"interrupted-{number}"
    assert start_and_signal(work, name, number, 5) == 128 + number
    assert torch.load(work / name / "checkpoints" / "state.pt", weights_only=True)["progress"]["step"] >= 5
    done = here("train", "circle.yaml", "--out", name, cwd=work)
    assert done.returncode == 0, done.stderr
    same_run(unbroken, work / name)


def test_a_finished_run_can_be_prolonged_but_not_changed(work: Path, unbroken: Path) -> None:
    changed = here("train", "circle.yaml", "--out", unbroken, "--set", "train.learning_rate=0.1", cwd=work)
    assert changed.returncode == 2 and "another recipe" in changed.stderr and "train.learning_rate" in changed.stderr
    assert "Traceback" not in changed.stderr
    short = here("train", "circle.yaml", "--out", "short", "--set", "train.max_steps=4", cwd=work)
    assert short.returncode == 0 and "4 steps done" in short.stdout, short.stderr
    longer = here("train", "circle.yaml", "--out", "short", cwd=work)
    assert longer.returncode == 0, longer.stderr
    same_run(unbroken, work / "short")


def test_nan_names_the_modality_and_the_step(work: Path) -> None:
    wild = here("train", "circle.yaml", "--out", "wild", "--set", "train.learning_rate=1e18", cwd=work)
    assert wild.returncode == 1 and "Traceback" not in wild.stderr
    assert "step 2: the loss is NaN or infinite" in wild.stderr and "learning_rate" in wild.stderr
    (work / "odd.py").write_text(
        "import dataclasses, torch, modalkit.registry as r\n"
        "base = r.modality('vector')\n"
        "class Odd(torch.distributions.Normal):\n"
        "    def log_prob(self, x): return super().log_prob(x) * float('nan')\n"
        "def likelihood(schema, raw):\n"
        "    d = base.likelihood(schema, raw)\n"
        "    return torch.distributions.Independent(Odd(d.mean, d.stddev), 1)\n"
        "ODD = dataclasses.replace(base, kind='odd', likelihood=likelihood)\n"
    )
    text = (work / "circle.yaml").read_text().replace("position: {kind: vector", "position: {kind: odd")
    (work / "odd.yaml").write_text("plugins: [odd.py]\n" + text)
    odd = here("train", "odd.yaml", cwd=work)
    assert odd.returncode == 1 and "step 1" in odd.stderr and "modality 'position'" in odd.stderr, odd.stderr


SHARES = """
import dataclasses, torch, modalkit.registry as r
base = r.modality("vector")
def dirichlet(schema, raw): return torch.distributions.Dirichlet(base.likelihood(schema, raw).mean.exp())
def lognormal(schema, raw):
    made = torch.distributions.LogNormal(base.likelihood(schema, raw).mean, 1.0, validate_args=True)
    return torch.distributions.Independent(made, 1)
MINE = dataclasses.replace(base, kind="mine", likelihood=LIKELIHOOD)
"""


@pytest.mark.parametrize(("likelihood", "code"), [("dirichlet", 1), ("lognormal", 2)])
def test_rows_that_a_likelihood_refuses_are_named(tmp_path: Path, likelihood: str, code: int) -> None:
    """An exact zero: the log density is infinite, or the distribution raises."""
    shares = torch.distributions.Dirichlet(torch.ones(3)).sample((60,))
    shares[7], shares[40] = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([0.25, 0.75, 0.0])
    keys = [f"sample {row}" for row in range(60)]
    split = ["train"] * 40 + ["valid"] * 20
    plain = {"shares": schema("vector", size=3)}
    write_dataset(tmp_path / "data", plain, {"shares": shares}, keys=keys, split=split)
    (tmp_path / "mine.py").write_text(SHARES.replace("LIKELIHOOD", likelihood))
    (tmp_path / "mine.yaml").write_text(
        "plugins: [mine.py]\ndata: {path: data}\nmodalities:\n  shares: {kind: mine, size: 3}\n"
        "model: {latent_dim: 1, start: random}\ntrain: {epochs: 1, batch_size: 20}\n"
    )
    done = here("train", "mine.yaml", cwd=tmp_path)
    assert done.returncode == code and "Traceback" not in done.stderr
    for words in ("modality 'shares' (kind 'mine')", "2 of 60 rows", "row 'sample 7' (0 0.5 0.5)", "row 'sample 40'"):
        assert words in done.stderr, done.stderr
    assert "learning_rate" not in done.stderr


def test_early_stop(work: Path) -> None:
    settings = ["--set", "train.patience=1", "--set", "train.epochs=50", "--set", "train.learning_rate=0.03"]
    done = here("train", "circle.yaml", "--out", "early", *settings, cwd=work)
    assert done.returncode == 0 and "no better validation ELBO since epoch" in done.stdout, done.stderr
    state = torch.load(work / "early" / "checkpoints" / "state.pt", weights_only=True)["progress"]
    assert state["epoch"] == state["best_epoch"] + 1 < 50


def test_float64_and_two_processes_agree_with_one(work: Path) -> None:
    """But for dropout, whose draws are each process's own."""
    text = (work / "circle.yaml").read_text().replace("dropout: 0.2", "dropout: 0.0")
    text = text.replace("latent_dim: 4", "latent_dim: 4, centered: true")
    (work / "plain.yaml").write_text(text)
    settings = ["--precision", "64", "--set", "train.max_steps=7"]
    one = here("train", "plain.yaml", "--out", "one", *settings, cwd=work)
    two = modalkit("train", "plain.yaml", "--out", "two", "--devices", "2", *settings, cwd=work)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    a, b = (load_file(work / run / "checkpoints" / "last.safetensors") for run in ("one", "two"))
    assert {value.dtype for value in a.values() if value.is_floating_point()} == {torch.float64}
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-8, atol=1e-10)


def test_mixed_precision_goes_on_bit_for_bit(work: Path) -> None:
    settings = ["--precision", "bf16-mixed", "--set", "train.pictures_every=0", "--set", "model.centered=true"]
    for name, steps in (("mixed", 5), ("mixed", 9), ("mixed-unbroken", 9)):
        done = here("train", "circle.yaml", "--out", name, *settings, "--set", f"train.max_steps={steps}", cwd=work)
        assert done.returncode == 0, done.stderr
    same_run(work / "mixed-unbroken", work / "mixed")
    weights = load_file(work / "mixed" / "checkpoints" / "last.safetensors")
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float32}


def test_what_is_made_ahead_comes_in_order_and_with_its_errors() -> None:
    from modalkit.training.devices import ahead

    made: list[int] = []

    def make(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        made.append(number)
        return number

    steps = ahead(make, range(9), torch.device("cpu"))  # type: ignore[arg-type]
    assert [next(steps) for _ in range(5)] == [0, 1, 2, 3, 4] == made
    with pytest.raises(ValueError, match="five"):
        next(steps)
    steps = ahead(make, range(9), torch.device("cpu"))  # type: ignore[arg-type]
    assert next(steps) == 0
    steps.close()  # as a loop that stops early does
    assert len(made) <= 8


def test_two_trainings_do_not_share_a_folder(work: Path, unbroken: Path) -> None:
    from modalkit.errors import InputError
    from modalkit.util.files import locked

    with locked(unbroken, "training"):
        second = Child("train", "circle.yaml", "--out", unbroken, cwd=work).done()
    assert second.returncode == 2 and "another process is training here" in second.stderr
    with locked(unbroken, "x"), pytest.raises(InputError), locked(unbroken, "x"):
        pass


PLUGIN = """
import dataclasses, torch, modalkit.registry as registry
base = registry.modality("vector")
def broken(*_): raise RuntimeError("out of order")
class Nan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): return g * float("nan")
def likelihood(schema, raw): return base.likelihood(schema, Nan.apply(raw))
"""


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("show=broken", 0, "no final.png: kind 'mine': its show failed: RuntimeError: out of order"),
        ("marginal=broken", 2, "modality 'position' (kind 'mine'): its marginal failed"),
        ("likelihood=likelihood", 1, "step 2: the loss is NaN or infinite; first in the weights"),
    ],
)
def test_plugins_that_fail_late_lose_nothing(work: Path, change: str, code: int, words: str) -> None:
    name = change.split("=")[0]
    (work / f"{name}.py").write_text(f"{PLUGIN}\nMINE = dataclasses.replace(base, kind='mine', {change})\n")
    text = (work / "circle.yaml").read_text().replace("position: {kind: vector", "position: {kind: mine")
    (work / f"{name}.yaml").write_text(f"plugins: [{name}.py]\n{text}")
    done = here("train", f"{name}.yaml", "--set", "train.max_steps=4", cwd=work)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    state = work / "runs" / name / "checkpoints" / "state.pt"
    assert state.exists() == (code != 1)  # nothing unsound is saved


def test_damaged_runs_and_changed_data_are_refused_in_words(work: Path, tmp_path: Path) -> None:
    (tmp_path / "circle.yaml").write_text((work / "circle.yaml").read_text())
    data = shutil.copytree(work / "circle", tmp_path / "circle")
    train = ["train", "circle.yaml", "--out", "run", "--set", f"data.path={data}"]
    assert here(*train, "--set", "train.max_steps=4", cwd=tmp_path).returncode == 0
    run = tmp_path / "run"
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write("{}\ngarbage")  # lines that a kill has cut are dropped
    (run / ".recipe.yaml.1.tmp").write_text("left by a kill")
    assert here(*train, "--set", "train.max_steps=5", cwd=tmp_path).returncode == 0
    assert not (run / ".recipe.yaml.1.tmp").exists()

    def refused(*words: str) -> None:
        done = here(*train, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"builder": {"name": "another"}}))
    refused("was trained on another content of")
    (data / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    state = bytearray((run / "checkpoints" / "state.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (run / "checkpoints" / "state.pt").write_bytes(state)
    refused("state.pt: damaged")
    (run / "recipe.yaml").write_text("a: [b")
    refused("recipe.yaml: this run's recipe is damaged")


def test_patience_needs_validation_rows(work: Path, tmp_path: Path) -> None:
    import modalkit as package

    dataset = package.Dataset(write_circle(tmp_path))
    values = {n: dataset[torch.arange(20)].values[n] for n in ("position", "counts")}
    made = {"position": package.schema("vector", size=2), "counts": package.schema("counts", size=2)}
    package.write_dataset(tmp_path / "all", made, values, split=["train"] * 20)
    nothing = [
        "--set",
        "modalities.image=null",
        "--set",
        "modalities.class=null",
        "--set",
        f"data.path={tmp_path / 'all'}",
    ]
    done = here("train", "circle.yaml", "--out", tmp_path / "run", *nothing, "--set", "train.patience=2", cwd=work)
    assert done.returncode == 2 and "no validation rows to wait for" in done.stderr, done.stderr
    done = here("train", "circle.yaml", "--out", tmp_path / "run", *nothing, "--set", "train.epochs=1", cwd=work)
    assert done.returncode == 0 and "on the 20 train rows that have both" in done.stdout, done.stderr


def test_short_epochs_are_not_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalkit.training.results._SECONDS_APART", math.inf)
    write_recipe(tmp_path, write_circle(tmp_path))
    done = here("train", "circle.yaml", "--set", "train.epochs=4", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line.split(":")[0] for line in done.stderr.splitlines() if "validation ELBO" in line]
    assert said == ["epoch 1", "epoch 4"]  # the first and the last are always said
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in logged if line["split"] == "valid"] == [1, 2, 3, 4]
