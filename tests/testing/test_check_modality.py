"""check_modality accepts the tutorial's kind, and tells authors of broken ones what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.documents import shown_file
from torch import nn
from torch.distributions import Independent, Normal

from modalkit import registry
from modalkit.nn import DenseNetwork, Mlp, encoder, mlp
from modalkit.plugin import Modality, Outcome, Schema
from modalkit.testing import check_modality


def test_the_tutorials_kind_is_short_and_right(tmp_path: Path) -> None:
    code = shown_file("tutorials/modality.md", "angle.py")
    assert len(code.splitlines()) <= 40
    (tmp_path / "angle.py").write_text(code)
    angle = registry.import_file(tmp_path / "angle.py").ANGLE
    check_modality(angle, {})
    check_modality(angle, {"network": {"type": "mlp", "hidden": [8], "batch_norm": True, "dropout": 0.1}})
    assert angle.show(angle.schema(kind="angle"), angle.read(angle.schema(kind="angle"), "90°")) == "90°"


NETWORKS = """
from torch import nn
from modalkit.nn import mlp

class Encoder(nn.Sequential):
    def __init__(self, schema, width):
        super().__init__(mlp(*schema.event_shape, [width]))

class Decoder(nn.Sequential):
    def __init__(self, schema, latent_dim, width):
        super().__init__(mlp(latent_dim, [width], *schema.event_shape))
"""


def test_custom_networks(tmp_path: Path) -> None:
    file = tmp_path / "networks.py"
    file.write_text(NETWORKS)
    custom = {"type": "custom", "encoder": f"{file}:Encoder", "decoder": f"{file}:Decoder", "options": {"width": 5}}
    check_modality("vector", {"size": 4, "scale": 1.0, "network": custom})
    with pytest.raises(AssertionError, match=r"encoder: raised TypeError when it was made.*'width'"):
        check_modality("vector", {"size": 4, "scale": 1.0, "network": custom | {"options": {}}})


class PairSchema(Schema):
    """Two real numbers: a kind that is right, from which the wrong ones below are made."""

    network: DenseNetwork = Mlp(hidden=(8,), decoder_hidden=(8,))

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (2,)


def gaussian(schema: Schema, raw: Any, scale: float = 1.0) -> Independent:
    return Independent(Normal(raw, torch.full_like(raw, scale)), 1)


PAIR: Modality[Any] = Modality(
    kind="pair",
    summary="two numbers",
    schema=PairSchema,
    encoder=lambda schema: encoder(schema.network, (2,)),
    decoder=lambda schema, latent_dim: mlp(latent_dim, [8], 2),
    likelihood=gaussian,
    show=lambda schema, value: f"{float(value[0])} {float(value[1])}",
    read=lambda schema, text: torch.tensor([float(word) for word in text.split()]),
    marginal=lambda schema, values: values.mean(0, keepdim=True),
)


def test_the_right_kind_passes() -> None:
    check_modality(PAIR, {})
    check_modality(PAIR, PairSchema(kind="pair"), rows=2, latent_dim=1, seed=7)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_modality(PAIR, {})
    assert torch.equal(before, torch.get_rng_state())


def test_too_few_rows_to_compare() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        check_modality(PAIR, {}, rows=1)


class _Apply(nn.Module):
    """Dense layers and then any function."""

    def __init__(self, inputs: int, outputs: int, function: Any) -> None:
        super().__init__()
        self.layers, self.function = mlp(inputs, [8], outputs), function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.layers(x))


class _Hidden(nn.Module):
    """Forgets to register what it depends on."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers, self.shift = nn.Linear(inputs, outputs), float(torch.randn(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.shift


class _Idle(nn.Module):
    """Has a parameter that it does not use."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers, self.spare = nn.Linear(inputs, outputs), nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class _Single(nn.Module):
    """Casts to single precision."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).float()


