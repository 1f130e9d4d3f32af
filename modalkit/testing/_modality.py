"""Checks that a modality kind keeps its contract."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.distributions import Distribution

from modalkit import registry
from modalkit.errors import InputError
from modalkit.model.moments import point
from modalkit.plugin import CustomNetwork, Modality, Outcome, Schema
from modalkit.testing._examination import Examination

_FLOATING = (Outcome.REAL, Outcome.PICTURE, Outcome.BINARY)

__all__ = ["check_modality"]


def check_modality(
    kind: str | Modality[Any], schema: Schema | Mapping[str, Any], *, rows: int = 4, latent_dim: int = 3, seed: int = 0
) -> None:
    """Check that a modality plugin keeps the contract of `modalkit.plugin.Modality`.

    It needs no data: it samples values from the likelihood at random z.

    Args:
        kind: the plugin, or the name of an installed one.
        schema: a schema, or the fields of one as a recipe would give them.
        rows: number of rows in the batches that it uses, at least 2.
        latent_dim: size of z.
        seed: of all random numbers. The global random state is left as it was.

    Raises:
        AssertionError: names the plugin, the first part that is wrong, what was expected and what was found.

    >>> check_modality("vector", {"size": 5})
    """
    if rows < 2:
        raise ValueError(f"rows must be at least 2, not {rows}")
    modality = registry.modality(kind) if isinstance(kind, str) else kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _Check(modality, _made(modality, schema), rows, latent_dim).run()


def _made(modality: Modality[Any], schema: Schema | Mapping[str, Any]) -> Schema:
    if isinstance(schema, Mapping):
        try:
            made: Schema = modality.schema(**{"kind": modality.kind, **schema})
        except ValidationError as error:
            raise AssertionError(f"kind '{modality.kind}': schema: refuses {dict(schema)}: {error}") from error
        return made
    if not issubclass(type(schema), modality.schema):
        expected = modality.schema.__name__
        raise AssertionError(f"kind '{modality.kind}': schema: expected a {expected}, got a {type(schema).__name__}")
    return schema


class _Check(Examination):
    """One plugin and one schema under examination."""

    def __init__(self, modality: Modality[Any], schema: Schema, rows: int, latent_dim: int) -> None:
        super().__init__(f"kind '{modality.kind}'")
        self.modality, self.schema, self.rows, self.latent_dim = modality, schema, rows, latent_dim
        self.event_shape: tuple[int, ...] = ()
        self.z = torch.randn(rows, latent_dim)

    def run(self) -> None:
        """Check everything, the simplest parts first."""
        self.check_schema()
        encoder, decoder = self.networks()
        with torch.no_grad():
            likelihood = self.likelihood(decoder, self.z)
            values = self.check_storage(likelihood)
            self.check_prediction(likelihood, values)
            self.check_outcome(values)
            self.check_encoder(encoder, values)
            self.check_log_prob(likelihood, values)
            self.check_double(encoder, decoder, values)
            self.check_saving(encoder, decoder, values)
            self.check_marginal(values)
            self.check_files(values)
        self.check_training(values)

    def check_schema(self) -> None:
        """Check what datasets and run folders write about the schema."""
        schema = self.schema
        self.expect("schema", schema.kind == self.modality.kind, f"its kind is '{schema.kind}'")
        with self.using("schema.event_shape"):
            shape = schema.event_shape
        whole = isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)
        self.expect("schema.event_shape", whole, f"expected a tuple of positive ints, got {shape!r}")
        self.event_shape = shape
        self.expect("schema.dtype", schema.dtype in ("uint8", "int64", "float32"), f"got {schema.dtype!r}")
        with self.using("schema.facts", "(they must be plain JSON values)"):
            facts = schema.facts()
            same = json.loads(json.dumps(facts)) == facts
        self.expect("schema.facts", same, f"do not come back from JSON unchanged: {facts}")
        with self.using("schema", "when read back from a run folder's recipe"):
            again = type(schema).model_validate_json(schema.model_dump_json(), strict=True)
        self.expect("schema", again == schema, f"is different after it was written as JSON and read back: {again!r}")

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Return a new encoder and decoder in evaluation mode."""
        network, made = getattr(self.schema, "network", None), []
        for part, sizes in (("encoder", ()), ("decoder", (self.latent_dim,))):
            with self.using(part, "when it was made"):
                if isinstance(network, CustomNetwork):
                    module = registry.import_object(getattr(network, part))(self.schema, *sizes, **network.options)
                else:
                    module = getattr(self.modality, part)(self.schema, *sizes)
            self.expect(part, isinstance(module, nn.Module), f"expected a torch.nn.Module, got {type(module).__name__}")
            made.append(module.eval())
        return made[0], made[1]

    def likelihood(self, decoder: nn.Module, z: Tensor) -> Distribution:
        """Return p(x|z) after checking its shapes."""
        with self.using("decoder", f"on z of shape {tuple(z.shape)}"):
            raw = decoder(z)
        with self.using("likelihood"):
            likelihood = self.modality.likelihood(self.schema, raw)
        kept = isinstance(likelihood, Distribution)
        self.expect("likelihood", kept, f"expected a Distribution, got a {type(likelihood).__name__}")
        for name, expected in (("batch_shape", (len(z),)), ("event_shape", self.event_shape)):
            got = tuple(getattr(likelihood, name))
            self.expect("likelihood", got == expected, f"expected {name} {expected} for {len(z)} rows, got {got}")
        return likelihood

    def check_storage(self, likelihood: Distribution) -> Tensor:
        """Sample values, store them, and return the values that a dataset would return."""
        with self.using("likelihood.sample"):
            sampled = likelihood.sample()
        shape, schema = (self.rows, *self.event_shape), self.schema
        self.expect("likelihood.sample", sampled.shape == shape, f"expected {shape}, got {tuple(sampled.shape)}")
        with self.using("schema.pack", "on samples of the likelihood"):
            stored = schema.pack(schema.storable(sampled))
        wanted, got = (getattr(torch, schema.dtype), shape), (stored.dtype, tuple(stored.shape))
        self.expect("schema.pack", got == wanted, f"expected {wanted}, got {got}")
        with self.using("schema.valid"):
            valid = schema.valid(stored)
        right = isinstance(valid, Tensor) and valid.dtype == torch.bool and valid.shape == (self.rows,)
        self.expect("schema.valid", right, f"expected bool of shape ({self.rows},), got {valid!r}")
        self.expect("schema.valid", bool(valid.all()), f"refuses a sample of the likelihood: {stored[~valid][:1]}")
        with self.using("schema.unpack"):
            values = schema.unpack(stored)
            again = schema.pack(values)
        known = values.dtype in (torch.get_default_dtype(), torch.int64) and values.shape == shape
        self.expect(
            "schema.unpack", known, f"expected float or int64 of {shape}, got {values.dtype} of {tuple(values.shape)}"
        )
        # Floats may be rounded on the way, as where they are scaled.
        same = torch.allclose(again, stored, 1e-5, 1e-6) if stored.is_floating_point() else torch.equal(again, stored)
        self.expect("schema.pack", same, "does not undo unpack: the value changed")
        if schema.warps:
            self.check_warp(stored)
        return values

    def check_warp(self, stored: Tensor) -> None:
        """Check how samples are moved in their plane, as `data.augment` does."""
        still = torch.eye(2, 3).expand(self.rows, 2, 3)
        with self.using("schema.warp"):
            same, moved = self.schema.warp(stored, still), self.schema.warp(stored, still * 1.1 + 0.1)
        wanted, got = (stored.dtype, stored.shape), (moved.dtype, moved.shape)
        self.expect("schema.warp", got == wanted, f"expected {wanted}, got {got}")
        unmoved = torch.allclose(same, stored, 1e-5, 1e-6) if stored.is_floating_point() else torch.equal(same, stored)
        self.expect("schema.warp", unmoved, "the identity map changes samples")
        valid = self.schema.valid(moved)
        self.expect(
            "schema.warp", bool(valid.all()), f"returns a sample that schema.valid refuses: {moved[~valid][:1]}"
        )

    def check_prediction(self, likelihood: Distribution, values: Tensor) -> None:
        """Check predictions, how they are shown, and how a shown value is read."""
        name = "mean" if values.is_floating_point() or self.modality.outcome is Outcome.COUNT else "mode"
        with self.using(f"likelihood.{name}", f"(a kind of {values.dtype} values needs it to show a translation)"):
            predicted = point(self.modality.outcome, likelihood, values.is_floating_point())
        good = predicted.shape == values.shape and bool(predicted.isfinite().all())
        part = f"likelihood.{name}"
        self.expect(part, good, f"expected finite {tuple(values.shape)}, got {tuple(predicted.shape)}: {predicted}")
        for value in (predicted[0], values[0]):
            with self.using("show"):
                shown = self.modality.show(self.schema, value)
            picture = isinstance(shown, np.ndarray) and shown.dtype == np.uint8
            picture = picture and (shown.ndim == 2 or (shown.ndim == 3 and shown.shape[2] == 3))  # type: ignore[union-attr]
            got = f"{shown.dtype} of {shown.shape}" if isinstance(shown, np.ndarray) else repr(shown)
            self.expect(
                "show",
                isinstance(shown, str) or picture,
                f"expected a text, or uint8 of (height, width) or (height, width, 3); got {got}",
            )
        with tempfile.TemporaryDirectory() as folder:
            source = shown if isinstance(shown, str) else str(Path(folder) / "shown.png")
            if isinstance(shown, np.ndarray):
                Image.fromarray(shown).save(source)
            self.check_read(source, values)
            self.check_read(str(Path(folder) / "nothing of the kind"), values)

    def check_read(self, source: str, values: Tensor) -> None:
        """Check that a text or file becomes a value, or is refused with a sentence."""
        try:
            value = self.modality.read(self.schema, source)
        except (InputError, ValueError) as error:
            self.expect("read", bool(str(error)), f"refuses '{source}' without a message")
            return
        except Exception as error:
            problem = f"raised {type(error).__name__} for '{source}': {error}; expected an InputError with a sentence"
            raise AssertionError(f"{self.who}: read: {problem}") from error
        got = (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
        expected = (values.dtype, self.event_shape)
        self.expect("read", got == expected, f"expected {expected} from '{source}', got {got}")
        with self.using("read", f"when the value of '{source}' was stored"):
            valid = bool(self.schema.valid(self.schema.pack(value[None])).all())
        self.expect("read", valid, f"returned a value for '{source}' that schema.valid refuses: {value}")

    def check_outcome(self, values: Tensor) -> None:
        """Check that values, levels and names of parts agree with the declared outcome."""
        outcome, schema, floating = self.modality.outcome, self.schema, values.is_floating_point()
        known = isinstance(outcome, Outcome)
        self.expect("outcome", known, f"expected a modalkit.plugin.Outcome, got {outcome!r}")
        self.expect(
            "outcome",
            floating is (outcome in _FLOATING),
            f"'{outcome}' means {'floating-point' if outcome in _FLOATING else 'integer'} values, and schema.unpack "
            f"returns {values.dtype}",
        )
        with self.using("schema.levels"):
            levels = schema.levels
        self.expect("schema.levels", type(levels) is int and levels >= 0, f"expected an int from 0, got {levels!r}")
        if outcome is Outcome.BINARY or outcome.is_one_of_several:
            expected = "2" if outcome is Outcome.BINARY else "at least 2"
            good = levels == 2 if outcome is Outcome.BINARY else levels >= 2
            self.expect("schema.levels", good, f"must be {expected} for the outcome '{outcome}', got {levels}")
        if levels:
            stored = schema.pack(values)
            inside = bool(((stored >= 0) & (stored < levels)).all())
            self.expect("schema.levels", inside, f"are {levels}, and stored samples have others: {stored[:1]}")
        with self.using("schema.part_names"):
            names = schema.part_names
        texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        self.expect("schema.part_names", texts, f"expected a tuple of texts, got {names!r}")
        size = math.prod(self.event_shape)
        fits = not names or len(names) == len(set(names)) == size
        self.expect("schema.part_names", fits, f"expected {size} different names or none, got {names}")

    def check_encoder(self, encoder: nn.Module, values: Tensor) -> None:
        """Check the features that the Gaussian head gets."""
        with self.using("encoder", f"on values of shape {tuple(values.shape)}"):
            features = encoder(values)
        good = isinstance(features, Tensor) and features.is_floating_point() and features.ndim == 2
        good = good and len(features) == self.rows
        got = f"{features.dtype} of {tuple(features.shape)}" if isinstance(features, Tensor) else repr(features)
        self.expect("encoder", good, f"expected floats of shape ({self.rows}, features), got {got}")
        self.expect("encoder", bool(features.isfinite().all()), "features are not finite")

    def check_log_prob(self, likelihood: Distribution, values: Tensor) -> None:
        """Check that log_prob returns one finite number for each row, also for values that are views."""
        first = values[:1].expand(values.shape)
        with self.using("likelihood.log_prob"):
            log_px, of_view, of_copy = (likelihood.log_prob(v) for v in (values, first, first.contiguous()))
        part, got = "likelihood.log_prob", tuple(log_px.shape)
        self.expect(part, got == (self.rows,), f"expected one number a row, ({self.rows},), got {got}")
        self.expect(part, bool(log_px.isfinite().all()), f"of its own samples is not finite: {log_px.tolist()}")
        self.expect(part, torch.allclose(of_view, of_copy), "differs between an expanded view and its copy")

    def check_double(self, encoder: nn.Module, decoder: nn.Module, values: Tensor) -> None:
        """Check in float64 that a row's result does not depend on the other rows."""
        encoder, decoder = copy.deepcopy(encoder).double(), copy.deepcopy(decoder).double()
        values = values.double() if values.is_floating_point() else values
        outputs: dict[str, list[Tensor]] = {"encoder": [], "likelihood.log_prob": []}
        for some in (slice(None), slice(1)):
            with self.using("encoder", "in float64"):
                outputs["encoder"].append(encoder(values[some])[:1])
            likelihood = self.likelihood(decoder, self.z[some].double())
            with self.using("likelihood.log_prob", "in float64"):
                outputs["likelihood.log_prob"].append(likelihood.log_prob(values[some])[:1])
        for part, (among, alone) in outputs.items():
            self.expect(part, among.dtype == torch.float64, f"returned {among.dtype} in a float64 model")
            same = torch.allclose(among, alone, rtol=1e-8, atol=1e-10)
            self.expect(part, same, "a row's result depends on the other rows, in evaluation mode")

    def check_saving(self, encoder: nn.Module, decoder: nn.Module, values: Tensor) -> None:
        """Check that new networks with the saved state return the same."""
        torch.manual_seed(torch.initial_seed() + 1)  # else new networks would have the same weights
        for part, old, new in zip(("encoder", "decoder"), (encoder, decoder), self.networks(), strict=True):
            with tempfile.TemporaryDirectory() as folder, self.using(part, "when saved and loaded with safetensors"):
                save_model(old, str(Path(folder) / "weights.safetensors"))
                load_model(new, str(Path(folder) / "weights.safetensors"))
            before, after = (
                m(values) if part == "encoder" else self.likelihood(m, self.z).log_prob(values) for m in (old, new)
            )
            problem = "returns something else after saving and loading; keep its state in parameters or buffers"
            self.expect(part, torch.allclose(before, after, rtol=1e-4, atol=1e-5), problem)

    def check_marginal(self, values: Tensor) -> None:
        """Check the baseline, if there is one."""
        if self.modality.marginal is None:
            return
        with self.using("marginal"):
            raw = self.modality.marginal(self.schema, values)
            baseline = self.modality.likelihood(self.schema, raw)
            shapes, log_px = (tuple(baseline.batch_shape), tuple(baseline.event_shape)), baseline.log_prob(values)
        expected = ((1,), self.event_shape)
        self.expect("marginal", shapes == expected, f"expected batch_shape and event_shape {expected}, got {shapes}")
        good = log_px.shape == (self.rows,) and bool(log_px.isfinite().all())
        self.expect("marginal", good, f"log_prob of {self.rows} rows must be as many finite numbers, got {log_px}")

    def check_files(self, values: Tensor) -> None:
        """Check the files for other programs, if there are any."""
        if self.modality.files is not None:
            with self.using("files"):
                made = dict(self.modality.files(self.schema, values[0]))
            good = all(suffix.startswith(".") and isinstance(content, bytes) for suffix, content in made.items())
            self.expect("files", good, f"expected bytes by suffix, such as '.csv', got {list(made)}")

    def check_training(self, values: Tensor) -> None:
        """Check that gradients reach every parameter, and batches of one row, which missing modalities make common."""
        encoder, decoder = (module.train() for module in self.networks())
        z = self.z.clone().requires_grad_()
        with self.using("likelihood", "in training"):
            loss = self.likelihood(decoder, z).log_prob(values).sum()
        with self.using("encoder", "in training"):
            features = encoder(values)
        with self.using("encoder or likelihood", "when differentiated"):
            (loss + (features * torch.randn_like(features)).sum()).backward()
        parameters = [("decoder", "z", z)]
        parameters += [("encoder", n, p) for n, p in encoder.named_parameters()]
        parameters += [("decoder", n, p) for n, p in decoder.named_parameters()]
        for part, name, parameter in parameters:
            if parameter.requires_grad:
                self.expect(part, parameter.grad is not None, f"no gradient reaches '{name}'")
                finite = bool(parameter.grad is not None and parameter.grad.isfinite().all())
                self.expect(part, finite, f"the gradient of '{name}' is not finite")
        with self.using("encoder", "in training, on a batch of one row (modalkit.nn.BatchNorm1d can do that)"):
            encoder(values[:1])
        with self.using("decoder", "in training, on a batch of one row (modalkit.nn.BatchNorm1d can do that)"):
            decoder(self.z[:1])
