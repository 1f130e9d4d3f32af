"""Each objective's loss and gradients against its formula written out, row by row, and against closed forms."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.objectives import BESIDE_MVAE, as_needed
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

import modalkit
from modalkit import registry
from modalkit.data import Batch
from modalkit.distributions import Gaussian, Mixture
from modalkit.model.correlated import correlate_experts
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.narrowed import Narrowed
from modalkit.objectives.cvae import ConditionedEncoder
from modalkit.objectives.mmjsd import jensen_shannon
from modalkit.plugin import Draws, Schema

ROWS, LATENT, BETA = 6, 3, 0.7
MLP = {"type": "mlp", "hidden": [7, 6], "decoder_hidden": [6]}
NORMED = {**MLP, "batch_norm": True}
CONVOLUTIONS = {"type": "dcgan", "widths": [3, 4], "hidden": 7, "decoder_hidden": [5], "batch_norm": True}
PRIOR = Normal(0.0, 1.0)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "place": ("vector", {"size": 2, "weight": 0.5, "network": MLP}),
    "class": ("label", {"classes": 3, "weight": 3, "network": MLP}),
    "bits": ("attributes", {"names": ["x", "y", "z"], "network": NORMED}),
    "picture": ("image", {"size": 8, "channels": 1, "weight": 0.1, "network": CONVOLUTIONS}),
}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def schemas(names: tuple[str, ...]) -> dict[str, Schema]:
    return {n: modalkit.schema(KINDS[n][0], **KINDS[n][1]) for n in names}


def random_batch(made: dict[str, Schema], present: Tensor) -> Batch:
    g = torch.Generator().manual_seed(4)
    values = {}
    for column, (name, schema) in enumerate(made.items()):
        shape = (len(present), *schema.event_shape)
        high = {"image": 256, "label": 3, "attributes": 2}.get(schema.kind)
        value = torch.randint(0, high, shape, generator=g) if high else torch.randn(shape, generator=g)
        there = present[:, column].reshape(-1, *[1] * (value.ndim - 1))
        values[name] = (value * there).to(getattr(torch, schema.dtype))
    return Batch(values, present)


def make(name: str, made: dict[str, Schema], latent_dim: int = LATENT, **options: Any) -> tuple[Any, MultimodalVAE]:
    """Return an objective's options and its model."""
    objective = registry.get(registry.OBJECTIVES, name)
    chosen = objective.options(name=name, **options)
    objective.check(chosen, tuple(made))
    torch.manual_seed(1)
    model = objective.model(chosen, as_needed(name, made), latent_dim)
    for part in ("expert_weights", "log_scale"):  # equal before training
        if hasattr(model, part):
            torch.nn.init.normal_(getattr(model, part))
    return chosen, model


def elbo_of(options: Any, model: MultimodalVAE, batch: Batch, noise: Tensor, epoch: int | None = None) -> Any:
    objective = registry.get(registry.OBJECTIVES, options.name)
    plan = objective.plan(options, model.names, batch.present, Draws(torch.Generator().manual_seed(0), epoch))
    plan.check(batch.present)
    return evaluate_plan(model, batch, plan, noise[: model.draws * model.components * len(plan.terms)], BETA)


# The formulas, written out. An expert is a Normal over the latent dimensions; a row's are {modality: Normal}.


