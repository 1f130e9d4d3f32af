"""Checks that an objective keeps its contract."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from modalkit import registry
from modalkit.data import Batch
from modalkit.distributions import CorrelatedGaussian, Gaussian, Mixture, Posterior
from modalkit.model import MultimodalVAE
from modalkit.model.correlated import correlate_experts
from modalkit.model.engine import evaluate_plan
from modalkit.model.sampling import plan_noise
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema
from modalkit.testing._examination import Examination

_SIZES = {"x": 2, "y": 3, "z": 1}
_MOST_COUNTED = 5
"""Numbers of modalities for which `check` is called."""
_MOST_LISTED = 6
"""Modalities of which every subset is tried; of more modalities, as many random subsets."""
_EPOCHS = (0, 1, sys.maxsize)
"""The first epochs and one in the last stage, however many epochs the stages have."""


def check_objective(
    objective: str | Objective[Any],
    options: Mapping[str, Any] | None = None,
    *,
    schemas: Mapping[str, Schema] | None = None,
    latent_dim: int = 3,
    seed: int = 0,
) -> None:
    """Check that an objective plugin keeps the contract of `modalkit.plugin.Objective`.

    It needs no data: it makes plans for rows with every pattern of presence, and a model of random values.

    Args:
        objective: the plugin, or the name of an installed one.
        options: its options, as a recipe gives them, without `name`.
        schemas: the modalities by name; by default three vectors, of which two have a `private_dim` if the objective
            takes one. Give as many as the objective takes.
        latent_dim: size of z.
        seed: of all random numbers. The global random state is left as it was.

    Raises:
        AssertionError: names the plugin, the first part that is wrong, what was expected and what was found.

    >>> check_objective("mvae", {"k": 2})
    """
    plugin: Objective[Any] = registry.get(registry.OBJECTIVES, objective) if isinstance(objective, str) else objective
    if schemas is None:
        network = {"type": "mlp", "hidden": [8], "decoder_hidden": [8]}
        own = {"x": {"private_dim": 2}, "z": {"private_dim": 1}} if plugin.private else {}
        schemas = {n: registry.schema("vector", size=s, network=network, **own.get(n, {})) for n, s in _SIZES.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _Check(plugin, dict(options or {}), schemas, latent_dim, seed).run()


class _Check(Examination):
    """One objective with its options and some modalities under examination."""

    def __init__(
        self,
        objective: Objective[Any],
        options: Mapping[str, Any],
        schemas: Mapping[str, Schema],
        latent_dim: int,
        seed: int,
    ) -> None:
        super().__init__(f"objective '{objective.name}'")
        self.objective, self.schemas, self.names = objective, dict(schemas), tuple(schemas)
        self.latent_dim, self.seed = latent_dim, seed
        self.options = self.check_options(options)
        subsets = _subsets(len(self.names))
        self.present = torch.ones(4, len(self.names), dtype=torch.bool) if objective.complete_rows else subsets

    def run(self) -> None:
        """Check everything, the simplest parts first."""
        self.check_counts()
        self.check_plans()
        model = self.check_model()
        self.check_frozen(model)
        self.check_allows(model)
        self.check_posteriors(model)
        self.check_gradients(model)
        if self.objective.model is None or self.objective.correlated_experts:
            model = self.check_model()
            correlate_experts(model, None, full=False, base=not model.prior_expert)
            self.check_posteriors(model)
            self.check_gradients(model)

    def check_options(self, options: Mapping[str, Any]) -> ObjectiveOptions:
        """Check that options are validated, and can be read back from a run folder's recipe."""
        kind = self.objective.options
        right = isinstance(kind, type) and issubclass(kind, ObjectiveOptions)
        self.expect("options", right, f"expected a subclass of modalkit.plugin.ObjectiveOptions, got {kind!r}")
        try:
            made: ObjectiveOptions = kind(**{"name": self.objective.name, **options})
        except ValidationError as error:
            raise AssertionError(f"{self.who}: options: refuses {dict(options)}: {error}") from error
        with self.using("options", "when read back from a run folder's recipe"):
            again = kind.model_validate_json(made.model_dump_json(), strict=True)
        self.expect("options", again == made, f"are different after they were written as JSON: {again!r}")
        return made

    def check_counts(self) -> None:
        """Check that `check` accepts the modalities, and refuses other numbers of them with a `ValueError`."""
        with self.using("check", f"for {len(self.names)} modalities ({', '.join(self.names)}); give others as schemas"):
            self.objective.check(self.options, self.names)
        for count in range(1, _MOST_COUNTED + 1):
            try:
                self.objective.check(self.options, tuple("abcde"[:count]))
            except ValueError as error:
                self.expect("check", bool(str(error)), f"refuses {count} modalities without a message")
            except Exception as error:
                problem = f"raised {type(error).__name__} for {count} modalities: {error}; expected a ValueError"
                raise AssertionError(f"{self.who}: check: {problem}") from error

    def plan(self, present: Tensor, epoch: int | None, seed: int = 0) -> Plan:
        """Return the plan of some rows after checking it on its own."""
        before, state = present.clone(), torch.get_rng_state()
        when = "for validation" if epoch is None else f"in epoch {epoch}"
        with self.using("plan", f"{when}, for rows of which {present.sum(1).tolist()} modalities are present"):
            made = self.objective.plan(self.options, self.names, present, Draws(self.generator(seed), epoch))
            self.expect("plan", isinstance(made, Plan), f"expected a modalkit.plugin.Plan, got a {type(made).__name__}")
            made.check(present)
        self.expect("plan", torch.equal(before, present), "changes the tensor `present`")
        untouched = torch.equal(state, torch.get_rng_state())
        self.expect("plan", untouched, "uses torch's global random state; use only the generator of `draws`")
        unique = len(set(made.terms)) == len(made.terms) and all(isinstance(term, str) for term in made.terms)
        self.expect("plan", unique, f"terms should be different texts, got {made.terms}")
        for name in ("given", "targets", "private"):
            chosen = getattr(made, name)
            absent = chosen is not None and bool((chosen & ~present).any())
            self.expect("plan", not absent, f"{name} {when} has modalities that are absent")
        for name in ("weight", "kl_weight", "references"):
            if (weight := getattr(made, name)) is not None:
                good = weight.is_floating_point() and bool(weight.isfinite().all()) and bool((weight >= 0).all())
                self.expect("plan", good, f"{name} should be finite floating-point numbers from 0, got {weight}")
        return made

    def generator(self, seed: int) -> torch.Generator:
        """Return a new generator of the CPU."""
        return torch.Generator().manual_seed(self.seed + seed)

    def check_plans(self) -> None:
        """Check plans of every pattern of presence, alone and together, and that they can be repeated."""
        validation = self.plan(self.present, None)
        batches = [self.present, self.present[:1], *torch.split(self.present, 1)]
        for epoch in (*_EPOCHS, None):
            for present in batches:
                first, again = self.plan(present, epoch), self.plan(present, epoch)
                self.expect("plan", _same(first, again), f"differs for the same generator, in epoch {epoch}")
        later = self.plan(self.present, None)
        same = _same(validation, later)
        self.expect("plan", same, "for validation is not the same after other epochs; it must not keep any state")

    def check_model(self) -> MultimodalVAE:
        """Return the model after checking its class."""
        if self.objective.model is None:
            return MultimodalVAE(self.schemas, self.latent_dim)
        with self.using("model"):
            model = self.objective.model(self.options, self.schemas, self.latent_dim)
        right = isinstance(model, MultimodalVAE)
        self.expect("model", right, f"expected a modalkit.model.MultimodalVAE, got a {type(model).__name__}")
        assert isinstance(model, MultimodalVAE)
        self.expect("model", model.names == self.names, f"has the modalities {model.names}, not {self.names}")
        self.expect("model", model.shared_dim == self.latent_dim, f"has a latent_dim of {model.shared_dim}")
        return model

    def frozen(self, epoch: int) -> tuple[str, ...]:
        """Return the prefixes of parameters that stay as they are in an epoch."""
        with self.using("frozen", f"in epoch {epoch}"):
            return tuple(self.objective.frozen(self.options, epoch))

    def check_frozen(self, model: MultimodalVAE) -> None:
        """Check that frozen prefixes name parameters, and that something is left to train."""
        names = [name for name, _ in model.named_parameters()]
        for epoch in _EPOCHS:
            for prefix in (prefixes := self.frozen(epoch)):
                known = any(name.startswith(prefix) for name in names)
                parts = ", ".join(sorted({f"{name.split('.')[0]}." for name in names}))
                self.expect("frozen", known, f"'{prefix}' begins no parameter's name; they begin with {parts}")
            free = [name for name in names if not name.startswith(prefixes)]
            self.expect("frozen", bool(free), f"leaves no parameter to train in epoch {epoch}")

    def batch(self, present: Tensor) -> Batch:
        """Return rows of random values, zeros where a modality is absent."""
        model, values = MultimodalVAE(self.schemas, self.latent_dim).eval(), {}
        with torch.no_grad():
            for name, schema in self.schemas.items():
                sampled = model.likelihood(name, 3 * torch.randn(len(present), self.latent_dim)).sample()
                values[name] = schema.pack(schema.storable(sampled))
                values[name][~present[:, self.names.index(name)]] = 0
        return Batch(values, present)

    def check_allows(self, model: MultimodalVAE) -> None:
        """Check that `allows` answers for every subset, and allows whatever a plan asks for."""
        with self.using("model.allows"):
            allowed = model.allows(self.present[None])
        shape = (1, len(self.present))
        right = isinstance(allowed, Tensor) and allowed.dtype == torch.bool and allowed.shape == shape
        self.expect("model.allows", right, f"expected bool of shape {shape}, got {allowed!r}")
        for epoch in (*_EPOCHS, None):
            plan = self.plan(self.present, epoch)
            used = plan.targets.any(-1) & plan.given.any(-1)
            refused = (used & ~model.allows(plan.given)).nonzero().tolist()
            if refused:
                term, row = refused[0]
                given = [name for name, there in zip(self.names, plan.given[term, row], strict=True) if there]
                self.expect("model.allows", False, f"refuses {given}, which the term '{plan.terms[term]}' is given")

    def check_posteriors(self, model: MultimodalVAE) -> None:
        """Check the posterior of every subset that `allows` allows: its shape, and that it depends on nothing else."""
        complete = torch.ones(4, len(self.names), dtype=torch.bool)
        batch, other = self.batch(complete), self.batch(complete)
        model.eval()
        for members in _subsets(len(self.names)):
            given = members.expand(1, *complete.shape)
            if not bool(model.allows(given).all()):
                continue
            known = [name for name, there in zip(self.names, members.tolist(), strict=True) if there]
            posterior = self.posterior(model, batch, given, known)
            changed = {n: (batch if n in known else other).values[n] for n in self.names}
            again = self.posterior(model, Batch(changed, complete), given, known)
            same = all(torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(_parts(posterior), _parts(again), strict=True))
            self.expect("model.posterior", same, f"given {known or 'nothing'} depends on modalities that are not given")
        model.train()

    def posterior(self, model: MultimodalVAE, batch: Batch, given: Tensor, known: list[str]) -> Posterior:
        """Return the posterior of some given modalities after checking its shape."""
        with self.using("model.posterior", f"given {known or 'nothing'}"), torch.no_grad():
            posterior = model.posterior(model.observed(batch), batch.present, given)
        part, shape = "model.posterior", (*given.shape[:2], model.latent_dim)
        known_kind = isinstance(posterior, (Gaussian, CorrelatedGaussian, Mixture))
        expected = "a Gaussian, a CorrelatedGaussian or a Mixture"
        self.expect(part, known_kind, f"expected {expected}, got a {type(posterior).__name__}")
        gaussian = posterior.parts if isinstance(posterior, Mixture) else posterior
        if isinstance(posterior, Mixture):
            shape = (model.components, *shape)
            weights = posterior.log_weight.exp().sum(0)
            self.expect(part, torch.allclose(weights, torch.ones_like(weights)), "has weights that do not add up to 1")
        spread = "precision" if isinstance(gaussian, Gaussian) else "variance"
        for name in ("loc", spread):
            got = tuple(getattr(gaussian, name).shape)
            self.expect(part, got == shape, f"expected {name} of shape {shape} given {known or 'nothing'}, got {got}")
        finite = bool(gaussian.loc.isfinite().all()) and bool((getattr(gaussian, spread) > 0).all())
        self.expect(part, finite, f"given {known or 'nothing'}: loc must be finite, {spread} above 0")
        return posterior

    def check_gradients(self, model: MultimodalVAE) -> None:
        """Check that each epoch's terms are finite, and give a gradient to every parameter that is not frozen."""
        batch = self.batch(self.present)
        for epoch in _EPOCHS:
            plan = self.plan(self.present, epoch)
            noise = plan_noise(model, plan, self.generator(epoch))
            model.zero_grad(set_to_none=True)
            with self.using("model", f"when the plan of epoch {epoch} is evaluated and differentiated"):
                elbo = evaluate_plan(model, batch, plan, noise).elbo.sum()
                elbo.backward()  # type: ignore[no-untyped-call]
            self.expect("model", bool(elbo.isfinite()), f"the ELBO of epoch {epoch} is {elbo.item()}")
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and not name.startswith(self.frozen(epoch)):
                    reached = parameter.grad is not None and bool(parameter.grad.isfinite().all())
                    self.expect("model", reached, f"no finite gradient reaches '{name}' in epoch {epoch}")


def _subsets(count: int) -> Tensor:
    """Return subsets of modalities, bool `(subsets, count)`: all of them, of many modalities the whole and random ones.

    The whole comes first.
    """
    if count > _MOST_LISTED:
        return torch.cat([torch.ones(1, count, dtype=torch.bool), torch.rand(2**_MOST_LISTED, count) < 0.5])
    codes = torch.arange(2**count - 1, -1, -1)
    return (codes[:, None] >> torch.arange(count)) & 1 == 1


def _same(first: Plan, second: Plan) -> bool:
    """Tell whether two plans are equal."""
    for name in ("given", "targets", "weight", "kl_weight", "references", "trains_decoder", "private"):
        a, b = getattr(first, name), getattr(second, name)
        if (a is None) is not (b is None) or (a is not None and not torch.equal(a, b)):
            return False
    return first.terms == second.terms


def _parts(posterior: Posterior) -> list[Tensor]:
    """Return the tensors that describe a posterior; of a mixture's absent components nothing."""
    if not isinstance(posterior, Mixture):
        return [posterior.loc, posterior.variance]
    weight = posterior.log_weight.exp()
    there = (weight > 0).unsqueeze(-1)
    return [weight, posterior.parts.loc * there, posterior.parts.variance * there]
