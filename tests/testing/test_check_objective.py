"""check_objective accepts the built-in objectives and the tutorial's, and tells authors what is wrong with others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from support.documents import shown_file
from support.objectives import as_needed
from torch import Tensor, nn

from modalkit import registry, schema
from modalkit.distributions import Gaussian
from modalkit.model import MultimodalVAE
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema
from modalkit.testing import check_objective

SMALL = {"type": "mlp", "hidden": [8], "decoder_hidden": [8]}


def vectors(*names: str) -> dict[str, Schema]:
    return {name: schema("vector", size=2, network=SMALL) for name in names}


LABELLED = vectors("x") | {"y": schema("label", classes=3, network=SMALL)}
BUILT_IN: list[tuple[str, dict[str, Any], dict[str, Schema] | None]] = [
    ("vae", {}, vectors("x")),
    ("mvae", {}, None),
    ("mvae", {"singles": 2, "k": 2}, LABELLED | vectors("z")),
    ("mvae", {"subsets": "all", "targets": "present"}, None),
    ("mvae", {}, vectors(*"abcdefgh")),
    ("mixture-mvae", {"components": 2}, vectors("x", "y")),
    ("bivcca", {"mu": 0.3}, None),
    ("jmvae", {"hidden": 8}, LABELLED),
    ("telbo", {"first_stage_epochs": 3}, None),
    ("cvae", {}, LABELLED),
    ("cvae", {"target": "y"}, vectors("x", "y")),
    ("mmvae", {}, None),
    ("mmvae", {"samples": 3, "bound": "iwae"}, None),
    ("mmvae", {"samples": 2, "bound": "dreg"}, vectors("x", "y")),
    ("mopoe", {}, None),
    ("mvtcae", {}, None),
    ("crmvae", {}, None),
    ("gpoe", {"k": 2}, LABELLED | vectors("z")),
    ("mmjsd", {}, None),
    ("mmvm", {"alpha_epochs": 2}, None),
    ("mmvm", {"posterior": "product"}, LABELLED | vectors("z")),
    ("dmvae", {}, None),
    ("dmvae", {}, as_needed("dmvae", LABELLED)),
    ("mmvae-plus", {}, None),
    ("mmvae-plus", {"samples": 2, "bound": "dreg"}, as_needed("mmvae-plus", LABELLED)),
]


@pytest.mark.parametrize(("name", "options", "schemas"), BUILT_IN, ids=[f"{o[0]}-{i}" for i, o in enumerate(BUILT_IN)])
def test_every_objective_keeps_the_contract(
    name: str, options: dict[str, Any], schemas: dict[str, Schema] | None
) -> None:
    check_objective(name, options, schemas=schemas)


def test_every_builtin_is_covered() -> None:
    found = {p.name for p in registry.provided(registry.OBJECTIVES) if p.provider.startswith("modalkit-vae")}
    assert found == {name for name, _, _ in BUILT_IN}


def test_the_tutorials_objective_is_right(tmp_path: Path) -> None:
    (tmp_path / "leave_one_out.py").write_text(shown_file("tutorials/objective.md", "leave_one_out.py"))
    check_objective(registry.import_file(tmp_path / "leave_one_out.py").LEAVE_ONE_OUT, {"share": 0.3})


class AllOptions(ObjectiveOptions):
    """Options of a right objective, from which the wrong ones below are made."""

    share: float = Field(0.5, ge=0, le=1)


def plan_all(options: AllOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    return Plan(("all",), present[None], present[None])


ALL = Objective(name="everything", summary="one term", options=AllOptions, plan=plan_all)


def test_the_right_objective_passes() -> None:
    check_objective(ALL)
    check_objective(ALL, {"share": 1, "beta": 0.1}, schemas=LABELLED, latent_dim=1, seed=7)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_objective(ALL)
    assert torch.equal(before, torch.get_rng_state())


def made(**parts: Any) -> Any:
    """Return a plan of all that is present, with other parts."""

    def plan(options: Any, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
        changes = {key: part(present, draws) if callable(part) else part for key, part in parts.items()}
        return replace(plan_all(options, names, present, draws), **changes)

    return plan


def _raises(*arguments: Any) -> Any:
    raise RuntimeError("out of luck")


def _silent(options: Any, names: tuple[str, ...]) -> None:
    if len(names) == 5:
        raise ValueError


def _in_place(options: Any, names: Any, present: Tensor, draws: Draws) -> Plan:
    kept = present.clone()
    present[:] = True
    return Plan(("all",), kept[None], kept[None])


seen: list[int] = []
CALLS = itertools.count()


def _remembers(present: Tensor, draws: Draws) -> Tensor:
    """Return weights that depend on how many training plans were made before."""
    seen.extend([0] if draws.epoch is not None else [])
    return torch.full((1, len(present)), float(bool(seen) and draws.epoch is None))


class Wrong(MultimodalVAE):
    """Breaks in one way."""

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, broken: str) -> None:
        super().__init__(schemas, latent_dim)
        self.broken = broken
        if broken == "idle":
            self.spare = nn.Linear(1, 1)

    def posterior(self, observed: Mapping[str, Tensor], present: Tensor, given: Tensor) -> Any:
        found = super().posterior(observed, present, given)
        assert isinstance(found, Gaussian)
        if self.broken == "all":
            found = super().posterior(observed, present, present.expand_as(given))
        changes: dict[str, Any] = {
            "tensor": found.loc,
            "shape": Gaussian(found.loc[0], found.precision[0]),
            "precision": Gaussian(found.loc, -found.precision),
            "raises": None,
        }
        if self.broken == "raises":
            raise RuntimeError("out of luck")
        return changes.get(self.broken, found)

    def allows(self, given: Tensor) -> Tensor:
        if self.broken == "allows shape":
            return given
        return given.sum(-1) <= 1 if self.broken == "allows few" else super().allows(given)


def wrong(broken: str) -> dict[str, Any]:
    return {"model": lambda options, schemas, latent_dim: Wrong(schemas, latent_dim, broken)}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "options": ({"options": Schema}, "options: expected a subclass of modalkit.plugin.ObjectiveOptions"),
    "check refuses": ({"check": _raises}, "check: raised RuntimeError for 3 modalities"),
    "check without a message": ({"check": _silent}, "check: refuses 5 modalities without a message"),
    "check of others": (
        {"check": lambda options, names: {3: 0}[len(names)]},
        "check: raised KeyError for 1 modalities: 1; expected a ValueError",
    ),
    "plan raises": ({"plan": _raises}, "plan: raised RuntimeError for validation.*out of luck"),
    "no plan": ({"plan": lambda *arguments: 3}, "plan: expected a modalkit.plugin.Plan, got a int"),
    "no terms": ({"plan": made(terms=())}, "plan: raised ValueError.*there are no terms"),
    "given shape": ({"plan": made(given=lambda present, draws: present)}, r"plan: .*given has shape \(8, 3\)"),
    "given dtype": ({"plan": made(given=lambda present, draws: present[None].float())}, "given is torch.float32, not"),
    "given absent": (
        {"plan": made(given=lambda present, draws: torch.ones_like(present[None]))},
        "plan: given for validation has modalities that are absent",
    ),
    "targets absent": (
        {"plan": made(targets=lambda present, draws: torch.ones_like(present[None]))},
        "plan: targets for validation has modalities that are absent",
    ),
    "weight": (
        {"plan": made(weight=lambda present, draws: torch.full((1, len(present)), -1.0))},
        "plan: weight should be finite floating-point numbers from 0",
    ),
    "references": (
        {"plan": made(references=lambda present, draws: torch.full((1, *present.shape), torch.nan))},
        "plan: references should be finite",
    ),
    "changes present": ({"plan": _in_place}, "plan: changes the tensor `present`"),
    "global random state": (
        {"plan": made(weight=lambda present, draws: torch.rand(1, len(present)))},
        "plan: uses torch's global random state",
    ),
    "own random state": (
        {"plan": made(weight=lambda present, draws: torch.full((1, len(present)), float(next(CALLS))))},
        "plan: differs for the same generator",
    ),
    "validation": ({"plan": made(weight=_remembers)}, "plan: for validation is not the same after other epochs"),
    "model raises": ({"model": _raises}, "model: raised RuntimeError: out of luck"),
    "no model": ({"model": lambda *arguments: nn.Linear(1, 1)}, "model: expected a modalkit.model.MultimodalVAE"),
    "model of others": (
        {"model": lambda options, schemas, latent_dim: MultimodalVAE({"x": schemas["x"]}, latent_dim)},
        r"model: has the modalities \('x',\), not \('x', 'y', 'z'\)",
    ),
    "frozen raises": ({"frozen": _raises}, "frozen: raised RuntimeError in epoch 0"),
    "frozen": ({"frozen": lambda options, epoch: ("alone.",)}, "frozen: 'alone.' begins no parameter's name"),
    "frozen everything": ({"frozen": lambda options, epoch: ("",)}, "frozen: leaves no parameter to train in epoch 0"),
    "allows shape": (wrong("allows shape"), r"model.allows: expected bool of shape \(1, 8\)"),
    "allows few": (wrong("allows few"), r"model.allows: refuses \['x', 'y', 'z'\], which the term 'all' is given"),
    "posterior raises": (wrong("raises"), "model.posterior: raised RuntimeError given"),
    "posterior tensor": (
        wrong("tensor"),
        "model.posterior: expected a Gaussian, a CorrelatedGaussian or a Mixture, got a Tensor",
    ),
    "posterior shape": (wrong("shape"), r"model.posterior: expected loc of shape \(1, 4, 3\) given .*got \(4, 3\)"),
    "posterior precision": (wrong("precision"), "model.posterior: .*precision above 0"),
    "posterior of others": (wrong("all"), "model.posterior: given .* depends on modalities that are not given"),
    "gradients": (wrong("idle"), "model: no finite gradient reaches 'spare.weight' in epoch 0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said(case: str) -> None:
    changes, expected = BROKEN[case]
    seen.clear()
    with pytest.raises(AssertionError, match=f"^objective 'everything': (?s:.*){expected}"):
        check_objective(replace(ALL, **changes))


def test_options_that_the_objective_refuses() -> None:
    with pytest.raises(AssertionError, match=r"objective 'everything': options: refuses .*'shares'"):
        check_objective(ALL, {"shares": 1})


def test_modalities_that_the_objective_refuses() -> None:
    with pytest.raises(AssertionError, match=r"objective 'vae': check: raised ValueError for 3 modalities \(x, y, z\)"):
        check_objective("vae")
