"""`decoder_gradients: given` against plain loops: which terms a decoder learns from, and what experts learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from model.test_engine import LATENT, MLP_NET, ROWS, gradients, random_batch, schemas
from support.once_per_term import once_per_term_loss

import modalkit
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.objectives.mixture_experts import ProductOfMixtures
from modalkit.objectives.mvae import MvaeOptions, plan_mvae
from modalkit.plugin import Draws, Plan, Schema


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plan_of(names: tuple[str, ...], present: torch.Tensor) -> Plan:
    options = MvaeOptions(k=2, targets="present", decoder_gradients="given")
    plan = plan_mvae(options, names, present, Draws(torch.Generator().manual_seed(3)))
    plan.check(present)
    assert plan.trains_decoder is not None and bool((plan.targets & ~plan.trains_decoder).any())
    return plan


def without_batch_norm() -> dict[str, Schema]:
    made = {name: schema for name, schema in schemas().items() if name in ("label", "position")}
    return made | {f"bit{i}": modalkit.schema("bit", network=MLP_NET, weight=1 + i) for i in range(9)}


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-10 * largest, msg=name)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_decoders_learn_from_given_terms_and_experts_from_all(missing: float) -> None:
    # With missing rows a term's rows fall into two parts, so only networks without batch normalisation are comparable.
    made = without_batch_norm() if missing else schemas() | without_batch_norm()
    torch.manual_seed(1)
    model = MultimodalVAE(made, LATENT)
    assert sorted(len(group.names) for group in model.groups)[-1] == 9, "stacked ones are there too"
    present = torch.rand(ROWS, len(made), generator=torch.Generator().manual_seed(5)) >= missing
    batch, plan = random_batch(made, present), plan_of(model.names, present)
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    loss = -evaluate_plan(model, batch, plan, noise, 0.7).elbo.sum() / ROWS
    ours = gradients(model, loss)
    plain = once_per_term_loss(model, batch, plan, noise, 0.7, decode_all_rows=False)
    every = gradients(model, plain)
    only = replace(plan, targets=plan.targets & plan.given)
    given = gradients(model, once_per_term_loss(model, batch, only, noise, 0.7, decode_all_rows=False))
    assert abs(loss.item() - plain.item()) <= 1e-10 * abs(plain.item())
    decoders = {name for name in every if name.startswith("decoders.")}
    assert_close(ours, {n: given[n] if n in decoders else g for n, g in every.items()})


def test_components_of_mixtures_keep_the_mask() -> None:
    made = {n: s for n, s in without_batch_norm().items() if n in ("label", "position", "bit0")}
    model = ProductOfMixtures(made, LATENT, 2)
    present = torch.ones(ROWS, len(made), dtype=torch.bool)
    batch, plan = random_batch(made, present), plan_of(model.names, present)
    noise = torch.randn(model.components * len(plan.terms), ROWS, LATENT)

    def of(one: Plan) -> dict[str, torch.Tensor]:
        return gradients(model, -evaluate_plan(model, batch, one, noise).elbo.sum())

    every = of(replace(plan, trains_decoder=None))
    given = of(replace(plan, trains_decoder=None, targets=plan.targets & plan.given))
    assert_close(of(plan), {n: (given if n.startswith("decoders.") else every)[n] for n in every})


def test_a_decoder_that_learns_from_no_term_gets_no_gradient() -> None:
    made = without_batch_norm()
    model = MultimodalVAE(made, LATENT)
    present = torch.ones(ROWS, len(made), dtype=torch.bool)
    given = present.clone()
    given[:, [0, 3]] = False  # one that runs by itself, and one of the stacked
    plan = Plan(("all",), given[None], present[None], trains_decoder=given[None])
    elbo = evaluate_plan(model, random_batch(made, present), plan, torch.randn(1, ROWS, LATENT)).elbo
    found = {name.split(".")[1] for name in gradients(model, elbo.sum()) if name.startswith("decoders.")}
    assert found == {model.names[i] for i in range(len(made)) if i not in (0, 3)}


def test_it_is_nothing_where_terms_explain_only_what_is_given() -> None:
    options = MvaeOptions(decoder_gradients="given", targets="subset")
    present = torch.ones(2, 3, dtype=torch.bool)
    assert plan_mvae(options, ("a", "b", "c"), present, Draws(torch.Generator())).trains_decoder is None


def test_a_plan_says_what_is_wrong_with_its_mask() -> None:
    present = torch.ones(2, 3, dtype=torch.bool)
    for mask, problem in ((present, "shape"), (present[None].double(), "float64")):
        with pytest.raises(ValueError, match=f"trains_decoder.*{problem}"):
            Plan(("all",), present[None], present[None], trains_decoder=mask).check(present)
    whole = Plan(("all",), present[None], present[None], trains_decoder=present[None])
    assert whole.rows(slice(1)).trains_decoder.shape == (1, 1, 3)  # type: ignore[union-attr]
