"""Objectives: the plans they make, the recipes they refuse, and that all of them train through the command line."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command_line import install, refused
from support.documents import shown_file
from support.objectives import BESIDE_MVAE
from support.toys import here, write_circle, write_recipe
from torch import Tensor

from modalkit import registry, schema
from modalkit.data import Batch, Dataset, write_dataset
from modalkit.model import MultimodalVAE, assemble
from modalkit.model.engine import evaluate_plan
from modalkit.objectives.mvae import MVAE, MvaeOptions, check_mvae, plan_mvae
from modalkit.plugin import Draws, Plan
from modalkit.recipe.loading import load_recipe

NAMES = tuple("abcde")
SMALL = {"type": "mlp", "hidden": [4], "decoder_hidden": [4]}


def plan(present: torch.Tensor, seed: int = 0, **options: object) -> Plan:
    g = torch.Generator().manual_seed(seed)
    return plan_mvae(MvaeOptions.model_validate(options), NAMES[: present.shape[1]], present, Draws(g))


def test_complete_rows_get_the_papers_terms() -> None:
    made = plan(torch.ones(3, 4, dtype=torch.bool), k=2, targets="subset")
    assert made.terms == ("all", "only:a", "only:b", "only:c", "only:d", "random:0", "random:1")
    assert made.given[0].all()
    assert torch.equal(made.given[1:5, 0], torch.eye(4, dtype=torch.bool))
    assert torch.equal(made.given, made.targets)
    for term in (5, 6):  # one subset a step, of size 2 to M - 1
        assert (made.given[term] == made.given[term, 0]).all()
        assert 2 <= int(made.given[term, 0].sum()) <= 3


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 3), st.sampled_from(["subset", "present"]))
def test_any_pattern_of_presence(seed: int, modalities: int, k: int, targets: str) -> None:
    present = torch.rand(20, modalities, generator=torch.Generator().manual_seed(seed)) < 0.5
    made = plan(present, seed, k=k, targets=targets)
    assert not (made.given & ~present).any() and not (made.targets & ~present).any()
    assert torch.equal(made.given[0], present)
    for row in range(20):
        subsets = [tuple(t) for t in made.given[:, row].tolist()]
        singles = [s for term, s in zip(made.terms, subsets, strict=True) if term.startswith("only:") and any(s)]
        # A row with one modality has just its complete term; otherwise each of its modalities stands alone once.
        assert len(singles) == (int(present[row].sum()) if present[row].sum() > 1 else 0)
        for term, subset in zip(made.terms, subsets, strict=True):
            if term.startswith("random:") and any(subset):
                assert 2 <= sum(subset) <= int(present[row].sum()) - 1
        for term, subset in enumerate(subsets):
            want = (
                subset
                if targets == "subset"
                else tuple(present[row].tolist())
                if any(subset)
                else (False,) * modalities
            )
            assert tuple(made.targets[term, row].tolist()) == want


def test_random_subsets_are_uniform_by_size_and_then_by_content() -> None:
    present = torch.tensor([[True] * 5, [True, False, True, True, True]])
    counts: tuple[Counter[tuple[bool, ...]], Counter[tuple[bool, ...]]] = (Counter(), Counter())
    draws = 6000
    for seed in range(draws // 3):
        made = plan(present, seed, k=3)
        for term in (-3, -2, -1):
            for row in (0, 1):
                counts[row][tuple(made.given[term, row].tolist())] += 1
    # Five present: sizes 2, 3, 4 equally often; 10, 10 and 5 subsets. Four: sizes 2 and 3; 6 and 4 subsets.
    for row, expected in ((0, {2: 1 / 30, 3: 1 / 30, 4: 1 / 15}), (1, {2: 1 / 12, 3: 1 / 8})):
        assert len(counts[row]) == {0: 25, 1: 10}[row]
        for subset, count in counts[row].items():
            p = expected[sum(subset)]
            assert abs(count / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5


@pytest.mark.parametrize("targets", ["subset", "present"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_single_terms_stand_for_all_without_bias(targets: str, count: int) -> None:
    """Over every choice the loss averages to that of all of them, with the same noise, to the last digits."""
    torch.set_default_dtype(torch.float64)
    try:
        net = {"type": "mlp", "hidden": [6], "decoder_hidden": [6]}
        made = {name: schema("vector", size=2, network=net, weight=1 + i) for i, name in enumerate(NAMES[:4])}
        torch.manual_seed(0)
        model, rows, k = MultimodalVAE(made, 3), 12, 1
        present = torch.rand(rows, 4, generator=torch.Generator().manual_seed(1)) < 0.6
        present[:3] = torch.tensor([[True] * 4, [False, True, False, False], [False] * 4])
        batch = Batch({n: torch.randn(rows, 2) * present[:, i, None] for i, n in enumerate(made)}, present)
        noise = torch.randn(6, rows, 3)  # of the complete term, of each modality alone, of the random subset

        def loss(seed: int, **options: object) -> tuple[tuple[int, ...], Tensor]:
            some = plan(present, seed, k=k, targets=targets, **options)
            alone = [i for i, term in enumerate(some.terms) if term.startswith(("only:", "single:"))]
            which = tuple(int(some.given[i, 0].nonzero()) for i in alone)  # the first row has all four
            # The random subset is held fixed: it has its own draws, and no part in this.
            fixed = (
                torch.cat([some.given[:-1], complete.given[-1:]]),
                torch.cat([some.targets[:-1], complete.targets[-1:]]),
            )
            drawn = noise[[0, *(1 + i for i in which), 5]]
            some = Plan(some.terms, *fixed, weight=some.weight)
            return which, evaluate_plan(model, batch, some, drawn, beta=0.7).elbo.sum(0)  # (rows,)

        complete = plan(present, 0, k=k, targets=targets)
        _, whole = loss(0)
        by_choice = dict(loss(seed, singles=count) for seed in range(60))
        assert len(by_choice) == math.comb(4, count)
        torch.testing.assert_close(torch.stack(list(by_choice.values())).mean(0), whole, rtol=1e-12, atol=1e-12)
        assert (
            torch.equal(by_choice[0, 1, 2][1], whole[1]) if count == 3 else True
        )  # a lone modality has no single term
    finally:
        torch.set_default_dtype(torch.float32)


def test_which_single_terms_is_uniform_and_the_same_for_all_of_a_step() -> None:
    present = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    present[0] = True
    choices: Counter[tuple[int, ...]] = Counter()
    for seed in range(3000):
        made = plan(present, seed, singles=2, k=1)
        assert made.terms == ("all", "single:0", "single:1", "random:0") and made.weight is not None
        assert made.weight[:, 0].tolist() == [1, 2.5, 2.5, 1]
        choices[tuple(made.given[1:3, 0].nonzero()[:, 1].tolist())] += 1
        for term in (1, 2):
            column = int(made.given[term, 0].nonzero())
            assert torch.equal(made.given[term, :, column], present[:, column] & (present.sum(1) > 1))
    assert len(choices) == 10 and all(abs(n / 3000 - 0.1) < 5 * (0.09 / 3000) ** 0.5 for n in choices.values())
    # All of them is what it was, to the generator's last draw.
    one, other = plan(present, 3, singles=5, k=2), plan(present, 3, k=2)
    assert one.terms == other.terms and torch.equal(one.given, other.given) and one.weight is None


def test_singles_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match="singles: 3 is more than the 2 modalities"):
        check_mvae(MvaeOptions(singles=3), ("a", "b"))
    with pytest.raises(ValueError, match="subsets: all has every single modality"):
        check_mvae(MvaeOptions(singles=1, subsets="all"), ("a", "b"))
    assert plan(torch.ones(2, 1, dtype=torch.bool), singles=1).terms == ("all",)


def test_no_single_terms() -> None:
    made = plan(torch.ones(3, 4, dtype=torch.bool), 0, singles=0, k=2)
    assert made.terms == ("all", "random:0", "random:1") and made.weight is None
    assert made.given[0].all() and bool(((made.given[1:].sum(2) > 1) & (made.given[1:].sum(2) < 4)).all())


def test_all_subsets_counts_each_that_a_row_has_once() -> None:
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    made = plan(present, subsets="all")
    assert len(made.terms) == 7 and made.terms[0] == "all" and made.given[0, 0].all() and made.terms[4] == "a+b"
    assert made.given.any(-1).sum(0).tolist() == [7, 3, 0]
    with pytest.raises(ValueError, match="2\\^13 terms"):
        check_mvae(MvaeOptions(subsets="all"), tuple("abcdefghijklm"))
    assert MVAE.check is check_mvae


NEEDED = {"telbo": {"first_stage_epochs": 2}}


def plan_of(name: str, present: torch.Tensor, epoch: int | None = 0, **options: object) -> Plan:
    objective = registry.get(registry.OBJECTIVES, name)
    chosen = objective.options.model_validate({"name": name, **NEEDED.get(name, {}), **options})
    return objective.plan(chosen, NAMES[: present.shape[1]], present, Draws(torch.Generator().manual_seed(0), epoch))


@pytest.mark.parametrize("name", BESIDE_MVAE)
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from([0, 2, None]))
def test_no_plan_asks_for_what_is_absent(name: str, seed: int, modalities: int, epoch: int | None) -> None:
    modalities = {"vae": 1, "cvae": 2}.get(name, modalities)
    present = torch.rand(12, modalities, generator=torch.Generator().manual_seed(seed)) < 0.5
    made = plan_of(name, present, epoch)
    made.check(present)
    assert not (made.given & ~present).any() and not (made.targets & ~present).any()
    assert made.references is None or not made.references[~present.expand_as(made.references)].any()
    assert not (made.targets & ~made.given.any(-1, keepdim=True)).any()  # nothing is explained from the prior alone


def test_a_term_of_bivcca_is_one_modalitys_with_weights_that_add_up_to_one() -> None:
    present = torch.tensor([[True, True, True], [False, True, True]])
    made = plan_of("bivcca", present, mu=0.4)
    assert made.terms == ("from:a", "from:b", "from:c") and made.weight is not None
    torch.testing.assert_close(made.weight[:, 0], torch.tensor([0.4, 0.3, 0.3]))
    assert torch.equal(made.given[:, 0], torch.eye(3, dtype=torch.bool)) and made.targets[:, 0].all()
    assert made.given.any(-1)[:, 1].tolist() == [False, True, True] and not made.targets[0, 1].any()


def test_a_lone_modality_has_a_share_of_its_own_elbo_in_mvtcae() -> None:
    made = plan_of("mvtcae", torch.tensor([[True, False], [True, True]]), alpha=0.6)
    assert made.weight is not None and made.kl_weight is not None and made.references is not None
    torch.testing.assert_close(made.weight, torch.tensor([[0.4, 0.7]]))
    torch.testing.assert_close(made.kl_weight, torch.tensor([[0.4, 0.4]]))
    torch.testing.assert_close(made.references, torch.tensor([[[0.6, 0.0], [0.3, 0.3]]]))


def test_telbo_has_single_terms_in_its_second_stage_and_in_every_validation() -> None:
    present = torch.tensor([[True, True], [True, False]])
    telbo = registry.get(registry.OBJECTIVES, "telbo")
    options = telbo.options(name="telbo", first_stage_epochs=2)
    for epoch, terms, still in ((1, 1, ("alone.",)), (2, 3, ("encoders.", "heads.", "decoders."))):
        made = plan_of("telbo", present, epoch)
        assert len(made.terms) == terms and telbo.frozen(options, epoch) == still
        assert made.given[0].tolist() == [[True, True], [False, False]]
    assert plan_of("telbo", present, None).terms == ("all", "only:a", "only:b")


# Through the command line.


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the circle's dataset and recipe, and with words and their classes."""
    folder = tmp_path_factory.mktemp("objectives")
    write_recipe(folder, write_circle(folder))
    made = {
        "word": registry.schema("tokens", alphabet="ab", max_length=2),
        "class": registry.schema("label", classes=2),
    }
    write_dataset(folder / "words", made, {"word": ["a", "ab"] * 10, "class": torch.arange(20) % 2})
    (folder / "words.yaml").write_text(
        "data: {path: words}\nmodalities:\n  word: {kind: tokens, alphabet: ab, max_length: 2}\n"
        "  class: {kind: label, classes: 2}\ntrain: {accelerator: cpu}\n"
    )
    nine = "".join(f"  m{i}: {{kind: vector, size: 1}}\n" for i in range(9))
    (folder / "nine.yaml").write_text(f"data: {{path: nine}}\nmodalities:\n{nine}train: {{accelerator: cpu}}\n")
    return folder


