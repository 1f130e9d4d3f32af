"""Evaluation: the estimator against closed forms, what is kept of it, accuracies, coherence, and the command."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from modalkit_modalities.tokens import TokensSchema, Writer
from safetensors.torch import load_file, save_file
from support.linear import ROWS, SLOPES, fill, linear_run
from support.toys import write_circle, write_recipe
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner, Result

import modalkit
from modalkit.cli import app
from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.evaluation import likelihood
from modalkit.evaluation.likelihood import fetch, log_likelihoods, summarise
from modalkit.evaluation.metrics import log_likelihood, mean_and_error
from modalkit.evaluation.metrics.accuracy import accuracy
from modalkit.evaluation.metrics.coherence import coherence, train_classifier
from modalkit.evaluation.metrics.log_likelihood import Answer, ask
from modalkit.evaluation.metrics.reconstruction import reconstruction
from modalkit.evaluation.questions import Asking, Question, usual_questions
from modalkit.model import assemble
from modalkit.model.prediction import predict
from modalkit.recipe.loading import load_recipe
from modalkit.runs.opened import Run, load_run

QUESTIONS = [
    Question(*(tuple(n for n, what in zip(SLOPES, roles, strict=True) if what == role) for role in ("target", "given")))
    for roles in itertools.product(("target", "given", "neither"), repeat=3)
    if "target" in roles
]


def evidence(run: Run, names: Sequence[str]) -> Tensor:
    """Return log p of those of some views that each row has, in closed form; 0 where it has none."""
    batch, found = run.dataset[torch.arange(ROWS)], torch.zeros(ROWS).double()
    for row in range(ROWS):
        there = [n for m, n in enumerate(SLOPES) if n in names and batch.present[row, m]]
        if there:
            slopes = torch.cat([torch.diag(torch.tensor(SLOPES[n]).double()) for n in there])
            x = torch.cat([batch.values[n][row].double() for n in there])
            found[row] = MultivariateNormal(
                torch.zeros(len(x)).double(), slopes @ slopes.T + torch.eye(len(x))
            ).log_prob(x)
    return found


def exact(run: Run, question: Question) -> tuple[int, float, float]:
    """Return how many rows count, and the mean and standard error of log p(targets|given) over them."""
    has = {n: run.dataset.present[:, m] for m, n in enumerate(SLOPES)}
    rows = torch.stack([has[n] for n in question.targets]).any(0)
    if question.given:
        rows &= torch.stack([has[n] for n in question.given]).any(0)
    log_p = (evidence(run, question.targets + question.given) - evidence(run, question.given))[rows]
    return len(log_p), float(log_p.mean()), float(log_p.std() / len(log_p) ** 0.5)


def agree(run: Run, answers: Sequence[Answer], within: float) -> None:
    for answer in answers:
        rows, mean, error = exact(run, answer.question)
        assert answer.rows == rows, answer
        assert answer.log_p[0] == pytest.approx(mean, abs=within), answer
        assert answer.log_p[1] == pytest.approx(error, abs=within), answer


def test_an_exact_proposal_gives_the_closed_form_without_variance(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    assert not run.dataset.present.all() and len(QUESTIONS) == 19
    answers = ask(run, QUESTIONS, Asking(particles=5))
    agree(run, answers, 1e-9)
    for answer in answers:
        assert answer.variance[0] < 1e-18 and answer.ess == (pytest.approx(5), pytest.approx(0, abs=1e-9))


def test_few_effective_samples_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ask(linear_run(tmp_path / "near", wider=1.5), QUESTIONS[:1], Asking(particles=300))
    assert not caplog.text
    far = linear_run(tmp_path / "far")
    with torch.no_grad():
        for head in far.model.heads.values():
            head.bias[:2] += 9  # type: ignore[index]  # of the means
    ask(far, QUESTIONS[:1], Asking(particles=300))
    assert re.search(r"the effective sample size is [12]\.\d of 300 particles on average", caplog.text)


def test_an_inexact_proposal_gives_it_within_its_error(tmp_path: Path) -> None:
    run = linear_run(tmp_path, wider=2)
    answers = ask(run, QUESTIONS, Asking(particles=4000))
    agree(run, answers, 0.01)
    assert all(answer.variance[0] > 0.05 and 1000 < answer.ess[0] < 3950 for answer in answers)
    # Equation 6 and beyond: the proposal may see more than is explained, or less.
    of_others = [Question(("a",), (), ("a", "b")), Question(("a", "c"), (), ("b",)), Question(("a",), ("b",), ("c",))]
    agree(run, ask(run, of_others, Asking(particles=20_000)), 0.02)


def test_log_p_of_the_given_by_draws_of_the_prior(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    conditional = [question for question in QUESTIONS if question.given]
    agree(run, ask(run, conditional, Asking(particles=5, prior_particles=200_000)), 0.01)


@pytest.mark.parametrize("name", ["mmvae", "mopoe", "mixture-mvae, components: 2"])
def test_mixtures_propose_without_bias(tmp_path: Path, name: str) -> None:
    run = linear_run(tmp_path, f"{{name: {name}}}", wider=1.5)
    assert run.model.components > 1
    answers = ask(run, QUESTIONS, Asking(particles=6000))
    agree(run, answers, 0.02)
    assert max(answer.variance[0] for answer in answers) > 0.1


def test_models_without_every_posterior_answer_what_they_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = linear_run(tmp_path, "{name: jmvae}", experts=False)
    everything = ("a", "b", "c")
    assert usual_questions(run.model) == [Question(everything), *(Question((n,), (), (n,)) for n in everything)]
    asked = Question(("a",), ("b", "c"))
    with pytest.raises(InputError, match=r"no posterior of b, c to estimate .*--prior-particles"):
        ask(run, [asked], Asking())
    complete = run.dataset.present.all(1)
    (answer,) = ask(run, [asked], Asking(particles=20_000, prior_particles=200_000))
    log_p = (evidence(run, everything) - evidence(run, ("b", "c")))[complete]
    assert answer.rows == int(complete.sum())  # rows of which it has no posterior are left out
    assert re.search(rf"log p\(a \| b, c\): \d+ of {len(complete)} rows are left out", caplog.text)
    assert answer.log_p[0] == pytest.approx(float(log_p.mean()), abs=0.02)


def test_summary_of_log_weights_is_that_of_plain_formulas() -> None:
    log_w = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() * 2
    found = summarise(log_w - 5000)  # where a weight itself is 0
    for row, w in enumerate(log_w.exp().T.tolist()):
        mean = sum(map(math.log, w)) / 50
        assert found.log_p[row].item() + 5000 == pytest.approx(math.log(sum(w) / 50))
        assert found.variance[row].item() == pytest.approx(sum((math.log(one) - mean) ** 2 for one in w) / 49)
        assert found.ess[row].item() == pytest.approx(sum(w) ** 2 / sum(one**2 for one in w))
    one = summarise(torch.zeros(1, 1))
    assert one.variance.isnan() and one.ess.item() == 1


def encoded(run: Run, counted: list[int]) -> None:
    """Note how many rows the first view's encoder sees."""
    run.model.encoders["a"].register_forward_pre_hook(lambda _, args: counted.append(len(args[0])))