class _Constant(nn.Module):
    """Looks at the number of rows only."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(2))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(z), 2)


def _broken(**methods: Any) -> type[Schema]:
    """Return a PairSchema with other methods."""
    return type("BrokenSchema", (PairSchema,), {"__module__": __name__, **methods})


class _NoMode(Independent):
    @property
    def mode(self) -> torch.Tensor:
        raise AttributeError("mode")


class _Normal(Normal):
    """Breaks in one way: what `log_prob`, `sample` or `mean` return."""

    def __init__(self, loc: torch.Tensor, broken: str) -> None:
        self.broken = broken
        super().__init__(loc, torch.ones_like(loc))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        log_px = super().log_prob(value)
        return {"nan": log_px * torch.nan, "elementwise": log_px}.get(self.broken, log_px).clone()

    @property
    def mean(self) -> torch.Tensor:
        return self.loc * torch.inf if self.broken == "mean" else self.loc


class _ElementWise(Independent):
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.base_dist.log_prob(value)


class _Viewless(Independent):
    """Looks at memory in place of values."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        flat = value.as_strided(value.shape, (2, 1)) if value.stride(0) else value * 2
        return super().log_prob(flat)


class _SmallSample(Independent):
    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return super().sample(sample_shape)[:, :1]


def _raises(*arguments: Any) -> Any:
    raise RuntimeError("out of luck")


def _silent(*arguments: Any) -> Any:
    raise ValueError