def change(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def without(*names: str) -> list[str]:
    return [f"modalities.{name}=null" for name in names]


REFUSED: dict[str, tuple[str, list[str], tuple[str, ...]]] = {
    "cvae of three": (
        "circle", ["objective.name=cvae", *without("image")],
        ("circle.yaml:11:", "cvae takes two modalities", "this recipe has 3 (position, class, counts)"),
    ),
    "cvae of a stranger": (
        "circle", ["objective.name=cvae", "objective.target=clas", *without("image", "counts")],
        ("the target 'clas' is none of the modalities; they are position, class",),
    ),
    "cvae given counts": (
        "circle", ["objective.name=cvae", "objective.target=position", *without("image", "class")],
        ("objective 'cvae': its model failed", "CountsSchema does not define columns"),
    ),
    "cvae of tokens": (
        "words", ["objective.name=cvae", "objective.target=word"],
        ("modality 'word' (kind 'tokens'): its encoder failed", "no dense layer that could see the condition"),
    ),
    "cvae of an embedding": (
        "circle", ["objective.name=cvae", "objective.target=class", *without("image", "counts")],
        ("modality 'class' (kind 'label'): its encoder failed", "no dense layer that could see the condition"),
    ),
    "vae of two": (
        "circle", ["objective.name=vae", *without("image", "counts")],
        ("circle.yaml:11:", "vae takes one modality, and this recipe has 2 (position, class)", "`class: null`", "mvae"),
    ),
    "mopoe of nine": ("nine", ["objective.name=mopoe"], ("2^9 - 1 subsets; use mvae or mmvae above 8 modalities",)),
    "mixture-mvae of many parts": (
        "circle", ["objective.name=mixture-mvae", "objective.components=5"],
        ("components: 5 in each of 4 experts multiply out to 5^4 parts, above 256",),
    ),
    "bivcca of one": (
        "circle", ["objective.name=bivcca", *without("image", "class", "counts")],
        ("circle.yaml:11:", "bivcca takes two modalities or more; for one, choose vae"),
    ),
    "cvae without pairs": (
        "circle", ["objective.name=cvae", "data.weak.paired=0", *without("image", "counts")],
        ("objective 'cvae': no training row of", "has what its terms need (data.weak hides entries)"),
    ),
    "everything hidden": (
        "circle", ["data.weak.keep=0"], ("data.weak hides every training entry of image, position, class, counts",),
    ),
    "telbo without its second stage": (
        "circle", ["objective.name=telbo", "objective.first_stage_epochs=5", "train.epochs=5"],
        ("train.epochs: 5 epochs end before the last stage of objective 'telbo' begins",),
    ),
    "private latents for an objective without": (
        "circle", ["modalities.position.private_dim=2"],
        ("modalities.position.private_dim: the objective mvae has no private latents; remove", "dmvae, mmvae-plus"),
    ),
    "an objective for private latents without": (
        "circle", ["objective.name=mmvae-plus"], ("objective.name: mmvae-plus is for private latents", "private_dim"),
    ),
    "private latents of a covariate": (
        "circle", ["objective.name=dmvae", "modalities.class.role=covariate", "modalities.class.private_dim=1"],
        ("modalities.class.private_dim: a covariate has no latent",),
    ),
    "private latents with matrices": (
        "circle", ["objective.name=dmvae", "modalities.class.private_dim=1", "model.experts=full"],
        ("model.experts: the objective dmvae needs experts: diagonal",),
    ),
    "private latents that are no number": (
        "circle", ["objective.name=dmvae", "modalities.class.private_dim=-1"],
        ("modalities.class.private_dim: should be a number of at least 0, got -1",),
    ),
    "dmvae of one": (
        "circle", ["objective.name=dmvae", "modalities.position.private_dim=1", *without("image", "class", "counts")],
        ("dmvae takes two modalities or more; for one, choose vae",),
    ),
    "telbo without its stages": ("circle", ["objective.name=telbo"], ("objective.first_stage_epochs: is missing",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_objective_cannot_train_is_refused_in_words_before_training(work: Path, case: str) -> None:
    recipe, settings, words = REFUSED[case]
    done = here("train", f"{recipe}.yaml", "--out", case, *change(*settings), cwd=work)
    refused(done, *words)
    assert not (work / case / "recipe.yaml").exists()  # nothing has claimed the folder


@pytest.mark.parametrize("name", ["jmvae", "telbo", "mvtcae", "crmvae", "mmvm"])
def test_a_joint_objective_refuses_a_single_modality(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} takes two modalities or more; for one, choose vae"):
        registry.get(registry.OBJECTIVES, name).check(None, ("a",))


def test_jmvae_names_the_first_row_that_lacks_something(work: Path) -> None:
    done = here("train", "circle.yaml", "--out", "holes", *change("objective.name=jmvae"), cwd=work)
    dataset = Dataset(work / "circle")
    rows = dataset.rows("train")
    lacking = rows[~dataset.present[rows].all(1)]
    first = int(lacking[0])
    absent = [n for n, there in zip(dataset.names, dataset.present[first], strict=True) if not there]
    refused(
        done, "objective 'jmvae' is defined for complete rows only", f"{len(lacking)} of {len(rows)} training rows",
        f"(the first, {dataset.key(first)}, lacks {', '.join(absent)})", "such as mvae",
    )  # fmt: skip


ALL = {"image", "position", "class", "counts"}
TRAINED: dict[str, tuple[list[str], set[str]]] = {
    "vae": (without("position", "class", "counts"), {"all"}),
    "bivcca": (["objective.mu=0.3"], ALL),
    "jmvae": (["objective.hidden=8", *without("image", "class")], {"all", "position", "counts"}),
    "telbo": (["objective.first_stage_epochs=1"], {"all", *ALL}),
    "cvae": (["objective.target=image", *without("position", "counts")], {"all", "class"}),
    "mmvae": (["objective.samples=2", "objective.bound=dreg"], {"all", *ALL}),
    "mopoe": ([], {"all", *ALL}),
    "mvtcae": ([], {"all", *ALL}),
    "crmvae": ([], {"all", *ALL}),
    "mmvm": (["objective.alpha=0.1"], {"all", *ALL}),
    "gpoe": ([], {"all", *ALL}),
    "mmjsd": ([], {"all", *ALL}),
    "mixture-mvae": (["objective.components=2"], {"all", *ALL}),
}


def trained(done: CompletedProcess[str], run: Path, given: set[str], steps: int = 4) -> None:
    """Check that a training ended well, and which posteriors its table of translations asks."""
    assert done.returncode == 0 and f"{steps} steps done" in done.stdout, done.stderr
    table = json.loads((run / "translations.json").read_text())
    assert {entry["given"] for entry in table} == given and all(math.isfinite(entry["log_px"]) for entry in table)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines and all(math.isfinite(v) for line in lines for v in line.values() if isinstance(v, float))


@pytest.mark.parametrize("name", TRAINED)
def test_every_objective_trains_with_missing_rows_where_it_can(work: Path, name: str) -> None:
    extra, given = TRAINED[name]
    one_epoch = ["train.max_steps=4", "train.batch_size=24", "train.pictures_every=0"]
    settings = change(f"objective.name={name}", *one_epoch, *extra)
    done = here("train", "circle.yaml", "--out", name, *settings, cwd=work)
    trained(done, work / name, given)
    assert "epoch 1: validation ELBO" in done.stderr


def test_a_batch_without_a_pair_is_a_step_of_cvae(work: Path) -> None:
    options = ["objective.name=cvae", "objective.target=position", "data.weak.paired=0.02", *without("image", "counts")]
    settings = change(*options, "train.max_steps=4", "train.pictures_every=0")
    done = here("train", "circle.yaml", "--out", "pairless", *settings, cwd=work)
    trained(done, work / "pairless", {"all", "class"})


def test_patience_waits_for_telbos_second_stage_and_judges_it_afresh(work: Path) -> None:
    options = ["objective.name=telbo", "objective.first_stage_epochs=6", "train.epochs=9", "train.patience=1"]
    settings = change(*options, "train.batch_size=48", "train.pictures_every=0")
    done = here("train", "circle.yaml", "--out", "patient", *settings, cwd=work)
    assert done.returncode == 0, done.stderr
    progress = torch.load(work / "patient" / "checkpoints" / "state.pt", weights_only=True)["progress"]
    assert progress["best_epoch"] > 6


def weights(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "checkpoints" / "state.pt", weights_only=True)["model"]
    return state


def test_telbos_stages_leave_alone_what_is_not_their_turn(work: Path) -> None:
    options = ["objective.name=telbo", "objective.first_stage_epochs=1", "train.pictures_every=0"]
    run, settings = work / "stages", change(*options, "train.epochs=2")
    begun = {n: v.clone() for n, v in assemble(load_recipe(work / "circle.yaml", options)).state_dict().items()}
    steps = math.ceil(len(Dataset(work / "circle").rows("train")) / 16)
    first = here("train", "circle.yaml", "--out", run, *settings, *change(f"train.max_steps={steps}"), cwd=work)
    trained(first, run, {"all", *ALL}, steps)
    middle = weights(run)
    second = here("train", "circle.yaml", "--out", run, *settings, *change("train.max_steps=null"), cwd=work)
    assert second.returncode == 0 and "2 epochs done" in second.stdout, second.stderr
    ended = weights(run)
    assert any("running_mean" in name for name in begun)  # batch norm is among what must not move
    for name, value in begun.items():
        single = name.startswith("alone.")
        assert torch.equal(value, middle[name]) == single, name
        assert torch.equal(middle[name], ended[name]) != single, name


def test_what_a_network_itself_has_frozen_is_not_trained(work: Path) -> None:
    (work / "nets.py").write_text(
        "import torch\n"
        "def encoder(schema):\n"
        "    layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 8))\n"
        "    layers[0].requires_grad_(False)\n"
        "    return layers\n"
        "def decoder(schema, latent_dim):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(latent_dim, 4), torch.nn.Unflatten(1, (2, 2)))\n"
    )
    own = "modalities.position.network={type: custom, encoder: 'nets.py:encoder', decoder: 'nets.py:decoder'}"
    options = [own, "train.max_steps=3", "train.pictures_every=0"]
    begun = {n: v.clone() for n, v in assemble(load_recipe(work / "circle.yaml", options)).state_dict().items()}
    done = here("train", "circle.yaml", "--out", "brought", *change(*options), cwd=work)
    assert done.returncode == 0, done.stderr
    after = weights(work / "brought")
    moved = {n for n in begun if n.startswith("encoders.position.") and not torch.equal(begun[n], after[n])}
    assert moved == {"encoders.position.2.weight", "encoders.position.2.bias"}


def test_the_docs_own_objective_trains_from_a_file(work: Path) -> None:
    (work / "leave_one_out.py").write_text(shown_file("tutorials/objective.md", "leave_one_out.py"))
    text = re.sub("objective: .*", "objective: {name: leave-one-out, share: 0.3}", (work / "circle.yaml").read_text())
    (work / "own.yaml").write_text(f"plugins: [leave_one_out.py]\n{text}")
    done = here("train", "own.yaml", *change("train.max_steps=4", "train.pictures_every=0"), cwd=work)
    trained(done, work / "runs" / "own", {"all", *ALL})
    metrics = (work / "runs" / "own" / "metrics.jsonl").read_text()
    assert "elbo/without:image" in metrics and "elbo/all" in metrics
    alone = here("train", "own.yaml", *change(*without("image", "class", "counts")), cwd=work)
    refused(alone, "own.yaml:12: objective: leave-one-out takes two modalities or more")


def test_the_docs_own_objective_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "leave_one_out.py").write_text(shown_file("tutorials/objective.md", "leave_one_out.py"))
    own = registry.import_file(tmp_path / "leave_one_out.py").LEAVE_ONE_OUT
    present = torch.tensor([[True, True, True], [True, False, True], [True, False, False], [False, False, False]])
    made = own.plan(own.options(share=0.4), tuple("abc"), present, Draws(torch.Generator()))
    made.check(present)
    given = [["".join(n for n, p in zip("abc", row, strict=True) if p) for row in term] for term in made.given.tolist()]
    assert given == [["abc", "ac", "a", ""], ["bc", "c", "", ""], ["ac", "", "", ""], ["ab", "a", "", ""]]
    assert torch.equal(made.targets, present & made.given.any(-1, keepdim=True))
    torch.testing.assert_close(made.weight[:, 0], torch.tensor([0.4, 0.2, 0.2, 0.2]))


INSTALLED = """
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Objective, ObjectiveOptions, Plan

class Options(ObjectiveOptions):
    strength: float = 2.0

class Own(MultimodalVAE):
    def allows(self, given):
        return given.all(-1)

def plan(options, names, present, draws):
    whole = (present & present.all(-1, keepdim=True))[None]
    return Plan(("whole",), whole, whole, weight=whole[..., 0] * options.strength)

def model(options, schemas, latent_dim):
    return Own(schemas, latent_dim)

def frozen(options, epoch):
    return ("heads.class.",)

X = Objective("complete-only", "complete rows alone", Options, plan, model=model, frozen=frozen)
"""


def test_an_installed_objective_trains_with_its_own_model(work: Path, tmp_path: Path) -> None:
    install(tmp_path, "my-objective", {"complete-only": "my_objective:X"}, {"my_objective": INSTALLED})
    points = tmp_path / "my-objective-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("modalkit.modalities", "modalkit.objectives"))
    listed = here("list", "objectives", cwd=work, path=tmp_path)
    assert re.search(r"complete-only +complete rows alone.*\[my-objective 1.0\]", listed.stdout), listed.stdout
    settings = change("objective.name=complete-only", "objective.strength=3", "train.pictures_every=0")
    done = here(
        "train", "circle.yaml", "--out", "own", *settings, *change("train.max_steps=4"), cwd=work, path=tmp_path
    )
    trained(done, work / "own", {"all"})
    assert "elbo/whole" in (work / "own" / "metrics.jsonl").read_text()
    begun = assemble(load_recipe(work / "circle.yaml")).state_dict()  # its networks are drawn as the default's are
    moved = {name for name, value in weights(work / "own").items() if not torch.equal(value, begun[name])}
    assert "heads.image.weight" in moved and not any(name.startswith("heads.class.") for name in moved)


SECOND_FAILS = """\
import itertools

import torch

numbers = itertools.count()


class Encoder(torch.nn.Linear):
    def __init__(self, schema):
        super().__init__(2, 8)
        self.number = next(numbers)

    def forward(self, value):
        if self.training and self.number % 2:  # the expert's encoder is the first, the objective's own the second
            raise RuntimeError("out of ink")
        return super().forward(value)


def decoder(schema, latent_dim):
    return torch.nn.Sequential(torch.nn.Linear(latent_dim, 4), torch.nn.Unflatten(1, (2, 2)))
"""


@pytest.mark.parametrize("name", ["jmvae", "telbo"])
def test_an_encoder_that_fails_in_an_objectives_own_network_is_named(work: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "failing.py").write_text(SECOND_FAILS)
    failing = f"{tmp_path / 'failing.py'}"
    own = f"modalities.position.network={{type: custom, encoder: '{failing}:Encoder', decoder: '{failing}:decoder'}}"
    settings = [f"objective.name={name}", own, *without("image", "class"), "train.max_steps=10"]
    settings += ["objective.first_stage_epochs=1", "train.batch_size=48"] if name == "telbo" else []
    done = here("train", "circle.yaml", "--out", f"failing-{name}", *change(*settings), cwd=work)
    refused(done, "modality 'position' (kind 'vector'): its encoder failed", "out of ink")


@pytest.mark.parametrize("name", ["jmvae", "telbo"])
def test_modalities_may_have_names_that_torch_uses_for_itself(tmp_path: Path, name: str) -> None:
    made = {n: schema("vector", size=1, network=SMALL) for n in ("keys", "type", "train")}
    write_dataset(tmp_path / "words", made, {n: torch.randn(40, 1) for n in made})
    entries = "".join(f"  {n}: {{kind: vector, size: 1, network: {json.dumps(SMALL)}}}\n" for n in made)
    (tmp_path / "words.yaml").write_text(f"data: {{path: words}}\nmodalities:\n{entries}train: {{accelerator: cpu}}\n")
    settings = [f"objective.name={name}", "train.max_steps=4", "train.batch_size=8", "train.pictures_every=0"]
    settings += ["objective.first_stage_epochs=1"] if name == "telbo" else []
    done = here("train", "words.yaml", "--out", name, *change(*settings), cwd=tmp_path)
    trained(done, tmp_path / name, {"all", *made})
    assert any(key.startswith("encoders.keys.") for key in weights(tmp_path / name))