def test_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asking = linear_run(tmp_path, wider=2), Asking(particles=30, prior_particles=40)
    whole = ask(run, QUESTIONS, asking)
    monkeypatch.setattr(likelihood, "_NUMBERS", 100)
    parts = ask(replace(run, weights="other"), QUESTIONS, asking)  # which nothing is kept of
    for one, other in zip(whole, parts, strict=True):
        assert other.log_p == pytest.approx(one.log_p, abs=1e-12) and other.ess == pytest.approx(one.ess, abs=1e-9)


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let passes be interrupted, once, after so many saves; return the list that counts them."""
    saves, write_atomic = [], log_likelihood.write_atomic

    def save(path: Path, write: Any) -> None:
        write_atomic(path, write)
        saves.append(1)
        if len(saves) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(log_likelihood, "write_atomic", save)
    return saves


@pytest.mark.parametrize("prior_particles", [None, 50])
def test_a_broken_pass_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prior_particles: int | None
) -> None:
    monkeypatch.setattr(likelihood, "_MOST_ROWS", 4)
    monkeypatch.setattr(log_likelihood, "_SAVE_EVERY", 2)
    run, asking = linear_run(tmp_path, wider=2), Asking(particles=20, prior_particles=prior_particles)
    asked = [Question(("a",), ("b",)), Question(("a", "b"))]
    unbroken = ask(replace(run, path=tmp_path / "unbroken"), asked, asking)
    saves = interrupt(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        ask(run, asked, asking)
    counted: list[int] = []
    encoded(run, counted)
    assert ask(run, asked, asking) == unbroken
    first = int(run.dataset.present[16:, 0].sum())  # of the first pass 16 rows were done
    assert sum(counted[: len(range(16, ROWS, 4))]) == first and len(saves) == 2 + 1 + 3
    counted.clear()
    assert ask(run, asked, asking) == unbroken and not counted  # nothing is computed twice
    for path in (run.path / "evaluation").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    assert ask(run, asked, asking) == unbroken and counted  # what is damaged is


def test_a_pass_that_batches_of_another_size_began_has_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked, asking = linear_run(tmp_path), [Question(("a", "b"))], Asking(particles=5)
    monkeypatch.setattr(likelihood, "_MOST_ROWS", 4)
    monkeypatch.setattr(log_likelihood, "_SAVE_EVERY", 2)
    interrupt(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        ask(run, asked, asking)
    monkeypatch.setattr(likelihood, "_MOST_ROWS", 5)  # 16 rows are done
    agree(run, ask(run, asked, asking), 1e-9)


def test_what_is_kept_is_used_for_what_is_the_same_alone(tmp_path: Path) -> None:
    run, counted = linear_run(tmp_path), []
    encoded(run, counted)
    for number, asking in enumerate([Asking(particles=3), Asking(particles=3, seed=1), Asking(particles=4)]):
        for _ in range(2):
            ask(run, [Question(("a",))], asking)
            assert len(counted) == number + 1
    ask(replace(run, weights="trained on"), [Question(("a",))], Asking(particles=3))
    ask(run, [Question(("a",))], Asking(particles=3, rows=9))
    assert len(counted) == 5


class Speller(nn.Module):
    """Writes 1 or 0 by the sign of each number of z, or stops where it is below -2."""

    def __init__(self, schema: TokensSchema) -> None:
        super().__init__()
        self.schema = schema

    def forward(self, z: Tensor) -> Writer:
        return Writer(z, self.step)

    def step(self, z: Tensor, previous: Tensor, state: int | None) -> tuple[Tensor, int]:
        here, steps = state or 0, previous.shape[1]
        part = z[:, here : here + steps]
        token = torch.where(part < -2, self.schema.stop, (part > 0).long())
        return 50 * nn.functional.one_hot(token, self.schema.vocabulary).float(), here + steps


KNOWN = """\
data: {path: DATA}
modalities:
  where: {kind: vector, size: 2, scale: 1.0, network: {type: mlp, hidden: [2], decoder_hidden: []}}
  signs: {kind: attributes, names: [first, second], network: {type: mlp, hidden: [2], decoder_hidden: []}}
  sign: {kind: bit, network: {type: mlp, hidden: [2], decoder_hidden: []}}
  larger: {kind: label, classes: 2, network: {type: mlp, hidden: [2], decoder_hidden: []}}
  text: {kind: tokens, alphabet: "01", max_length: 2, network: {type: gru, embedding: 2, hidden: 2}}