class Plain:
    """A model's networks and a batch, with every quantity of one row at a time."""

    def __init__(self, options: Any, model: MultimodalVAE, batch: Batch, noise: Tensor) -> None:
        self.options, self.model, self.noise = options, model, noise
        self.rows = [[n for n, p in zip(model.names, row, strict=True) if p] for row in batch.present.tolist()]
        self.values = {n: model.schemas[n].unpack(batch.values[n]) for n in model.names}

    def having(self, name: str) -> list[int]:
        return [row for row, there in enumerate(self.rows) if name in there]

    def complete(self) -> list[int]:
        return [row for row, there in enumerate(self.rows) if len(there) == len(self.model.names)]

    def raw(self, name: str, network: Callable[[Tensor], Tensor] | None = None) -> dict[int, Tensor]:
        """Return what the network, by default encoder and head, gives for each row that has a modality."""
        rows = self.having(name)
        network = network or (lambda x: self.model.heads[name](self.model.encoders[name](x)))
        return dict(zip(rows, network(self.values[name][rows]), strict=True)) if rows else {}

    def experts(self) -> list[dict[str, Normal]]:
        raw = {name: self.raw(name) for name in self.model.names}
        return [{name: normal(raw[name][row]) for name in there} for row, there in enumerate(self.rows)]

    def log_px(self, name: str, z: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return the weighted log-likelihood of a modality in those rows of one term that draw a z and have it."""
        rows = [row for row in z if name in self.rows[row]]
        if not rows:
            return {}
        schema = self.model.schemas[name]
        decoder: Any = self.model.decoders[name]
        if isinstance(decoder, Narrowed):  # z is what the modality sees
            decoder = decoder.network
        raw = decoder(torch.stack([z[row] for row in rows]))
        scores = registry.modality(schema.kind).likelihood(schema, raw).log_prob(self.values[name][rows])
        return dict(zip(rows, schema.weight * scores, strict=True))

    def explained(self, z: dict[int, Tensor], names: tuple[str, ...] | None = None) -> Tensor:
        """Return the log-likelihoods of one term, of all modalities or of some, summed over rows."""
        return sum((s for n in names or self.model.names for s in self.log_px(n, z).values()), torch.zeros(()))


def normal(raw: Tensor) -> Normal:
    loc, log_variance = raw.chunk(2)
    return Normal(loc, (log_variance / 2).exp())


def product(experts: list[Normal], *, prior: bool) -> Normal:
    """Return the product of Gaussians, one factor at a time; of nothing, the prior."""
    factors = [*experts, Normal(torch.zeros(LATENT), 1.0)] if prior or not experts else experts
    precision, weighted = torch.zeros(LATENT), torch.zeros(LATENT)
    for one in factors:
        precision = precision + 1 / one.variance
        weighted = weighted + one.mean / one.variance
    return Normal(weighted / precision, precision.rsqrt())


def drawn(q: Normal, noise: Tensor) -> Tensor:
    return q.mean + q.stddev * noise


def kl(q: Normal, p: Normal = PRIOR) -> Tensor:
    return kl_divergence(q, p).sum()


def plain_vae(it: Plain) -> Tensor:
    (name,) = it.model.names
    q = {row: one[name] for row, one in enumerate(it.experts()) if one}
    return it.explained({r: drawn(q[r], it.noise[0, r]) for r in q}) - BETA * sum(kl(one) for one in q.values())


def plain_bivcca(it: Plain) -> Tensor:
    total, experts, rest = torch.zeros(()), it.experts(), len(it.model.names) - 1
    for term, name in enumerate(it.model.names):
        weight = it.options.mu if term == 0 else (1 - it.options.mu) / rest
        q = {row: experts[row][name] for row in it.having(name)}
        elbo = it.explained({r: drawn(q[r], it.noise[term, r]) for r in q}) - BETA * sum(kl(one) for one in q.values())
        total = total + weight * elbo
    return total


def plain_jmvae(it: Plain) -> Tensor:
    model: Any = it.model
    experts = it.experts()
    parts = torch.cat([model.trunks[name](it.values[name]) for name in model.names], 1)
    joint = [normal(raw) for raw in model.joint(parts)]
    total = it.explained({row: drawn(q, it.noise[0, row]) for row, q in enumerate(joint)})
    for row, q in enumerate(joint):
        total = total - BETA * kl(q)
        for name in model.names:
            total = total - BETA * it.options.alpha * kl(q, experts[row][name])
    return total


def plain_telbo(it: Plain, stage: int) -> Tensor:
    model: Any = it.model
    experts = it.experts()
    q = {row: product(list(experts[row].values()), prior=True) for row in it.complete()}
    total = it.explained({r: drawn(q[r], it.noise[0, r]) for r in q}) - BETA * sum(kl(one) for one in q.values())
    for term, name in enumerate(model.names if stage == 2 else ()):
        own = {row: normal(raw) for row, raw in it.raw(name, model.alone[name]).items()}
        total = total + it.explained({r: drawn(own[r], it.noise[term + 1, r]) for r in own}, (name,))
        total = total - BETA * sum(kl(one) for one in own.values())
    return total


def plain_cvae(it: Plain) -> Tensor:
    model: Any = it.model
    target, condition = it.options.target, next(n for n in model.names if n != it.options.target)
    rows, encoder = it.complete(), model.encoders[target]
    x, columns = it.values[target][rows], torch.zeros(len(rows), 3)
    for place, row in enumerate(rows):  # the condition is a class or three bits
        columns[place] = it.values[condition][row] if condition == "bits" else torch.eye(3)[it.values[condition][row]]
    layers = encoder.encoder
    if target == "picture":
        x, layers = layers.convolutions(x).flatten(1), layers.dense
    first, *later = layers
    both = torch.cat([first.linear.weight, first.of_condition.weight], 1)
    features = torch.cat([x, columns], 1) @ both.T + first.linear.bias
    for layer in later:
        features = layer(features)
    q = dict(zip(rows, map(normal, model.heads[target](features)), strict=True))
    z = {row: torch.cat([drawn(q[row], it.noise[0, row]), columns[place]]) for place, row in enumerate(rows)}
    return it.explained(z, (target,)) - BETA * sum(kl(one) for one in q.values())


def plain_mmvae(it: Plain) -> Tensor:
    total, experts = torch.zeros(()), it.experts()
    for part, name in enumerate(it.model.names):  # a draw of each expert
        z = {row: drawn(experts[row][name], it.noise[part, row]) for row in it.having(name)}
        for scored in it.model.names:
            for row, score in it.log_px(scored, z).items():
                total = total + score / len(it.rows[row])
        for row, point in z.items():
            of = [one.log_prob(point).sum() for one in experts[row].values()]
            log_q = torch.stack(of).logsumexp(0) - math.log(len(of))
            total = total - BETA * (log_q - PRIOR.log_prob(point).sum()) / len(of)
    return total


def plain_bound(it: Plain, *, doubly: bool = False) -> Tensor:
    """Return MMVAE's importance-weighted bound, with gradients as the formulas of IWAE or DReG have them."""
    total, experts, count = torch.zeros(()), it.experts(), it.options.samples
    for part, name in enumerate(it.model.names):
        draws, points = [], []
        for draw in range(count):
            z = {r: drawn(experts[r][name], it.noise[draw * len(it.model.names) + part, r]) for r in it.having(name)}
            points.append(z)
            leaves = {row: z[row].detach().requires_grad_() for row in z} if doubly else z
            weights = {row: log_ratio(experts[row], leaves[row], fixed=doubly) for row in z}
            for scored in it.model.names:
                for row, score in it.log_px(scored, leaves).items():
                    weights[row] = weights[row] + score
            draws.append((weights, leaves))
        for row in it.having(name):
            each = torch.stack([weights[row] for weights, _ in draws])
            bound = each.logsumexp(0) - math.log(count)
            if doubly:
                v = each.detach().softmax(0)
                slopes = [torch.autograd.grad(one[row], at[row], retain_graph=True)[0] for one, at in draws]
                parts = [v[k] ** 2 * (slopes[k] * points[k][row]).sum() for k in range(count)]
                path = torch.stack(parts).sum()
                bound = bound + path - path.detach()
            total = total + bound / len(it.rows[row])
    return total


def log_ratio(experts: dict[str, Normal], point: Tensor, *, fixed: bool) -> Tensor:
    """Return beta times log p(z) - log q(z|X) of a mixture of experts, whose parameters may be constants."""
    of = [Normal(q.mean.detach(), q.stddev.detach()) if fixed else q for q in experts.values()]
    log_q = torch.stack([one.log_prob(point).sum() for one in of]).logsumexp(0) - math.log(len(of))
    return BETA * (PRIOR.log_prob(point).sum() - log_q)


def plain_mopoe(it: Plain) -> Tensor:
    total, experts, names = torch.zeros(()), it.experts(), it.model.names
    for code in range(1, 2 ** len(names)):
        subset = [name for bit, name in enumerate(names) if code >> bit & 1]
        rows = [row for row, there in enumerate(it.rows) if set(subset) <= set(there)]
        q = {row: product([experts[row][name] for name in subset], prior=False) for row in rows}
        z = {row: drawn(q[row], it.noise[code - 1, row]) for row in rows}
        for scored in names:
            for row, score in it.log_px(scored, z).items():
                total = total + score / (2 ** len(it.rows[row]) - 1)
        for row in rows:
            total = total - BETA * kl(q[row]) / (2 ** len(it.rows[row]) - 1)
    return total


def plain_mvtcae(it: Plain) -> Tensor:
    total, experts, alpha = torch.zeros(()), it.experts(), it.options.alpha
    q = {row: product(list(one.values()), prior=False) for row, one in enumerate(experts) if one}
    z = {row: drawn(q[row], it.noise[0, row]) for row in q}
    for scored in it.model.names:
        for row, score in it.log_px(scored, z).items():
            total = total + score * (len(it.rows[row]) - alpha) / len(it.rows[row])
    for row in q:
        total = total - BETA * (1 - alpha) * kl(q[row])
        for one in experts[row].values():
            total = total - BETA * alpha / len(it.rows[row]) * kl(q[row], one)
    return total


def plain_crmvae(it: Plain) -> Tensor:
    total, experts = torch.zeros(()), it.experts()
    joint = {row: product(list(one.values()), prior=False) for row, one in enumerate(experts) if one}
    for term, name in enumerate([None, *it.model.names]):
        q = joint if name is None else {row: experts[row][name] for row in it.having(name)}
        z = {row: drawn(one, it.noise[term, row]) for row, one in q.items()}
        for scored in it.model.names if name is None else (name,):
            for row, score in it.log_px(scored, z).items():
                total = total + score / (2 * (len(it.rows[row]) + 1))
    for row, q in joint.items():
        for other in [PRIOR, *experts[row].values()]:
            total = total - BETA * kl(q, other) / (len(it.rows[row]) + 1)
    return total


def plain_mmvm(it: Plain, alpha: float) -> Tensor:
    total, experts = torch.zeros(()), it.experts()
    for term, name in enumerate(it.model.names):
        q = {row: experts[row][name] for row in it.having(name)}
        z = {row: drawn(q[row], it.noise[term, row]) for row in q}
        total = total + it.explained(z, (name,))
        for row, one in q.items():
            pairs = [kl(one, other) for other in experts[row].values()]
            total = total - BETA * (alpha * kl(one) + (1 - alpha) * sum(pairs) / len(pairs))
    return total


def weighted_product(experts: dict[str, Normal], model: Any) -> Normal:
    """Return the product of Gaussians to powers that add up to 1, one factor at a time."""
    columns = [model.names.index(name) for name in experts]
    powers = torch.stack([model.expert_weights[column] for column in columns]).softmax(0)
    precision, weighted = torch.zeros(LATENT), torch.zeros(LATENT)
    for power, one in zip(powers, experts.values(), strict=True):
        precision = precision + power / one.variance
        weighted = weighted + power * one.mean / one.variance
    return Normal(weighted / precision, precision.rsqrt())


def plain_gpoe(it: Plain) -> Tensor:
    """Return the sum over the complete and the single terms (k = 0), each explaining all that a row has."""
    total, experts = torch.zeros(()), it.experts()
    for term, name in enumerate([None, *it.model.names]):
        q = {}
        for row, there in enumerate(it.rows):
            if name is None and there:
                q[row] = weighted_product(experts[row], it.model)
            elif name in there and len(there) > 1:
                q[row] = experts[row][name]
        z = {row: drawn(one, it.noise[term, row]) for row, one in q.items()}
        total = total + it.explained(z) - BETA * sum(kl(one) for one in q.values())
    return total


def plain_mmjsd(it: Plain) -> Tensor:
    total, experts = torch.zeros(()), it.experts()
    for part, name in enumerate(it.model.names):  # a draw of each expert
        z = {row: drawn(experts[row][name], it.noise[part, row]) for row in it.having(name)}
        for scored in it.model.names:
            for row, score in it.log_px(scored, z).items():
                total = total + score / len(it.rows[row])
    for one in (one for one in experts if one):
        densities = [Normal(torch.zeros(LATENT), torch.ones(LATENT)), *one.values()]
        narrow = product(list(one.values()), prior=True)
        geometric = Normal(narrow.mean, narrow.stddev * math.sqrt(len(densities)))
        total = total - BETA * sum(kl(density, geometric) for density in densities) / len(densities)
    return total


def with_private(it: Plain) -> list[dict[str, tuple[Normal, Normal]]]:
    """Return each row's experts of z and of the private latents, by modality."""
    found: list[dict[str, tuple[Normal, Normal]]] = [{} for _ in it.rows]
    for name in it.model.names:
        for row, raw in it.raw(name).items():
            both = normal(raw)
            found[row][name] = (
                Normal(both.mean[:LATENT], both.stddev[:LATENT]),
                Normal(both.mean[LATENT:], both.stddev[LATENT:]),
            )
    return found


def noise_of(it: Plain, name: str | None) -> Tensor:
    """Return the noise of z, or of the private latent of a modality; they stand side by side."""
    sizes = [LATENT, *(schema.private_dim for schema in it.model.schemas.values())]
    return torch.split(it.noise, sizes, -1)[0 if name is None else 1 + it.model.names.index(name)]


def plain_dmvae(it: Plain) -> Tensor:
    total, experts = torch.zeros(()), with_private(it)
    for term, only in enumerate([None, *it.model.names]):
        seen: dict[str, dict[int, Tensor]] = {name: {} for name in it.model.names}
        for row, there in enumerate(experts):
            if not there or (only and (only not in there or len(there) == 1)):
                continue
            q = product([z for name, (z, _) in there.items() if only in (None, name)], prior=True)
            z = drawn(q, noise_of(it, None)[term, row])
            total = total - BETA * (kl(q) + sum(kl(own) for _, own in there.values()))
            for name, (_, own) in there.items():
                seen[name][row] = torch.cat([z, drawn(own, noise_of(it, name)[term, row])])
        total = total + sum(it.explained(z, (name,)) for name, z in seen.items())
    return total


def plain_mmvae_plus(it: Plain, *, doubly: bool = False) -> Tensor:
    """Return the bound, with gradients as the formulas have them; an auxiliary prior's noise has no density in it."""
    total, experts, count, names = torch.zeros(()), with_private(it), it.options.samples, it.model.names
    scales = dict(
        zip(names, it.model.log_scale.exp().split([s.private_dim for s in it.model.schemas.values()]), strict=True)
    )
    for row, there in enumerate(experts):
        for part, name in enumerate(names):
            if name not in there:
                continue
            weights, slopes, paths = [], [], []
            for draw in range(count):
                at = draw * len(names) + part
                z, w = (drawn(q, noise_of(it, n)[at, row]) for q, n in zip(there[name], (None, name), strict=True))
                path = torch.cat([z, w])
                leaf = path.detach().requires_grad_() if doubly else path
                z, w = leaf[:LATENT], leaf[LATENT:]
                weight = log_ratio({n: one for n, (one, _) in there.items()}, z, fixed=doubly)
                weight = weight + log_ratio({name: there[name][1]}, w, fixed=doubly)
                for scored in there:
                    other = scales[scored] * noise_of(it, scored)[at, row]
                    seen = torch.cat([z, w if scored == name else other])
                    weight = weight + it.log_px(scored, {row: seen})[row]
                weights.append(weight)
                paths.append(path)
                if doubly:
                    slopes.append(torch.autograd.grad(weight, leaf, retain_graph=True)[0])
            each = torch.stack(weights)
            bound = each.mean() if it.options.bound == "elbo" else each.logsumexp(0) - math.log(count)
            if doubly:
                v = each.detach().softmax(0)
                path = sum(v[k] ** 2 * (slopes[k] * paths[k]).sum() for k in range(count))
                bound = bound + path - path.detach()
            total = total + bound / len(there)
    return total


def mixture_of(raw: Tensor, components: int) -> list[tuple[Tensor, Normal]]:
    """Return the log-weight and the Gaussian of each part of an expert that is a mixture."""
    parts = raw.reshape(components, 2 * LATENT + 1)
    log_weights = parts[:, -1] - parts[:, -1].logsumexp(0)
    return [(w, normal(part[:-1])) for w, part in zip(log_weights, parts, strict=True)]


def plain_mixture_mvae(it: Plain) -> Tensor:
    """Return the sum over the complete and the single terms (k = 0), each with one draw of each of its parts."""
    total, names, each, zero = torch.zeros(()), it.model.names, it.options.components, torch.zeros(LATENT)
    raw = {name: it.raw(name) for name in names}
    terms = [set(names), *({name} for name in names)]
    for term, subset in enumerate(terms):
        mixtures: dict[int, dict[int, tuple[Tensor, Normal]]] = {}  # by row and part
        for row, there in enumerate(it.rows):
            given = [n for n in names if n in there and n in subset]
            if not given or (term and len(there) == 1):  # a lone modality's complete term is its own
                continue
            found = {}
            for part, choice in enumerate(itertools.product(range(each), repeat=len(names))):
                if any(c for n, c in zip(names, choice, strict=True) if n not in given):
                    continue
                factors = [mixture_of(raw[n][row], each)[choice[names.index(n)]] for n in given]
                q = product([one for _, one in factors], prior=True)
                # The integral of prior times factors: their density at any point over that of their product.
                integral = sum(w + one.log_prob(zero).sum() for w, one in factors) + PRIOR.log_prob(zero).sum()
                found[part] = (integral - q.log_prob(zero).sum(), q)
            mass = torch.stack([w for w, _ in found.values()]).logsumexp(0)
            mixtures[row] = {part: (w - mass, q) for part, (w, q) in found.items()}
        for part in range(each ** len(names)):
            mine = {row: mixtures[row][part] for row in mixtures if part in mixtures[row]}
            z = {row: drawn(q, it.noise[part * len(terms) + term, row]) for row, (_, q) in mine.items()}
            for scored in (n for n in names if n in subset):
                for row, score in it.log_px(scored, z).items():
                    total = total + mine[row][0].exp() * score
            for row, point in z.items():
                log_q = torch.stack([w + q.log_prob(point).sum() for w, q in mixtures[row].values()]).logsumexp(0)
                total = total - BETA * mine[row][0].exp() * (log_q - PRIOR.log_prob(point).sum())
    return total


Case = tuple[str, tuple[str, ...], dict[str, Any], Callable[[Plain], Tensor], int | None]
EQUATION_4 = {"k": 0, "targets": "subset"}
TWO, THREE = ("place", "bits"), ("place", "class", "bits")
CASES: dict[str, Case] = {
    "vae": ("vae", ("place",), {}, plain_vae, 0),
    "vae, batch norm": ("vae", ("bits",), {}, plain_vae, 0),
    "bivcca": ("bivcca", TWO, {"mu": 0.3}, plain_bivcca, 0),
    "bivcca of three": ("bivcca", THREE, {"mu": 0.3}, plain_bivcca, 0),
    "jmvae": ("jmvae", TWO, {"alpha": 0.2, "hidden": 5}, plain_jmvae, 0),
    "jmvae of three": ("jmvae", ("class", "bits", "picture"), {"alpha": 0.2, "hidden": 5}, plain_jmvae, 0),
    "telbo, first stage": ("telbo", THREE, {"first_stage_epochs": 2}, lambda it: plain_telbo(it, 1), 1),
    "telbo, second stage": ("telbo", THREE, {"first_stage_epochs": 2}, lambda it: plain_telbo(it, 2), 2),
    "telbo, validation": ("telbo", TWO, {"first_stage_epochs": 2}, lambda it: plain_telbo(it, 2), None),
    "cvae of a vector": ("cvae", ("place", "class"), {"target": "place"}, plain_cvae, 0),
    "cvae of a class": ("cvae", ("bits", "place"), {"target": "place"}, plain_cvae, 0),
    "cvae of a picture": ("cvae", ("picture", "bits"), {"target": "picture"}, plain_cvae, 0),
    "mmvae": ("mmvae", TWO, {}, plain_mmvae, 0),
    "mmvae of three": ("mmvae", THREE, {}, plain_mmvae, 0),
    "mmvae, iwae": ("mmvae", THREE, {"samples": 3, "bound": "iwae"}, plain_bound, 0),
    "mmvae, iwae of one": ("mmvae", TWO, {"bound": "iwae"}, plain_mmvae, 0),
    "mmvae, dreg": (
        "mmvae",
        ("place", "class"),
        {"samples": 3, "bound": "dreg"},
        lambda it: plain_bound(it, doubly=True),
        0,
    ),
    "mopoe": ("mopoe", TWO, {}, plain_mopoe, 0),
    "mopoe of three": ("mopoe", THREE, {}, plain_mopoe, 0),
    "mvtcae": ("mvtcae", TWO, {"alpha": 0.6}, plain_mvtcae, 0),
    "mvtcae of three": ("mvtcae", THREE, {"alpha": 0.6}, plain_mvtcae, 0),
    "crmvae": ("crmvae", TWO, {}, plain_crmvae, 0),
    "crmvae of three": ("crmvae", THREE, {}, plain_crmvae, 0),
    "mmvm": ("mmvm", TWO, {}, lambda it: plain_mmvm(it, 0), 0),
    "mmvm of three": ("mmvm", THREE, {"alpha": 0.3}, lambda it: plain_mmvm(it, 0.3), 0),
    "mmvm, product": ("mmvm", THREE, {"posterior": "product"}, lambda it: plain_mmvm(it, 0), 0),
    "mmvm, alpha falls": (
        "mmvm",
        THREE,
        {"alpha": 0.2, "alpha_epochs": 4},
        lambda it: plain_mmvm(it, 0.4),
        3,
    ),
    "mmvm, validation": (
        "mmvm",
        TWO,
        {"alpha": 0.2, "alpha_epochs": 4},
        lambda it: plain_mmvm(it, 0.2),
        None,
    ),
    "gpoe": ("gpoe", TWO, {"k": 0}, plain_gpoe, 0),
    "gpoe of three": ("gpoe", THREE, {"k": 0}, plain_gpoe, 0),
    "mmjsd": ("mmjsd", TWO, {}, plain_mmjsd, 0),
    "mmjsd of three": ("mmjsd", THREE, {}, plain_mmjsd, 0),
    "dmvae": ("dmvae", ("place", "picture"), {}, plain_dmvae, 0),
    "dmvae of three": ("dmvae", ("place", "class", "picture"), {}, plain_dmvae, 0),
    "mmvae-plus": ("mmvae-plus", ("place", "class"), {}, plain_mmvae_plus, 0),
    "mmvae-plus, two samples": ("mmvae-plus", ("place", "class"), {"samples": 2}, plain_mmvae_plus, 0),
    "mmvae-plus, iwae": ("mmvae-plus", ("place", "class"), {"samples": 3, "bound": "iwae"}, plain_mmvae_plus, 0),
    "mmvae-plus, dreg": (
        "mmvae-plus",
        ("place", "class"),
        {"samples": 3, "bound": "dreg"},
        lambda it: plain_mmvae_plus(it, doubly=True),
        0,
    ),
    "mixture-mvae of one": ("mixture-mvae", TWO, EQUATION_4 | {"components": 1}, plain_mixture_mvae, 0),
    "mixture-mvae of three": (
        "mixture-mvae",
        THREE,
        EQUATION_4 | {"components": 2},
        plain_mixture_mvae,
        0,
    ),
}


def patterns(modalities: int) -> dict[str, Tensor]:
    """Return presence: of everything, and at random with one row that has nothing and one that has all."""
    missing = torch.rand(ROWS, modalities, generator=torch.Generator().manual_seed(5)) < 0.6
    missing[0], missing[1:3] = False, True
    return {"complete": torch.ones(ROWS, modalities, dtype=torch.bool), "missing": missing}


@pytest.mark.parametrize("rows", ["complete", "missing"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_the_formula_written_out(case: str, rows: str) -> None:
    name, names, settings, formula, epoch = CASES[case]
    if rows == "missing" and registry.get(registry.OBJECTIVES, name).complete_rows:
        pytest.skip("defined for complete rows only")
    made = schemas(names)
    options, model = make(name, made, **settings)
    batch = random_batch(made, patterns(len(names))[rows])
    noise = torch.randn(64, ROWS, model.latent_dim, generator=torch.Generator().manual_seed(2))
    fast = -elbo_of(options, model, batch, noise, epoch).elbo.sum() / ROWS
    slow = -formula(Plain(options, model, batch, noise)) / ROWS
    assert abs(fast.item() - slow.item()) <= 1e-10 * abs(slow.item()) and slow.item() != 0
    ours, theirs = (torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in (fast, slow))
    largest = max(float(g.abs().max()) for g in theirs if g is not None)
    for (parameter, values), one, other in zip(model.named_parameters(), ours, theirs, strict=True):
        # What has no part in a formula has no gradient, or zeros.
        one, other = (torch.zeros_like(values) if g is None else g for g in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * largest, msg=lambda m, p=parameter: f"{p}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_every_network_learns_something(case: str) -> None:
    """No parameter is forgotten by its objective; TELBO's single networks wait for the second stage."""
    name, names, settings, _, epoch = CASES[case]
    made = schemas(names)
    options, model = make(name, made, **settings)
    batch = random_batch(made, torch.ones(ROWS, len(names), dtype=torch.bool))
    elbo_of(options, model, batch, torch.randn(64, ROWS, model.latent_dim), epoch).elbo.sum().backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    waits = case == "telbo, first stage"
    waiting = {n for n, _ in model.named_parameters() if waits and n.startswith("alone.")}
    normed = {n for n in without - waiting if ".bits." in n and n.endswith(".bias")}  # batch norm removes a bias
    assert without - normed == waiting


def test_an_encoder_that_is_one_layer_sees_the_condition_too() -> None:
    layer = torch.nn.Linear(2, 3)
    encoder = ConditionedEncoder(layer, 4)
    x, columns = torch.randn(5, 2), torch.randn(5, 4)
    torch.testing.assert_close(encoder(x, columns), layer(x) + columns @ encoder.first.of_condition.weight.T)


def test_two_threads_condition_one_encoder_each_in_its_own_way() -> None:
    """Both threads are inside the encoder at once, and each sees its own condition."""
    encoder = ConditionedEncoder(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(2, 3)), 4)
    inputs = [(torch.randn(5, 2), torch.randn(5, 4)) for _ in range(2)]
    alone = [encoder(x, columns) for x, columns in inputs]
    both = threading.Barrier(2)

    def meet(*_: object) -> None:
        both.wait(timeout=60)

    encoder.encoder[0].register_forward_hook(meet)
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda pair: encoder(*pair), inputs))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


# Closed forms.


def linear(name: str, size: int, parts: int = 0, **options: Any) -> tuple[Any, MultimodalVAE, Batch, Tensor]:
    """Return a model of one modality, x = slope * z + noise of scale 0.7, whose expert is the exact posterior.

    With the prior as a factor of its own the expert is the likelihood instead. Also returns each row's evidence.
    """
    network = {"type": "mlp", "hidden": [size], "decoder_hidden": []}
    chosen, model = make(name, {"x": modalkit.schema("vector", size=size, scale=0.7, network=network)}, size, **options)
    g = torch.Generator().manual_seed(3)
    slope = torch.rand(size, generator=g) + 0.5
    prior = 0.0 if model.prior_expert else 1.0
    precision = prior + slope**2 / 0.49
    width = 2 * size + (parts > 0)
    head = torch.nn.Linear(size, max(1, parts) * width)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        for first in range(0, len(head.bias), width):
            head.weight[first : first + size] = torch.diag(slope / 0.49 / precision)
            head.bias[first + size : first + 2 * size] = -precision.log()
            if parts:
                head.bias[first + 2 * size] = float(first)  # weights that differ between equal parts
        decoder = next(part for part in model.decoders["x"].modules() if isinstance(part, torch.nn.Linear))
        decoder.weight.copy_(torch.diag(slope))
        decoder.bias.zero_()
    model.encoders["x"], model.heads["x"] = torch.nn.Identity(), head
    x = torch.randn(ROWS, size, generator=g).float()
    evidence = MultivariateNormal(torch.zeros(size), torch.diag(slope**2 + 0.49)).log_prob(x.double())
    return chosen, model, Batch({"x": x}, torch.ones(ROWS, 1, dtype=torch.bool)), evidence


@pytest.mark.parametrize(
    ("name", "parts", "options"),
    [("mmvae", 0, {}), ("mixture-mvae", 1, {"components": 1}), ("mixture-mvae", 3, {"components": 3})],
)
def test_an_elbo_with_drawn_kl_is_the_evidence_whatever_is_drawn(name: str, parts: int, options: Any) -> None:
    chosen, model, batch, evidence = linear(name, 4, parts, **options)
    plan = registry.get(registry.OBJECTIVES, name).plan(chosen, model.names, batch.present, Draws(torch.Generator()))
    for seed in (0, 1):
        noise = torch.randn(model.components, ROWS, 4, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(evaluate_plan(model, batch, plan, noise).elbo[0], evidence, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vae", "mopoe"])
def test_an_elbo_with_closed_kl_is_the_evidence_on_average(name: str) -> None:
    """The log-weights are the evidence whatever is drawn, and the ELBO is it where the noise's moments are exact."""
    chosen, model, batch, evidence = linear(name, 4)
    plan = registry.get(registry.OBJECTIVES, name).plan(chosen, model.names, batch.present, Draws(torch.Generator()))
    corners = [torch.tensor(signs) for signs in itertools.product([-1.0, 1.0], repeat=4)]
    elbos = [evaluate_plan(model, batch, plan, c.expand(1, ROWS, 4)).elbo[0] for c in corners]
    torch.testing.assert_close(torch.stack(elbos).mean(0), evidence, rtol=1e-10, atol=1e-10)
    result = evaluate_plan(model, batch, plan, corners[1].expand(1, ROWS, 4))
    q = model.posterior(model.observed(batch), batch.present, plan.given)
    z = q.sample(corners[1].expand(1, 1, ROWS, 4), torch.zeros(1, 1, ROWS))[0]
    log_weight = result.log_px["x"] + PRIOR.log_prob(z).sum(-1) - q.log_prob(z)
    torch.testing.assert_close(log_weight[0], evidence, rtol=1e-10, atol=1e-10)


def test_mixture_experts_of_one_component_are_the_mvae() -> None:
    made = schemas(THREE)
    options, mixture = make("mixture-mvae", made, k=2, components=1)
    plain = MultimodalVAE(made, LATENT)
    state = {k: v[: 2 * LATENT] if k.startswith("heads.") else v for k, v in mixture.state_dict().items()}
    plain.load_state_dict(state)
    batch = random_batch(made, patterns(3)["missing"])
    plan = registry.get(registry.OBJECTIVES, "mvae").plan(
        options, plain.names, batch.present, Draws(torch.Generator().manual_seed(0))
    )
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    observed = plain.observed(batch)
    one, other = (m.posterior(observed, batch.present, plan.given) for m in (mixture, plain))
    assert isinstance(one, Mixture) and isinstance(other, Gaussian)
    assert not one.log_weight.any()
    torch.testing.assert_close(one.parts.loc[0], other.loc, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.parts.precision[0], other.precision, rtol=1e-12, atol=1e-12)
    drawn_kl, closed_kl = (evaluate_plan(m, batch, plan, noise) for m in (mixture, plain))
    for name in made:
        torch.testing.assert_close(drawn_kl.log_px[name], closed_kl.log_px[name], rtol=1e-10, atol=1e-10)
    # The one difference: a mixture's KL has no closed form, so it is that of the draw.
    z = other.rsample(noise)
    log_ratio = Normal(other.loc, other.scale).log_prob(z).sum(-1) - PRIOR.log_prob(z).sum(-1)
    torch.testing.assert_close(drawn_kl.kl, log_ratio * plan.given.any(-1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("components", [1, 2, 3])
def test_a_product_of_mixtures_is_proportional_to_the_densities_multiplied(components: int) -> None:
    """log q(z|X) - log p(z) - sum log q(z|x_m) must not depend on z: equation 3, with mixtures for experts."""
    made = schemas(THREE)
    options, model = make("mixture-mvae", made, components=components)
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.mul_(6)  # experts that differ, so that their mixtures are no Gaussians
    batch = random_batch(made, patterns(3)["missing"])
    given = torch.stack([batch.present, *(batch.present & row for row in torch.eye(3, dtype=torch.bool))])
    model.eval()
    posterior = model.posterior(model.observed(batch), batch.present, given)
    it = Plain(options, model, batch, torch.zeros(0))
    raw = {name: it.raw(name) for name in made}
    for z in torch.randn(2, LATENT):
        log_q = [posterior.log_prob(point.expand(4, ROWS, LATENT)) for point in (z, torch.zeros(LATENT))]
        for term, row in itertools.product(range(4), range(ROWS)):
            gaps = []
            for point, density in zip((z, torch.zeros(LATENT)), log_q, strict=True):
                multiplied = PRIOR.log_prob(point).sum()
                for column, name in enumerate(made):
                    if given[term, row, column]:
                        parts = mixture_of(raw[name][row], components)
                        multiplied += torch.stack([w + q.log_prob(point).sum() for w, q in parts]).logsumexp(0)
                gaps.append(density[term, row] - multiplied)
            torch.testing.assert_close(*gaps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["mmvae", "mmvm", "mmjsd"])
def test_a_mixtures_density_is_that_of_its_experts_and_integrates_to_one(name: str) -> None:
    made = schemas(THREE)
    options, model = make(name, made, 1)
    batch = random_batch(made, patterns(3)["missing"])
    posterior = model.posterior(model.observed(batch), batch.present, batch.present[None])
    grid = torch.linspace(-40, 40, 40_001)
    log_q = posterior.log_prob(grid[:, None, None, None].expand(-1, 1, ROWS, 1))[:, 0]  # (points, rows)
    torch.testing.assert_close(torch.trapezoid(log_q.exp(), grid, dim=0), torch.ones(ROWS), rtol=1e-8, atol=1e-8)
    for row, experts in enumerate(Plain(options, model, batch, torch.zeros(0)).experts()):
        parts = list(experts.values()) or [Normal(torch.zeros(1), torch.ones(1))]
        normals = Independent(Normal(*(torch.stack([getattr(q, n) for q in parts]) for n in ("mean", "stddev"))), 1)
        mixture = MixtureSameFamily(Categorical(logits=torch.zeros(len(parts))), normals)
        torch.testing.assert_close(log_q[:, row], mixture.log_prob(grid[:, None]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_several_samples_average_the_elbo(full: bool) -> None:
    made = schemas(THREE)
    options, many = make("mmvae", made, samples=4)
    single, one = make("mmvae", made)
    for model in (many, one) if full else ():
        torch.manual_seed(2)
        correlate_experts(model, None, full=True, base=True)
    batch, noise = random_batch(made, patterns(3)["missing"]), torch.randn(12, ROWS, LATENT)
    apart = [elbo_of(single, one, batch, noise[3 * draw : 3 * draw + 3]) for draw in range(4)]
    whole = elbo_of(options, many, batch, noise)
    torch.testing.assert_close(whole.elbo, sum(part.elbo for part in apart) / 4, rtol=1e-12, atol=1e-12)
    for name in THREE:
        torch.testing.assert_close(whole.log_px[name], sum(part.log_px[name] for part in apart) / 4)


@pytest.mark.parametrize("bound", ["iwae", "dreg"])
def test_an_importance_weighted_bound_at_the_exact_posterior_is_the_evidence(bound: str) -> None:
    """DReG's gradient of the encoder is then zero, whatever is drawn; IWAE's is zero only on average."""
    chosen, model, batch, evidence = linear("mmvae", 4, samples=3, bound=bound)
    plan = registry.get(registry.OBJECTIVES, "mmvae").plan(chosen, ("x",), batch.present, Draws(torch.Generator()))
    elbo = evaluate_plan(model, batch, plan, torch.randn(3, ROWS, 4)).elbo[0]
    torch.testing.assert_close(elbo, evidence, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(elbo.sum(), model.heads["x"].weight)
    assert bool((gradient.abs() < 1e-9).all()) == (bound == "dreg")


def test_dreg_estimates_the_gradient_of_iwae_with_less_variance() -> None:
    rows, found = 40_000, {}
    for bound in ("iwae", "dreg"):
        chosen, model, batch, _ = linear("mmvae", 1, samples=5, bound=bound)
        with torch.no_grad():
            model.heads["x"].bias.add_(torch.tensor([0.8, 0.5]))  # no longer exact
        batch = Batch({"x": batch.values["x"][:1].expand(rows, -1)}, torch.ones(rows, 1, dtype=torch.bool))
        shifts = torch.zeros(rows, 2, requires_grad=True)  # a bias for each row, whose gradients are the estimates
        head = model.heads["x"]
        model.heads["x"] = Shifted(head, shifts)
        plan = registry.get(registry.OBJECTIVES, "mmvae").plan(chosen, ("x",), batch.present, Draws(torch.Generator()))
        noise = torch.randn(5, rows, 1, generator=torch.Generator().manual_seed(0))
        (found[bound],) = torch.autograd.grad(evaluate_plan(model, batch, plan, noise).elbo.sum(), shifts)
    error = (sum(one.var(0) for one in found.values()) / rows).sqrt()
    assert ((found["iwae"].mean(0) - found["dreg"].mean(0)).abs() < 5 * error).all()
    assert (found["iwae"].mean(0).abs() > 10 * error).all()  # there is a gradient to estimate
    assert (found["dreg"].var(0) < found["iwae"].var(0)).all()


class Shifted(torch.nn.Module):
    """A head whose output is shifted by constants of each row."""

    def __init__(self, head: torch.nn.Module, shifts: Tensor) -> None:
        super().__init__()
        self.head, self.shifts = head, shifts

    def forward(self, features: Tensor) -> Tensor:
        shifted: Tensor = self.head(features) + self.shifts
        return shifted


def test_mmjsds_dynamic_prior_is_the_geometric_mean_of_experts_and_prior() -> None:
    """The divergence equals its definition by integrals over a grid, whatever the experts."""
    experts = Gaussian(torch.tensor([[[0.4]], [[-1.5]], [[9.0]]]), torch.tensor([[[2.0]], [[0.7]], [[5.0]]]))
    there = torch.tensor([[True], [True], [False]])
    grid = torch.linspace(-30, 30, 60_001)
    logs = [PRIOR.log_prob(grid), *(Normal(*pair).log_prob(grid) for pair in [(0.4, 0.5**0.5), (-1.5, 0.7**-0.5)])]
    log_mean = torch.stack(logs).mean(0)
    log_mean = log_mean - torch.trapezoid(log_mean.exp(), grid).log()
    want = sum(torch.trapezoid(one.exp() * (one - log_mean), grid) for one in logs) / 3
    torch.testing.assert_close(jensen_shannon(experts, there)[0], want, rtol=1e-9, atol=1e-9)


def test_gpoe_of_experts_that_agree_is_that_expert() -> None:
    """However many agree, the product is no more certain than each: the weights add up to 1 in any subset."""
    made = {n: modalkit.schema("vector", size=2, network=MLP) for n in "abc"}
    _, model = make("gpoe", made)
    for name in "bc":
        model.encoders[name], model.heads[name] = model.encoders["a"], model.heads["a"]
    batch = Batch(dict.fromkeys("abc", torch.randn(ROWS, 2)), torch.ones(ROWS, 3, dtype=torch.bool))
    members = torch.tensor([[True, False, False], [False, True, True], [True, True, True]])
    q = model.posterior(model.observed(batch), batch.present, members[:, None].expand(-1, ROWS, -1))
    assert isinstance(q, Gaussian)
    for term in (1, 2):
        torch.testing.assert_close(q.loc[term], q.loc[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(q.precision[term], q.precision[0], rtol=1e-12, atol=1e-12)


def test_mmvm_can_infer_by_the_product_of_its_experts_too() -> None:
    made = schemas(THREE)
    options, model = make("mmvm", made, posterior="product")
    batch = random_batch(made, patterns(3)["missing"])
    q = model.posterior(model.observed(batch), batch.present, batch.present[None])
    assert isinstance(q, Gaussian)
    for row, experts in enumerate(Plain(options, model, batch, torch.zeros(0)).experts()):
        want = product(list(experts.values()), prior=False)
        torch.testing.assert_close(q.loc[0, row], want.mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(q.scale[0, row], want.stddev, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BESIDE_MVAE)
def test_nothing_given_is_the_prior(name: str) -> None:
    names = {"vae": ("place",), "cvae": ("place", "class")}.get(name, THREE)
    options = {"first_stage_epochs": 1} if name == "telbo" else {}
    made = schemas(names)
    _, model = make(name, made, **options)
    batch = random_batch(made, patterns(len(names))["missing"])
    given = torch.zeros(1, ROWS, len(names), dtype=torch.bool)
    q = model.posterior(model.observed(batch), batch.present, given)
    z = torch.randn(1, ROWS, model.latent_dim)
    torch.testing.assert_close(q.log_prob(z), PRIOR.log_prob(z).sum(-1))


@pytest.mark.parametrize(
    "name", ["vae", "bivcca", "jmvae", "mmvae", "mopoe", "mvtcae", "crmvae", "mmvm", "gpoe", "mmjsd"]
)
def test_without_the_prior_expert_a_lone_modalitys_posterior_is_its_expert(name: str) -> None:
    made = schemas(("place",) if name == "vae" else THREE)
    options, model = make(name, made)
    batch = random_batch(made, torch.ones(ROWS, len(made), dtype=torch.bool))
    given = torch.zeros(1, ROWS, len(made), dtype=torch.bool)
    given[:, :, 0] = True
    q = model.posterior(model.observed(batch), batch.present, given)
    z = torch.randn(1, ROWS, LATENT)
    experts = Plain(options, model, batch, torch.zeros(0)).experts()
    want = torch.stack([one["place"].log_prob(z[0, row]).sum() for row, one in enumerate(experts)])
    torch.testing.assert_close(q.log_prob(z)[0], want, rtol=1e-10, atol=1e-10)
