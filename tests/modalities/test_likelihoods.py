"""Likelihoods that a schema chooses: their densities, moments, scales, and how they train."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toys import here, write_circle, write_recipe
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, Normal

import modalkit
from modalkit import registry
from modalkit.errors import InputError
from modalkit.likelihoods import DiscretizedLogistics, Gaussians, Laplaces, best_constant, bits_per_dimension
from modalkit.model import MultimodalVAE
from modalkit.model.groups import StackedGroup, fastest_groups, single_groups
from modalkit.nn import Scaled, join_scale, split_scale
from modalkit.testing import check_modality

IMAGE, VECTOR = registry.modality("image"), registry.modality("vector")
INTENSITIES = torch.arange(256, dtype=torch.float64) / 255
SCALES = ("shared", "per_dimension", "predicted", 0.3)
DENSITIES = {"gaussian": (Gaussians, Normal), "laplace": (Laplaces, Laplace)}
LIKELIHOODS = (*DENSITIES, "discretized_logistic")


def picture(likelihood: str, scale: Any = None, **fields: Any) -> Any:
    return modalkit.schema("image", **{"size": 6, "network": "mlp", "likelihood": likelihood, "scale": scale} | fields)


def logistic(loc: float, scale: float) -> DiscretizedLogistics:
    return DiscretizedLogistics(torch.tensor([[loc]]).double(), torch.tensor([[scale]]).double(), 1)


def probabilities(made: DiscretizedLogistics) -> Tensor:
    return made.log_prob(INTENSITIES[:, None]).exp()


@pytest.mark.parametrize("likelihood", DENSITIES)
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (1, 1, 1)])
def test_densities_are_those_of_torch(likelihood: str, shape: tuple[int, ...]) -> None:
    family, plain = DENSITIES[likelihood]
    loc, x = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
    scale = torch.rand(2, *shape).double() + 0.1
    made, expected = family(loc, scale, 3), Independent(plain(loc, scale.expand_as(loc)), 3)
    for value in (x, x[:1], torch.stack([x, x + 1])):
        torch.testing.assert_close(made.log_prob(value), expected.log_prob(value))
    for name in ("mean", "mode", "variance"):
        torch.testing.assert_close(getattr(made, name), getattr(expected, name))
    assert made.sample().shape == loc.shape
    one = family(loc[:1], scale[:1], 3)  # a constant prediction for several rows
    torch.testing.assert_close(
        one.log_prob(x), Independent(plain(loc[:1], scale[:1].expand_as(loc[:1])), 3).log_prob(x)
    )


@settings(deadline=None, max_examples=40)
@given(loc=st.floats(-2, 3), log_scale=st.floats(math.log(1e-3), math.log(5)))
def test_a_discretised_logistic_is_a_distribution_over_256_values(loc: float, log_scale: float) -> None:
    made = logistic(loc, math.exp(log_scale))
    p = probabilities(made)
    mean = (p * INTENSITIES).sum()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert made.mean.item() == pytest.approx(mean.item(), abs=1 / 510)  # of the value before it is rounded
    assert made.variance.item() == pytest.approx((p * (INTENSITIES - mean) ** 2).sum().item(), abs=5e-6, rel=0.01)
    assert p[(made.mode * 255).round().long()].item() == pytest.approx(p.max().item())


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.5])
def test_a_discretised_logistic_against_its_definition(scale: float) -> None:
    edges = torch.cat(
        [torch.tensor([-math.inf]), (torch.arange(255).double() + 0.5) / 255, torch.tensor([math.inf])]
    ).double()
    expected = ((edges - 0.4) / scale).sigmoid().diff()
    found = probabilities(logistic(0.4, scale))
    torch.testing.assert_close(found[expected > 1e-9], expected[expected > 1e-9], rtol=1e-5, atol=0)


def test_a_discretised_logistic_has_finite_log_probabilities_and_gradients_far_off() -> None:
    raw = torch.tensor([-40.0, 0.5, 40.0]).repeat(3, 1).requires_grad_()
    scale = torch.tensor([[1e-3], [1.0], [1e3]], requires_grad=True)
    log_p = DiscretizedLogistics(raw, scale, 1).log_prob(torch.tensor([1.0, 0.5, 0.0]))
    log_p.sum().backward()
    assert log_p.isfinite().all() and raw.grad is not None and scale.grad is not None
    assert raw.grad.isfinite().all() and scale.grad.isfinite().all()


def test_samples_of_a_discretised_logistic() -> None:
    torch.manual_seed(0)
    made = DiscretizedLogistics(torch.tensor([[0.1, 0.6]]), torch.tensor([[0.2]]), 1)
    samples = made.sample((20_000,))
    assert set((samples * 255).flatten().tolist()) <= {float(i) for i in range(256)}
    torch.testing.assert_close(samples.mean(0), made.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(samples.var(0), made.variance, atol=0.003, rtol=0)
    with pytest.raises(NotImplementedError, match="use sample"):
        made.rsample()


def test_values_are_rounded_to_the_nearest_byte() -> None:
    made = logistic(0.3, 0.1)
    assert made.log_prob(torch.tensor([100.4 / 255])) == made.log_prob(torch.tensor([100 / 255]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_best_constant(likelihood: str) -> None:
    torch.manual_seed(0)
    values = (torch.rand(101, 5) * torch.linspace(0.2, 1, 5)).double()
    family = DENSITIES.get(likelihood, (DiscretizedLogistics,))[0]
    for shared in (False, True):
        loc, scale = best_constant(values, likelihood, shared=shared)
        best = family(loc, scale, 1).log_prob(values).sum()
        if likelihood in DENSITIES:  # the logistic has the moments instead
            others = [(loc + 0.01, scale), (loc - 0.01, scale), (loc, scale * 1.02), (loc, scale / 1.02)]
            assert all(family(*other, 1).log_prob(values).sum() < best for other in others)
        else:
            spread = values.var(0, correction=0)
            torch.testing.assert_close(
                (scale * math.pi / 3**0.5) ** 2, (spread.mean() if shared else spread).expand(scale.shape)
            )


def test_bits_per_dimension() -> None:
    made = DiscretizedLogistics(torch.full((1, 4), 0.5), torch.tensor([[1e4]]), 1)  # nearly all in the two tails
    assert bits_per_dimension(made.log_prob(torch.tensor([0.0, 1.0, 0.0, 1.0])), 4).item() == pytest.approx(1, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), shared=st.booleans())
def test_scales_are_joined_and_split(shape: list[int], shared: bool) -> None:
    loc = torch.randn(3, *shape)
    scale = torch.randn(1, *[1] * len(shape)) if shared else torch.randn(1, *shape)
    found, raw_scale = split_scale(join_scale(loc, scale), shape, shared=shared)
    assert torch.equal(found, loc) and torch.equal(raw_scale, scale.expand(3, *scale.shape[1:]))


def test_raw_parameters_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) from the decoder, and this 'scale' needs \(rows, 4\)"):
        split_scale(torch.zeros(2, 3), (3,), shared=True)


@pytest.mark.parametrize("shared", [True, False])
def test_a_scaled_decoder_learns_the_root_of_the_mean_squared_error(shared: bool) -> None:
    """The optimum in closed form: sigma-VAE, Rybkin et al. 2021."""
    torch.manual_seed(0)
    values = torch.randn(500, 2) * torch.tensor([0.05, 0.5])
    decoder = Scaled(nn.Linear(1, 2), (2,), shared=shared)
    nn.init.zeros_(decoder.decoder.weight)  # type: ignore[arg-type]
    nn.init.zeros_(decoder.decoder.bias)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([decoder.log_scale], 1e-3)
    for _ in range(600):
        loc, raw = split_scale(decoder(torch.zeros(500, 1)), (2,), shared=shared)
        loss = -Gaussians(loc, raw.exp(), 1).log_prob(values).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    expected = values.square().mean(None if shared else 0).sqrt().expand(decoder.log_scale.shape)
    torch.testing.assert_close((10 * decoder.log_scale.detach()).exp(), expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_pictures_keep_the_contract(likelihood: str, scale: Any) -> None:
    for network in (
        {"type": "mlp", "hidden": [8], "decoder_hidden": [8]},
        {"type": "dcgan", "hidden": 8, "widths": [4]},
    ):
        check_modality("image", {"size": 8, "network": network, "likelihood": likelihood, "scale": scale})
    for kind in ("edges", "landmarks"):
        check_modality(kind, {"size": 6, "network": "mlp", "likelihood": likelihood, "scale": scale})


@pytest.mark.parametrize("scale", [*SCALES, "learned"])
def test_real_values_keep_the_contract(scale: Any) -> None:
    for likelihood in DENSITIES:
        for kind, fields in (
            ("vector", {"size": 3}),
            ("series", {"length": 9, "channels": 2}),
            ("audio", {"seconds": 0.2, "mels": 16}),
        ):
            check_modality(kind, {**fields, "likelihood": likelihood, "scale": scale})
    check_modality("positive", {"size": 2, "scale": scale})


@pytest.mark.parametrize("likelihood", DENSITIES)
@pytest.mark.parametrize("scale", [*SCALES, "learned"])
def test_likelihoods_of_vectors_are_those_of_torch(likelihood: str, scale: Any) -> None:
    schema = modalkit.schema("vector", size=3, likelihood=likelihood, scale=scale)
    decoder, z, x = VECTOR.decoder(schema, 2).double(), torch.randn(4, 2).double(), torch.randn(4, 3).double()
    raw = decoder(z)
    if scale in ("learned", "predicted"):
        loc, spread = raw[:, 0], nn.functional.softplus(raw[:, 1]) + 1e-3
    elif isinstance(scale, float):
        loc, spread = raw, torch.full_like(raw, scale)
    else:  # it starts at 1
        loc, spread = raw[:, :3], torch.full((4, 3), 1 + 1e-3).double()
    expected = Independent(DENSITIES[likelihood][1](loc, spread), 1).log_prob(x)
    torch.testing.assert_close(VECTOR.likelihood(schema, raw).log_prob(x), expected)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_start_of_a_picture_s_scale_and_its_floor(likelihood: str, scale: str) -> None:
    schema = picture(likelihood, scale)
    with torch.no_grad():
        decoder = IMAGE.decoder(schema, 2)
        if scale != "predicted":
            made: Any = IMAGE.likelihood(schema, decoder(torch.zeros(1, 2)))
            torch.testing.assert_close(made.base_dist.scale, torch.full((1, 3, 6, 6), 0.2 + schema.least_scale))
        constant = torch.full((20, 3, 6, 6), 0.4)
        made = IMAGE.likelihood(schema, IMAGE.marginal(schema, constant))  # type: ignore[misc]
        torch.testing.assert_close(made.base_dist.scale, torch.full((1, 3, 6, 6), 1.1 * schema.least_scale))
        assert made.log_prob(constant).isfinite().all()


def test_a_constant_vector_has_a_bounded_density() -> None:
    schema = modalkit.schema("vector", size=2, scale="per_dimension")
    made = VECTOR.likelihood(schema, VECTOR.marginal(schema, torch.ones(20, 2)))  # type: ignore[misc]
    torch.testing.assert_close(made.base_dist.scale, torch.full((1, 2), 1.1e-3))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scale": 0.1}, "a Bernoulli likelihood has no 'scale'"),
        ({"likelihood": "gaussian", "binarize": True}, "needs 'likelihood: bernoulli', not 'gaussian'"),
        ({"likelihood": "gaussian", "scale": 0.0}, "should be a number above 0"),
        ({"likelihood": "cauchy"}, "'discretized_logistic'"),
    ],
)
def test_choices_that_do_not_fit(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        modalkit.schema("image", size=6, **fields)


def test_the_choice_is_no_fact_of_the_dataset() -> None:
    assert picture("laplace", 0.2).facts() == picture("bernoulli").facts()
    assert picture("laplace").scale_choice == "shared" and picture("bernoulli").scale_choice is None


def test_positive_numbers_have_no_choice_of_likelihood() -> None:
    assert "likelihood" not in modalkit.schema("positive", size=2).model_dump()
    with pytest.raises(InputError, match="likelihood"):
        modalkit.schema("positive", size=2, likelihood="laplace")


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("scale", ["shared", "per_dimension"])
def test_many_alike_modalities_run_as_one(scale: str, centered: bool) -> None:
    torch.manual_seed(0)
    network = {"type": "mlp", "hidden": [4], "decoder_hidden": [4]}
    schemas = {f"v{i}": modalkit.schema("vector", size=3, scale=scale, network=network) for i in range(9)}
    model = MultimodalVAE(schemas, 2)
    if centered:
        model.center()
    model = model.double()
    (stacked,) = fastest_groups(model)
    assert isinstance(stacked, StackedGroup)
    batch = modalkit.Batch({n: torch.randn(5, 3) for n in schemas}, torch.rand(5, 9) < 0.7)
    observed, z = model.observed(batch), torch.randn(2, 5, 2).double()
    targets = batch.present.expand(2, 5, 9)
    fast = stacked.log_px(z, observed, batch.present, targets)
    slow = torch.cat(
        [g.log_px(z, observed, batch.present, targets[..., i : i + 1]) for i, g in enumerate(single_groups(model))], -1
    )
    torch.testing.assert_close(fast, slow)
    parameters = [p for n, p in model.named_parameters() if "log_scale" in n]
    assert len(parameters) == 9
    for one, other in zip(
        torch.autograd.grad(fast.sum(), parameters), torch.autograd.grad(slow.sum(), parameters), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("likelihood", "scale", "centered"),
    [("gaussian", "shared", False), ("laplace", "per_dimension", True), ("discretized_logistic", "predicted", False)],
)
def test_a_recipe_with_each_trains_through_the_command_line(
    tmp_path: Path, likelihood: str, scale: str, centered: bool
) -> None:
    data = write_circle(tmp_path)
    wanted = [
        f"modalities.image.likelihood={likelihood}",
        f"modalities.image.scale={scale}",
        "modalities.position.likelihood=laplace",
        "modalities.position.scale=shared",
        f"model.centered={centered}",
        "train.max_steps=1",
    ]
    settings = [word for one in wanted for word in ("--set", one)]
    done = here("train", write_recipe(tmp_path, data), *settings, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = modalkit.load(tmp_path / "run")
    shown = model.sample(3, ["image"], noise=True, seed=0)["image"]
    assert shown.samples.shape == (1, 3, 1, 12, 12) and shown.scale is not None and shown.scale.isfinite().all()
    if not centered:  # one step of one per cent after the spread about the mean picture
        values = modalkit.Dataset(data)
        x = values.values("position", values.rows("train")[values.present[values.rows("train"), 1]])
        expected = (x - x.median(0).values).abs().mean().item() - 1e-3
        found = (10 * model.model.decoders["position"].log_scale.detach()).exp().item()  # type: ignore[operator]
        assert found == pytest.approx(expected, rel=0.05)


def test_a_network_of_one_s_own_without_the_scale(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nfrom modalkit.nn import Scaled\n"
        "def Encoder(schema): return nn.Sequential(nn.Flatten(), nn.Linear(144, 8))\n"
        "def Plain(schema, latent_dim):\n"
        "    return nn.Sequential(nn.Linear(latent_dim, 144), nn.Unflatten(1, (1, 12, 12)))\n"
        "def Whole(schema, latent_dim):\n"
        "    return Scaled(Plain(schema, latent_dim), schema.event_shape, shared=True, start=-1.6)\n"
    )
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    for decoder, code in (("Plain", 2), ("Whole", 0)):
        network = f"{{type: custom, encoder: 'nets.py:Encoder', decoder: 'nets.py:{decoder}'}}"
        wanted = (f"modalities.image.network={network}", "modalities.image.likelihood=gaussian", "train.max_steps=1")
        settings = [word for one in wanted for word in ("--set", one)]
        done = here("train", recipe, *settings, "--out", decoder, cwd=tmp_path)
        assert done.returncode == code and ("modalkit.nn.Scaled adds scales" in done.stderr) == (code == 2)