model: {latent_dim: 2}
"""
WHERE = [[1, 2], [1, -1], [-1, 1], [2, -3], [-1, -1.5], [3, 1]]
TRUTH: dict[str, Any] = {  # what is wrong is marked
    "signs": [[1, 1], [1, 0], [1, 1], [1, 0], [0, 1], [1, 1]],  # [2] first, [4] second
    "sign": [1, 1, 0, 1, 0, 0],  # [5]
    "larger": [1, 1, 1, 0, 0, 0],  # [1]
    "text": ["11", "10", "01", "10", "01", "1"],  # [3] is 1, [4] 00, [5] 11
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that predicts from `where` by its signs, with some rows on which that is wrong, and some incomplete."""
    folder = tmp_path_factory.mktemp("known")
    (folder / "recipe.yaml").write_text(KNOWN.replace("DATA", str(folder / "data")))
    recipe = load_recipe(folder / "recipe.yaml")
    values = {"where": torch.tensor([*WHERE, [1, 1], [1, 1]])}
    for name, rows in TRUTH.items():
        more = [*rows, rows[0], rows[0]]
        values[name] = more if name == "text" else torch.tensor(more)
    present = {"where": [True] * 6 + [False, True]} | {n: [True] * 7 + [False] for n in TRUTH}
    modalkit.write_dataset(folder / "data", recipe.modalities, values, present=present, split=["test"] * 8)
    model = assemble(recipe).eval()
    model.encoders["where"] = nn.Identity()
    fill(model.heads["where"], torch.eye(4, 2), torch.tensor([0.0, 0, -20, -20]))
    for name, weight in {"signs": [[9, 0], [0, 9]], "sign": [9, 0], "larger": [[9, 0], [0, 9]]}.items():
        (decode,) = (part for part in model.decoders[name].modules() if isinstance(part, nn.Linear))
        fill(decode, torch.tensor(weight).float().reshape(-1, 2), torch.zeros(decode.out_features))
    model.decoders["text"] = Speller(model.schemas["text"])  # type: ignore[arg-type]
    return Run(folder, recipe, model, "known", Dataset(folder / "data", list(recipe.modalities)))


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("signs", {"first": [1, 1, 0, 1, 1, 1], "second": [1, 1, 1, 1, 0, 1]}),
        ("sign", {"bit": [1, 1, 1, 1, 1, 0]}),
        ("larger", {"class": [1, 0, 1, 1, 1, 1]}),
        (
            "text",
            {"character 1": [1, 1, 1, 1, 1, 1], "character 2": [1, 1, 1, 0, 0, 0], "string": [1, 1, 1, 0, 0, 0]},
        ),
    ],
)
def test_accuracies_are_those_counted_by_hand(known: Run, target: str, parts: dict[str, list[int]]) -> None:
    rows = torch.arange(8)  # the last two lack what is given, and what is to be predicted
    found = accuracy(known.model, known.dataset, rows, target, ["where"], 3, 0)
    assert {name: right.int().tolist() for name, right in found.items()} == parts
    assert accuracy(known.model, known.dataset, rows[6:], target, ["where"], 3, 0) == {}


