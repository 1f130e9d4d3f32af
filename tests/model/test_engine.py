"""The engine against a plain loop that runs the model once per term, and against closed forms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.once_per_term import once_per_term_loss
from torch import nn
from torch.distributions import MultivariateNormal

import modalkit
from modalkit.data import Batch
from modalkit.model.engine import evaluate_plan, means
from modalkit.model.groups import single_groups
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.centered import Centered
from modalkit.nn.stacked import can_stack
from modalkit.objectives.mvae import MvaeOptions, plan_mvae
from modalkit.plugin import Draws, Plan, Schema

ROWS, LATENT = 8, 5
SMALL_NET = {"type": "dcgan", "widths": [4, 8, 8], "hidden": 12, "dropout": 0.0, "batch_norm": True}
MLP_NET = {"type": "mlp", "hidden": [8], "decoder_hidden": [8]}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def schemas() -> dict[str, Schema]:
    return {
        "image": modalkit.schema("image", size=32, network=SMALL_NET, weight=0.5),
        "gray": modalkit.schema("image", size=[32, 33], channels=1, network=SMALL_NET),
        "label": modalkit.schema("label", classes=3, weight=10, network=MLP_NET),
        "position": modalkit.schema("vector", size=2, network=MLP_NET),
        "bits": modalkit.schema(
            "attributes", names=["x", "y"], network={"type": "mlp", "hidden": [8], "batch_norm": True}
        ),
    }


def random_batch(made: dict[str, Schema], present: torch.Tensor, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    values = {}
    for column, (name, schema) in enumerate(made.items()):
        if schema.dtype == "float32":
            value = torch.randn(len(present), *schema.event_shape, generator=g).float()
        else:
            high = 256 if schema.kind == "image" else 3 if schema.kind == "label" else 2
            value = torch.randint(0, high, (len(present), *schema.event_shape), generator=g)
            value = value.to(getattr(torch, schema.dtype))
        values[name] = value * present[:, column].reshape(-1, *[1] * (value.ndim - 1)).to(value.dtype)
    return Batch(values, present)


def gradients(model: MultimodalVAE, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("targets", ["subset", "present"])
@pytest.mark.parametrize("subsets", ["sampled", "all"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_loss_and_gradients_equal_the_plain_loop(targets: str, subsets: str, missing: float) -> None:
    made = schemas()
    torch.manual_seed(1)
    model = MultimodalVAE(made, LATENT)
    present = torch.rand(ROWS, len(made), generator=torch.Generator().manual_seed(5)) >= missing
    if missing:
        present[:, 2] = False  # one modality is absent from every row of the batch
        present[0] = False  # and one row has nothing
    batch = random_batch(made, present)
    options = MvaeOptions(k=2, subsets=subsets, targets=targets)  # type: ignore[arg-type]
    plan = plan_mvae(options, model.names, present, Draws(torch.Generator().manual_seed(3)))
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    fast = -evaluate_plan(model, batch, plan, noise, 0.7).elbo.sum() / ROWS
    ours = gradients(model, fast)
    plain = once_per_term_loss(model, batch, plan, noise, 0.7, decode_all_rows=not missing and targets == "present")
    theirs = gradients(model, plain)
    assert abs(fast.item() - plain.item()) <= 1e-10 * abs(plain.item())
    assert ours.keys() == theirs.keys() and (missing or len(ours) == len(list(model.parameters())))
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, theirs[name], rtol=0, atol=1e-10 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("linear", [False, 3])
@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_modalities_that_are_alike_run_as_one_and_equal_the_plain_loop(
    missing: float, linear: bool | int, centered: bool
) -> None:
    small = {"type": "mlp", "hidden": [6, 5], "decoder_hidden": [7], "linear": linear}
    made = {f"bit{i}": modalkit.schema("bit", network=small, weight=1 + i) for i in range(9)}
    made["odd"] = modalkit.schema("bit", network={"type": "mlp", "hidden": [4]})
    made |= {f"class{i}": modalkit.schema("label", classes=3, network=small) for i in range(8)}
    model = MultimodalVAE(made, LATENT)
    if centered:
        model.center()
        for decoder in model.decoders.values():
            assert isinstance(decoder, Centered)
            decoder.start_at(torch.randn_like(decoder.constant))
    assert [len(group.names) for group in model.groups] == [9, 8, 1]
    generator = torch.Generator().manual_seed(7)
    present = torch.rand(ROWS, len(made), generator=generator) >= missing
    if missing:
        present[:, 3] = False  # one of the group is absent from every row of the batch
    batch = random_batch(made, present)
    plan = plan_mvae(MvaeOptions(k=2, singles=5), model.names, present, Draws(generator))
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    fast = evaluate_plan(model, batch, plan, noise, 0.7)
    ours = gradients(model, -fast.elbo.sum() / ROWS)
    model.groups = single_groups(model)
    slow = evaluate_plan(model, batch, plan, noise, 0.7)
    theirs = gradients(model, -slow.elbo.sum() / ROWS)
    torch.testing.assert_close(fast.elbo, slow.elbo, rtol=1e-12, atol=1e-12)
    assert set(fast.log_px) == set(slow.log_px)
    assert ours.keys() == theirs.keys(), "what takes no part gets no gradient"
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_a_batch_in_which_all_that_is_alike_is_absent() -> None:
    made = {f"bit{i}": modalkit.schema("bit") for i in range(8)} | {"image": schemas()["image"]}
    model = MultimodalVAE(made, LATENT)
    present = torch.zeros(ROWS, len(made), dtype=torch.bool)
    present[:, -1] = True
    plan = plan_mvae(MvaeOptions(), model.names, present, Draws(torch.Generator()))
    elbo = evaluate_plan(model, random_batch(made, present), plan, torch.randn(len(plan.terms), ROWS, LATENT)).elbo
    trained = gradients(model, -elbo.sum())
    assert elbo.isfinite().all() and trained and all(".image." in name for name in trained)


def test_networks_that_cannot_run_as_one_run_each_by_itself() -> None:
    class Looks(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) if float(input.sum()) < 1 else super().forward(-input)

    class Holds(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.kept = torch.rand(2)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * self.kept

    example = torch.ones(2, 3, dtype=torch.get_default_dtype())
    assert can_stack([nn.Linear(3, 2) for _ in range(3)], example)
    assert not can_stack([Looks(3, 2) for _ in range(3)], example)
    assert not can_stack([Holds() for _ in range(3)], example)
    assert not can_stack([nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(3)], example)


def test_decoding_everything_changes_nothing_when_nothing_is_missing() -> None:
    made = schemas()
    model = MultimodalVAE(made, LATENT)
    batch = random_batch(made, torch.ones(ROWS, len(made), dtype=torch.bool))
    plan = plan_mvae(MvaeOptions(), model.names, batch.present, Draws(torch.Generator().manual_seed(0)))
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    fast = -evaluate_plan(model, batch, plan, noise, 1.0).elbo.sum() / ROWS
    plain = once_per_term_loss(model, batch, plan, noise, 1.0)
    assert abs(fast.item() - plain.item()) <= 1e-10 * abs(plain.item())


def test_pooling_the_terms_of_a_batch_norm_decoder_would_be_another_objective() -> None:
    """Guards against a faster engine that silently normalises over all terms at once."""
    made = {k: v for k, v in schemas().items() if k in ("image", "position")}
    model = MultimodalVAE(made, LATENT)
    assert model.mixes_rows == {"image": True, "position": False}
    batch = random_batch(made, torch.ones(ROWS, 2, dtype=torch.bool))
    plan = plan_mvae(MvaeOptions(targets="present"), model.names, batch.present, Draws(torch.Generator()))
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    apart = evaluate_plan(model, batch, plan, noise).elbo
    model.mixes_rows["image"] = False
    pooled = evaluate_plan(model, batch, plan, noise).elbo
    assert float((apart - pooled).detach().abs().max()) > 1e-3


def test_encodes_once_and_decodes_only_what_is_scored() -> None:
    made = schemas()
    model = MultimodalVAE(made, LATENT)
    present = torch.rand(ROWS, len(made), generator=torch.Generator().manual_seed(8)) < 0.6
    batch = random_batch(made, present)
    plan = plan_mvae(MvaeOptions(), model.names, present, Draws(torch.Generator().manual_seed(0)))
    rows: dict[str, list[int]] = {}
    for part, modules in (("encoder", model.encoders), ("decoder", model.decoders)):
        for name, module in modules.items():
            key = f"{part}.{name}"
            rows[key] = []
            module.register_forward_pre_hook(lambda _, args, key=key: rows[key].append(len(args[0])))
    evaluate_plan(model, batch, plan, torch.randn(len(plan.terms), ROWS, LATENT))
    for column, name in enumerate(made):
        assert rows[f"encoder.{name}"] == [int(present[:, column].sum())]
        assert sum(rows[f"decoder.{name}"]) == int(plan.targets[:, :, column].sum())
        assert model.mixes_rows[name] or len(rows[f"decoder.{name}"]) == 1


def test_elbo_is_the_evidence_when_the_posterior_is_exact() -> None:
    """A linear-Gaussian model: with exact experts the bound is tight, and log weights do not vary, for any subset."""
    g = torch.Generator().manual_seed(0)
    sizes, scale = {"a": 2, "b": 3, "c": 1}, 0.7
    # One latent dimension for each observed one makes the exact posterior factorise: x_m = s_m * z_m + noise.
    dims = sum(sizes.values())
    made: dict[str, Schema] = {
        n: modalkit.schema(
            "vector", size=d, scale=scale, network={"type": "mlp", "hidden": [dims], "decoder_hidden": []}
        )
        for n, d in sizes.items()
    }
    model = MultimodalVAE(made, dims)
    slope = torch.rand(dims, generator=g) + 0.5
    offset, values, parts = 0, {}, {}
    for name, size in sizes.items():
        own = slice(offset, offset + size)
        offset += size
        parts[name] = own
        s = slope[own]
        model.encoders[name] = torch.nn.Identity()
        head = torch.nn.Linear(size, 2 * dims)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
            # The expert of dimension d has precision s^2/scale^2 and mean x/s; elsewhere next to none.
            head.bias[dims:] = 40.0
            head.bias[dims:][own] = -torch.log(s**2 / scale**2)
            head.weight[own] = torch.diag(1 / s)
            last = [m for m in model.decoders[name].modules() if isinstance(m, torch.nn.Linear)][-1]
            last.weight.zero_()
            last.bias.zero_()
            last.weight[:, own] = torch.diag(s)
        model.heads[name] = head
        values[name] = torch.randn(ROWS, size, generator=g).float()
    present = torch.rand(ROWS, 3, generator=g) < 0.7
    given = torch.stack([present, present & torch.tensor([True, False, True]), torch.zeros_like(present)])
    plan = Plan(("present", "a and c", "none"), given, given)
    for seed in (0, 1):
        noise = torch.randn(3, ROWS, dims, generator=torch.Generator().manual_seed(seed))
        result = evaluate_plan(model, Batch(values, present), plan, noise)
        posterior = model.posterior(model.observed(Batch(values, present)), present, given)
        z = posterior.rsample(noise)
        log_w = (
            sum(result.log_px.values())
            + torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
            - torch.distributions.Normal(posterior.loc, posterior.scale).log_prob(z).sum(-1)
        )
        for term in range(3):
            for row in range(ROWS):
                evidence = torch.zeros(())
                for m, (name, own) in enumerate(parts.items()):
                    if given[term, row, m]:
                        cov = torch.diag(slope[own] ** 2 + scale**2)
                        evidence = evidence + MultivariateNormal(torch.zeros(len(cov)), cov).log_prob(
                            values[name][row].double()
                        )
                torch.testing.assert_close(log_w[term, row], evidence, rtol=0, atol=1e-9)


def test_summary_averages_over_the_rows_that_take_part() -> None:
    made = {k: v for k, v in schemas().items() if k in ("label", "position")}
    model = MultimodalVAE(made, LATENT)
    present = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    plan = plan_mvae(MvaeOptions(), model.names, present, Draws(torch.Generator()))
    result = evaluate_plan(model, random_batch(made, present), plan, torch.randn(3, 4, LATENT))
    summary = means([result.sums()])
    assert summary["elbo"] == pytest.approx(result.elbo.sum().item() / 4)
    assert summary["log_px/position"] == pytest.approx(result.log_px["position"][0].sum().item() / 2)
    assert summary["elbo/only:label"] == pytest.approx(result.elbo[1].sum().item() / 2)
    assert summary["kl"] == pytest.approx(result.kl[0].sum().item() / 3)


def test_parts_without_rows_are_left_out_of_the_means() -> None:
    made = {k: v for k, v in schemas().items() if k in ("label", "position")}
    model = MultimodalVAE(made, LATENT)
    present = torch.tensor([[False, True], [False, True]])
    everything = Plan(
        ("all", "only:label"), torch.ones(2, 2, 2, dtype=torch.bool), torch.ones(2, 2, 2, dtype=torch.bool)
    )
    everything.given[1, :, 1] = everything.targets[1, :, 1] = False
    result = evaluate_plan(model, random_batch(made, present), everything, torch.randn(2, 2, LATENT))
    assert set(result.sums()) == {"elbo", "kl", "elbo/all", "log_px/position"}
    assert not result.plan.targets[:, :, 0].any()  # what is absent is no target, whatever the plan said


def test_a_batch_without_rows_is_no_error() -> None:
    made = {k: v for k, v in schemas().items() if k in ("label", "position")}
    model = MultimodalVAE(made, LATENT)
    present = torch.zeros(0, 2, dtype=torch.bool)
    plan = plan_mvae(MvaeOptions(), model.names, present, Draws(torch.Generator()))
    assert evaluate_plan(model, random_batch(made, present), plan, torch.randn(3, 0, LATENT)).elbo.shape == (3, 0)