def _integer_pack(self: Any, value: torch.Tensor) -> torch.Tensor:
    return value.round().long()


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "facts raise": ({"schema": _broken(facts=lambda self: {"x": {1}})}, "schema.facts: raised TypeError"),
    "facts": ({"schema": _broken(facts=lambda self: {"x": (1, 2)})}, "schema.facts: do not come back from JSON"),
    "event_shape list": ({"schema": _broken(event_shape=property(lambda self: [2]))}, r"tuple of positive ints.*\[2\]"),
    "event_shape missing": ({"schema": Schema}, "schema.event_shape: raised TypeError"),
    "dtype": ({"schema": _broken(dtype="float16")}, "schema.dtype: got 'float16'"),
    "pack raises": ({"schema": _broken(pack=_raises)}, "schema.pack: raised RuntimeError.*out of luck"),
    "pack dtype": ({"schema": _broken(pack=_integer_pack)}, r"schema.pack: expected \(torch.float32.*torch.int64"),
    "pack no inverse": (
        {"schema": _broken(pack=lambda self, value: value + 1)},
        "schema.pack: does not undo unpack",
    ),
    "valid shape": (
        {"schema": _broken(valid=lambda self, stored: stored > -torch.inf)},
        r"schema.valid: expected bool of shape \(4,\)",
    ),
    "valid refuses": (
        {"schema": _broken(valid=lambda self, stored: stored[:, 0] > 100)},
        "schema.valid: refuses a sample",
    ),
    "unpack dtype": (
        {"schema": _broken(unpack=lambda self, stored: stored.half(), pack=lambda self, value: value.float())},
        "schema.unpack: expected float or int64",
    ),
    "encoder raises": ({"encoder": _raises}, "encoder: raised RuntimeError when it was made: out of luck"),
    "encoder no module": ({"encoder": lambda schema: len}, "encoder: expected a torch.nn.Module, got builtin"),
    "encoder wrong input": (
        {"encoder": lambda schema: nn.Linear(3, 4)},
        "encoder: raised .* on values of shape",
    ),
    "encoder shape": (
        {"encoder": lambda schema: _Apply(2, 4, lambda y: y.unsqueeze(1))},
        r"encoder: expected floats of shape \(4, features\), got torch.float32 of \(4, 1, 4\)",
    ),
    "encoder tuple": ({"encoder": lambda schema: _Apply(2, 4, lambda y: (y, y))}, "encoder: expected floats"),
    "encoder nan": ({"encoder": lambda schema: _Apply(2, 4, lambda y: y / 0)}, "encoder: features are not finite"),
    "encoder mixes rows": (
        {"encoder": lambda schema: _Apply(2, 4, lambda y: y - y.mean(0))},
        "encoder: a row's result depends on the other rows",
    ),
    "encoder float32": ({"encoder": lambda schema: _Single(2, 4)}, "encoder: returned torch.float32 in a float64"),
    "encoder unregistered": ({"encoder": lambda schema: _Hidden(2, 4)}, "encoder: returns something else after saving"),
    "encoder idle": ({"encoder": lambda schema: _Idle(2, 4)}, "encoder: no gradient reaches 'spare'"),
    "encoder detached": (
        {"encoder": lambda schema: _Apply(2, 4, lambda y: y.detach())},
        "encoder: no gradient reaches 'layers.0.weight'",
    ),
    "encoder lone row": (
        {"encoder": lambda schema: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))},
        "encoder: raised ValueError in training, on a batch of one row",
    ),
    "decoder raises": (
        {"decoder": lambda schema, latent_dim: nn.Linear(9, 2)},
        "decoder: raised .* on z of shape",
    ),
    "decoder ignores z": ({"decoder": lambda schema, latent_dim: _Constant()}, "decoder: no gradient reaches 'z'"),
    "decoder mixes rows": (
        {"decoder": lambda schema, latent_dim: _Apply(latent_dim, 2, lambda y: y - y.mean(0))},
        "likelihood.log_prob: a row's result depends on the other rows",
    ),
    "decoder unregistered": (
        {"decoder": lambda schema, latent_dim: _Hidden(latent_dim, 2)},
        "decoder: returns something else after saving",
    ),
    "decoder lone row": (
        {"decoder": lambda schema, latent_dim: nn.Sequential(nn.Linear(latent_dim, 2), nn.BatchNorm1d(2))},
        "decoder: raised ValueError in training, on a batch of one row",
    ),
    "likelihood raises": ({"likelihood": _raises}, "likelihood: raised RuntimeError: out of luck"),
    "likelihood no distribution": ({"likelihood": lambda schema, raw: raw}, "expected a Distribution, got a Tensor"),
    "likelihood batch": (
        {"likelihood": lambda schema, raw: Normal(raw, torch.ones_like(raw))},
        r"likelihood: expected batch_shape \(4,\) for 4 rows, got \(4, 2\)",
    ),
    "likelihood event": (
        {"likelihood": lambda schema, raw: gaussian(schema, raw[:, :1])},
        r"likelihood: expected event_shape \(2,\) for 4 rows, got \(1,\)",
    ),
    "sample shape": (
        {"likelihood": lambda schema, raw: _SmallSample(Normal(raw, 1.0), 1)},
        r"likelihood.sample: expected \(4, 2\), got \(4, 1\)",
    ),
    "log_prob shape": (
        {"likelihood": lambda schema, raw: _ElementWise(Normal(raw, 1.0), 1)},
        r"likelihood.log_prob: expected one number a row, \(4,\), got \(4, 2\)",
    ),
    "log_prob nan": (
        {"likelihood": lambda schema, raw: Independent(_Normal(raw, "nan"), 1)},
        "likelihood.log_prob: of its own samples is not finite",
    ),
    "log_prob of views": (
        {"likelihood": lambda schema, raw: _Viewless(Normal(raw, 1.0), 1)},
        "likelihood.log_prob: differs between an expanded view",
    ),
    "warp raises": (
        {"schema": _broken(warps=property(lambda self: True), warp=_raises)},
        "schema.warp: raised RuntimeError",
    ),
    "warp shape": (
        {"schema": _broken(warps=property(lambda self: True), warp=lambda schema, stored, maps: stored[:, :1])},
        r"schema.warp: expected .*\[4, 2\].*, got .*\[4, 1\]",
    ),
    "warp moves": (
        {"schema": _broken(warps=property(lambda self: True), warp=lambda schema, stored, maps: stored + 1)},
        "schema.warp: the identity map changes samples",
    ),
    "warp invalid": (
        {
            "schema": _broken(
                warps=property(lambda self: True), warp=lambda schema, stored, maps: stored / (maps[0, 0, 2] == 0)
            )
        },
        "schema.warp: returns a sample that schema.valid refuses",
    ),
    "mean": (
        {"likelihood": lambda schema, raw: Independent(_Normal(raw, "mean"), 1)},
        "likelihood.mean: expected finite",
    ),
    "no mode": (
        {
            "schema": _broken(dtype="int64", pack=_integer_pack),
            "likelihood": lambda schema, raw: _NoMode(Normal(raw, 1.0), 1),
        },
        "likelihood.mode: raised AttributeError .*needs it to show a translation",
    ),
    "outcome": ({"outcome": "real"}, "outcome: expected a modalkit.plugin.Outcome, got 'real'"),
    "outcome of integers": (
        {"outcome": Outcome.COUNT},
        "outcome: 'count' means integer values, and schema.unpack returns torch.float32",
    ),
    "levels raise": ({"schema": _broken(levels=property(_raises))}, "schema.levels: raised RuntimeError"),
    "levels of bits": ({"outcome": Outcome.BINARY}, "schema.levels: must be 2 for the outcome 'binary', got 0"),
    "levels of samples": (
        {"schema": _broken(levels=property(lambda self: 2))},
        "schema.levels: are 2, and stored samples have others",
    ),
    "part_names": (
        {"schema": _broken(part_names=property(lambda self: ["a", "b"]))},
        r"schema.part_names: expected a tuple of texts, got \['a', 'b'\]",
    ),
    "part_names twice": (
        {"schema": _broken(part_names=property(lambda self: ("a", "a")))},
        r"schema.part_names: expected 2 different names or none, got \('a', 'a'\)",
    ),
    "show": ({"show": lambda schema, value: value}, "show: expected a text, or uint8"),
    "show float picture": ({"show": lambda schema, value: np.zeros((2, 2))}, "show: expected .* got float64 of"),
    "show raises": ({"show": _raises}, "show: raised RuntimeError: out of luck"),
    "read raises": ({"read": lambda schema, text: {}[text]}, "read: raised KeyError .*expected an InputError"),
    "read without a word": ({"read": _silent}, "without a message"),
    "read shape": ({"read": lambda schema, text: torch.zeros(3)}, r"read: expected .*\(2,\)\).*got .*\(3,\)"),
    "read invalid": ({"read": lambda schema, text: torch.full((2,), torch.nan)}, "read: returned a value .* refuses"),
    "marginal raises": ({"marginal": _raises}, "marginal: raised RuntimeError"),
    "marginal shape": (
        {"marginal": lambda schema, values: values},
        r"marginal: expected .*\(\(1,\), \(2,\)\), got \(\(4,\), \(2,\)\)",
    ),
    "marginal nan": (
        {"marginal": lambda schema, values: values[:1] * torch.inf},
        "marginal: log_prob of 4 rows must be",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said(case: str) -> None:
    changes, expected = BROKEN[case]
    with pytest.raises(AssertionError, match=f"^kind 'pair': (?s:.*){expected}"):
        check_modality(replace(PAIR, **changes), {})


def test_a_schema_of_another_kind() -> None:
    with pytest.raises(AssertionError, match="schema: expected a PairSchema, got a LabelSchema"):
        check_modality(PAIR, registry.schema("label", classes=2))
    with pytest.raises(AssertionError, match="schema: its kind is 'other'"):
        check_modality(PAIR, {"kind": "other"})


def test_fields_that_the_schema_refuses() -> None:
    with pytest.raises(AssertionError, match=r"kind 'pair': schema: refuses .*'colour'"):
        check_modality(PAIR, {"colour": "red"})