def test_accuracy_is_of_kinds_that_can_be_wrong(known: Run) -> None:
    with pytest.raises(InputError, match="'vector' does not say when a prediction is right"):
        accuracy(known.model, known.dataset, torch.arange(8), "where", ["sign"], 3, 0)


def test_a_class_is_predicted_by_its_mean_probability_and_a_bit_by_its_own(known: Run) -> None:
    def value(name: str, draws: torch.Tensor) -> torch.Tensor:
        return predict(known.model, name, draws, 0, noise=False).value

    draws = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 5.0]]).unsqueeze(1)  # (draws, 1, latent_dim)
    assert value("larger", draws).tolist() == [1]  # though two draws of three say 0
    wavering = torch.tensor([[0.02, 0.0], [0.02, 0.0], [-1.0, 0.0]]).unsqueeze(1)
    assert value("sign", wavering).item() < 0.5
    assert value("text", torch.tensor([[[1.0, 1]], [[1, -1]], [[-1, 1]]])).tolist() == [[1, 1, 3]]  # and the stop


def test_reconstruction_is_the_expected_log_likelihood_under_the_posterior(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    rows = run.dataset.rows("test")
    batch = run.dataset[rows]
    posterior = run.model.posterior(run.model.observed(batch), batch.present, batch.present[None])
    noise = torch.randn(400, 1, len(rows), run.model.latent_dim, dtype=run.model.dtype)
    z = posterior.sample(noise, torch.rand(noise.shape[:-1]))[:, 0]
    expected = log_likelihoods(run.model, batch, z, run.model.names)
    found = reconstruction(run.model, run.dataset, rows, seed=0)
    assert found.keys() == expected.keys()
    for column, (name, log_px) in enumerate(expected.items()):
        there = batch.present[:, column]
        each = log_px[:, there].mean(0)
        spread = float(log_px[:, there].std(0).square().sum().sqrt() / there.sum())  # of one draw a row
        mean, error = found[name]
        assert abs(mean - float(each.mean())) < 4 * spread and error > 0


def test_mean_and_error_leave_out_what_is_not_there() -> None:
    nothing = mean_and_error(torch.full((2,), torch.nan))
    assert all(map(math.isnan, nothing)) and math.isnan(mean_and_error(torch.ones(1))[1])


def test_coherence(tmp_path: Path) -> None:
    data = write_circle(tmp_path, rows=600)
    recipe = load_recipe(write_recipe(tmp_path, data))
    dataset, path = Dataset(data, list(recipe.modalities)), tmp_path / "classifier.safetensors"
    classifier = train_classifier(dataset, recipe.modalities, "position", "class", path, epochs=120, seed=0)
    model, rows = assemble(recipe), dataset.rows("test")
    shares = coherence(model, classifier, dataset, rows, "position", "class", 0)
    assert shares["real"][0] > 0.85 and 0 <= shares["generated"][0] < 0.8  # of a model that knows nothing
    written = path.stat().st_mtime_ns
    again = train_classifier(dataset, recipe.modalities, "position", "class", path, epochs=120, seed=0)
    assert path.stat().st_mtime_ns == written
    assert coherence(model, again, dataset, rows, "position", "class", 0) == shares
    with pytest.raises(InputError, match="no training row has both image and class"):
        dataset.present[:, 2] = False
        train_classifier(dataset, recipe.modalities, "image", "class", tmp_path / "x", epochs=1, seed=0)


def command(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == code and (done.exception is None or isinstance(done.exception, SystemExit)), done.output
    return done


def refused(*arguments: object, words: Sequence[str]) -> None:
    done = command("evaluate", *arguments, code=2)
    for word in words:
        assert word in done.output, done.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the circle, and runs of three objectives."""
    folder = tmp_path_factory.mktemp("evaluate")
    recipe = write_recipe(folder, write_circle(folder, rows=240))
    pair = ["--set", "modalities.image=null", "--set", "modalities.counts=null"]
    one = {"mvae": ["--set", "train.epochs=2"]} | {n: [*pair, "--set", "train.epochs=1"] for n in ("bivcca", "cvae")}
    for name, settings in one.items():
        command("train", recipe, "--out", folder / name, "--set", f"objective.name={name}", *settings)
    return folder


@pytest.fixture
def run(work: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run that a test may spoil."""
    yield shutil.copytree(work / "mvae", tmp_path / "run")


def test_the_command_prints_a_table_and_adds_to_its_file(run: Path) -> None:
    done = command("evaluate", run, "--particles", 20, "--rows", 10).output
    for word in ("log p(image, position, class, counts)", "log p(class)", "q(z|class)", "nats", "ESS", "parameters:"):
        assert word in done
    assert "right, predicted as p(class | image, position, counts):" in done
    usual = json.loads((run / "evaluation.json").read_text())
    assert len(usual["log_likelihoods"]) == 9 and usual["parameters"]["decoder.class"] > 0
    assert usual["reconstruction"].keys() == {"image", "position", "class", "counts", "settings"}
    given = ["--given", "class", "--targets", "position", "--particles", 20, "--rows", 10]
    done = command("evaluate", run, *given).output
    assert "log p(position | class)" in done and "q(z|position,class)" in done and "log p(image" not in done
    both = json.loads((run / "evaluation.json").read_text())
    (added,) = both["log_likelihoods"].keys() - usual["log_likelihoods"].keys()
    assert added == "log p(position | class) by q(z|position, class)"
    assert both["log_likelihoods"] == usual["log_likelihoods"] | {added: both["log_likelihoods"][added]}
    answer = both["log_likelihoods"][added]
    assert answer["question"] == {"targets": ["position"], "given": ["class"], "proposal": ["position", "class"]}
    assert answer["settings"]["particles"] == 20 and answer["settings"]["split"] == "test"
    assert 0 < answer["rows"] < 10  # some lack the class
    assert all(len(answer[figure]) == 2 for figure in ("log_p", "variance", "ess"))
    command("evaluate", run, *given, "--prior-particles", 500, "--seed", 1, "--split", "valid")
    changed = json.loads((run / "evaluation.json").read_text())["log_likelihoods"]
    assert changed.keys() == both["log_likelihoods"].keys() and changed[added]["settings"]["prior_particles"] == 500


def test_the_command_asks_in_any_order_and_says_null_for_what_is_no_number(run: Path) -> None:
    command("evaluate", run, "--targets", "counts, position,counts", "--particles", 1, "--rows", 1)
    kept = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    (answer,) = kept["log_likelihoods"].values()
    assert answer["question"]["targets"] == ["position", "counts"]
    assert answer["variance"] == [None, None] and answer["log_p"][1] is None


def test_the_command_says_how_coherent_samples_are(run: Path) -> None:
    asked = ["evaluate", run, "--targets", "class", "--particles", 5, "--coherence", "image:class"]
    done = command(*asked).output
    assert "image generated from class, classified as that class:" in done
    shares = json.loads((run / "evaluation.json").read_text())["coherence"]["image:class"]
    assert all(0 <= shares[what][0] <= 1 for what in ("generated", "real"))
    (path,) = (run / "evaluation").glob("classifier-class-from-image-*.safetensors")
    written = path.stat().st_mtime_ns
    command(*asked)
    assert json.loads((run / "evaluation.json").read_text())["coherence"]["image:class"] == shares
    assert path.stat().st_mtime_ns == written
    command(*asked, "--seed", 1)
    assert len(list((run / "evaluation").glob("classifier-*"))) == 2


def test_the_command_says_how_coherent_samples_of_others_are(run: Path) -> None:
    asked = ["evaluate", run, "--targets", "class", "--particles", 5, "--coherence", "image:class:counts,position"]
    done = command(*asked).output
    assert "image generated from position, counts, classified as the row's class:" in done
    shares = json.loads((run / "evaluation.json").read_text())["coherence"]["image:class:counts,position"]
    assert all(0 <= shares[what][0] <= 1 for what in ("generated", "real"))


def test_coherence_of_a_model_that_copies_is_that_of_what_is_given(tmp_path: Path) -> None:
    """Where the decoder repeats what is given, generated samples are classified as the real ones are."""
    data = write_circle(tmp_path, rows=200)
    recipe = load_recipe(write_recipe(tmp_path, data))
    dataset = Dataset(data, list(recipe.modalities))
    classifier = train_classifier(
        dataset, recipe.modalities, "position", "class", tmp_path / "one.safetensors", epochs=40, seed=0
    )
    model, rows = assemble(recipe), dataset.rows("test")
    copies = {name: fetch(dataset, model.schemas, rows, 0).values[name] for name in ("position",)}
    whole = dataset.present[rows][:, [model.names.index(n) for n in ("position", "class", "counts")]].all(1)
    model.predict = lambda name, z: copies[name][whole]  # type: ignore[method-assign]
    shares = coherence(model, classifier, dataset, rows, "position", "class", 0, given=("counts",))
    assert shares["generated"] == shares["real"] and shares["real"][0] > 0.5


def test_the_command_takes_what_each_objective_can(work: Path) -> None:
    few = ["--particles", 5, "--rows", 5]
    done = command("evaluate", work / "bivcca", *few).output
    assert "log p(position) " in done and "log p(class) " in done and "log p(position, class)" not in done
    done = command("evaluate", work / "bivcca", *few, "--targets", "position", "--given", "class").output
    assert "q(z|position) " in done
    done = command("evaluate", work / "cvae", *few).output
    assert "log p(position | class)" in done and "q(z|position,class)" in done


def test_weights_of_double_precision_are_read_as_they_are(work: Path, tmp_path: Path) -> None:
    short = ["--precision", 64, "--set", "train.max_steps=1", "--set", "modalities.image=null"]
    command("train", work / "circle.yaml", "--out", tmp_path / "run", *short)
    read, weights = load_run(tmp_path / "run"), load_file(tmp_path / "run" / "checkpoints" / "best.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in read.model.state_dict().items())
    assert read.model.dtype == torch.float64


def test_the_command_refuses_in_words(work: Path) -> None:
    run = work / "mvae"
    refused(work, words=["is not a run (no recipe.yaml)"])
    refused(work / "nowhere", words=["nowhere: is not a run"])
    refused(run, "--targets", "positon", words=["no modality 'positon' (did you mean 'position'?)"])
    refused(run, "--targets", "class", "--given", "class", words=["class: cannot be both given and a target"])
    refused(run, "--given", "class", words=["--given and --proposal need --targets"])
    refused(run, "--split", "tset", words=["unknown split 'tset'; the splits are train, valid, test"])
    refused(run, "--device", "cuda:99", words=["--device cuda:99: is not available here"])
    refused(run, "--device", "toaster", words=["--device toaster: is not available here"])
    for wrong in ("image", "image:clas", "image:image"):
        refused(run, "--coherence", wrong, words=[f"--coherence {wrong}: write SOURCE:TARGET, two of image, position"])
    for wrong in ("image:class:", "image:class:image", "image:class:positon"):
        refused(run, "--coherence", wrong, words=["write SOURCE:TARGET:GIVEN,..., with given modalities of position"])
    refused(run, "--coherence", "image:counts", words=["does not say when a prediction is right"])
    both = ["--targets", "position,class", "--proposal", "position,class"]
    refused(work / "bivcca", *both, words=["cannot answer it: there is no posterior of position, class"])
    refused(work / "bivcca", "--targets", "position,class", words=["there is no posterior of position, class"])
    refused(work / "cvae", "--targets", "position", words=["it must be given class"])
    refused(work / "cvae", "--targets", "class", "--given", "position", words=["does not model it, only conditions on"])
    refused(work / "cvae", "--coherence", "class:position", words=["does not generate class from position"])


def test_the_command_refuses_what_is_damaged(run: Path) -> None:
    few = ["--particles", 5, "--rows", 5, "--targets", "class"]
    for text in ("{", "[1]", '{"log_likelihoods": 3}', "\udc80"):
        (run / "evaluation.json").write_bytes(text.encode(errors="surrogateescape"))
        refused(run, *few, words=["evaluation.json: cannot be read", "delete it, or move it away"])
    assert not (run / "evaluation").exists()  # it is said before the work
    (run / "evaluation.json").unlink()
    weights = run / "checkpoints" / "best.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(run, *few, words=["best.safetensors: these weights are damaged"])
    save_file({"x": torch.zeros(1)}, weights)
    refused(run, *few, words=["best.safetensors: not this recipe's weights"])
    weights.unlink()
    refused(run, *few, words=["no weights there; has this run finished an epoch?"])
    (run / "recipe.yaml").write_text("a: [b")
    refused(run, *few, words=["recipe.yaml"])


def test_another_dataset(run: Path, tmp_path: Path) -> None:
    schemas = {"class": modalkit.schema("label", classes=3), "counts": modalkit.schema("counts", size=2)}
    values = {"class": torch.tensor([0, 1, 2]), "counts": torch.ones(3, 2).long()}
    modalkit.write_dataset(tmp_path / "lacks", schemas, values, split=["test"] * 3)
    refused(run, "--data", tmp_path / "lacks", words=["lacks: has no modality 'image'", "it has class, counts"])
    refused(run, "--data", tmp_path, words=["is not a modalkit dataset"])
    schemas |= {"image": modalkit.schema("image", size=12, channels=1), "position": modalkit.schema("vector", size=3)}
    values |= {"image": torch.rand(3, 1, 12, 12), "position": torch.rand(3, 3)}
    modalkit.write_dataset(tmp_path / "other", schemas, values, split=["test"] * 3)
    refused(run, "--data", tmp_path / "other", words=["modalities.position.size: 3 in the dataset, 2 here"])
    schemas["position"], values["position"] = modalkit.schema("vector", size=2), torch.rand(3, 2)
    data = tmp_path / "test rows alone"
    modalkit.write_dataset(data, schemas, values, split=["test"] * 3)
    few = ["--targets", "class", "--given", "image", "--particles", 5]
    command("evaluate", run, *few, "--data", data)
    (answer,) = json.loads((run / "evaluation.json").read_text())["log_likelihoods"].values()
    assert answer["rows"] == 3 and answer["settings"]["data"] == str(data)
    refused(run, *few, "--data", data, "--split", "train", words=["no rows in the train split"])
    refused(run, *few, "--data", data, "--coherence", "image:class", words=["no training row has both image and class"])


DYNAMIC = """\
data: {path: DATA}
modalities:
  image: {kind: image, size: 6, channels: 1, binarize: true, network: {type: mlp, hidden: [8], decoder_hidden: [8]}}
  label: {kind: label, classes: 3, network: {type: mlp, hidden: [8], decoder_hidden: [8]}}
model: {latent_dim: 2}
train: {epochs: 1, batch_size: 10, accelerator: cpu, pictures_every: 0}
"""


def test_dynamic_binarisation_draws_by_row_and_leaves_what_is_binary(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    schemas = {"image": modalkit.schema("image", size=6, channels=1), "label": modalkit.schema("label", classes=3)}
    gray, label = torch.rand(60, 1, 6, 6, generator=g), torch.randint(3, (60,), generator=g)
    for name, image in (("gray", gray), ("binary", (gray > 0.5).float())):
        modalkit.write_dataset(tmp_path / name, schemas, {"image": image, "label": label})
    (tmp_path / "dynamic.yaml").write_text(DYNAMIC.replace("DATA", str(tmp_path / "gray")))
    recipe = load_recipe(tmp_path / "dynamic.yaml")
    opened = {name: Dataset(tmp_path / name, ["image", "label"]) for name in ("gray", "binary")}
    rows = torch.arange(20, 30)
    drawn = fetch(opened["gray"], recipe.modalities, rows, 0)
    assert set(drawn.values["image"].unique().tolist()) == {0, 255}
    some = fetch(opened["gray"], recipe.modalities, rows[[7, 2]], 0)
    assert torch.equal(some.values["image"], drawn.values["image"][[7, 2]])
    assert not torch.equal(fetch(opened["gray"], recipe.modalities, rows, 1).values["image"], drawn.values["image"])
    fixed = fetch(opened["binary"], recipe.modalities, rows, 0)
    assert torch.equal(fixed.values["image"], opened["binary"][rows].values["image"])
    run = tmp_path / "run"
    command("train", tmp_path / "dynamic.yaml", "--out", run)
    plain = shutil.copytree(run, tmp_path / "plain")  # the same weights, and pictures as they are
    (plain / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("binarize: true", "binarize: false"))
    found = {}
    for folder, name in itertools.product((run, plain), ("gray", "binary")):
        command("evaluate", folder, "--targets", "image", "--particles", 50, "--data", tmp_path / name)
        (answer,) = json.loads((folder / "evaluation.json").read_text())["log_likelihoods"].values()
        found[folder.name, name] = answer["log_p"]
    assert found["run", "binary"] == found["plain", "binary"] and found["run", "gray"] != found["plain", "gray"]
