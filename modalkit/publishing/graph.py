"""One translation as an ONNX graph: encoders, product of experts and decoder, checked against the library."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modalkit import registry
from modalkit.distributions import Gaussian, product_of_experts
from modalkit.errors import InputError, RunError, install
from modalkit.inference import TrainedModel
from modalkit.model import MultimodalVAE, gaussian
from modalkit.model.moments import point
from modalkit.model.prediction import as_stored, in_units
from modalkit.nn import CategoryEncoder
from modalkit.plugin import Modality, Outcome
from modalkit.util.randomness import generator

_TOLERANCE = 1e-4
_EXAMPLES = 3
_CHECKED = (1, 2, 7)
_PARTS = ("encode", "experts", "posterior", "decoder_inputs", "likelihood")


class Translator(nn.Module):
    """Predicts a modality at the mean of q(z|x_given): its class probabilities, its mean, or else its mode.

    Args:
        model: in eval mode; its posteriors are products of experts.
        given: the input modalities in their order, as networks see them: `(rows, *event_shape)` each.
        want: the output modality.
    """

    def __init__(self, model: MultimodalVAE, given: Sequence[str], want: str) -> None:
        super().__init__()
        self.covariance: Tensor
        # A ModuleList, because parts of a graph are named in Python, where a modality called `class` is an error.
        experts = (nn.Sequential(model.encoders[name], model.heads[name]) for name in given)
        self.experts = copy.deepcopy(nn.ModuleList(experts))
        self.decoder = copy.deepcopy(model.decoders[want])
        for module in self.experts.modules():
            if isinstance(module, CategoryEncoder):
                module.apart = True  # otherwise it depends on the number of rows, which a graph leaves open
        self.schema, self.prior_expert = model.schemas[want], model.prior_expert
        self.correlated = bool(model.measurements)
        if self.correlated:
            self._measure(model, given)
        self.kind: Modality[Any] = registry.modality(self.schema.kind)
        zero = self.schema.unpack(self.schema.zeros(1))
        self.floating = zero.is_floating_point()

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the wanted modality, and loc and scale of z, `(rows, latent_dim)`."""
        said = [expert(value) for expert, value in zip(self.experts, values, strict=True)]
        loc, scale = self._correlated(said) if self.correlated else self._diagonal(said)
        likelihood: Any = self.kind.likelihood(self.schema, self.decoder(loc))
        if self.kind.outcome.is_one_of_several:
            return likelihood.probs, loc, scale
        value = point(self.kind.outcome, likelihood, self.floating)
        return (self.schema.storable(value) if self.kind.outcome is Outcome.PICTURE else value), loc, scale

    def _diagonal(self, said: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        experts = [gaussian(one) for one in said]
        stacked = Gaussian(torch.stack([e.loc for e in experts], 1), torch.stack([e.precision for e in experts], 1))
        every = torch.ones_like(stacked.loc[..., 0])[None]  # (1, rows, given)
        posterior = product_of_experts(stacked, every, prior_expert=self.prior_expert)
        return posterior.loc[0], posterior.scale[0]

    def _measure(self, model: MultimodalVAE, given: Sequence[str]) -> None:
        """Keep the directions of each expert, and the covariance of the posterior, which is the same for all rows."""
        measurements: list[Any] = [model.measurements[name] for name in given]
        precision = torch.stack([one.precision() for one in measurements]).sum(0)
        if self.prior_expert:
            precision = precision + torch.eye(len(precision)).to(precision)
        self.register_buffer("covariance", torch.cholesky_inverse(torch.linalg.cholesky(precision)))
        for place, one in enumerate(measurements):
            self.register_buffer(f"directions_{place}", one.directions.detach().clone())

    def _correlated(self, said: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        directions: list[Tensor] = [getattr(self, f"directions_{place}") for place in range(len(said))]
        weighted = torch.stack([one @ each.mT for one, each in zip(said, directions, strict=True)]).sum(0)
        loc: Tensor = weighted @ self.covariance
        return loc, self.covariance.diagonal().sqrt().expand_as(loc)


def onnx_graph(model: TrainedModel, given: Sequence[str], want: str) -> Callable[[Path], Path]:
    """Return a function that writes a translation's graph into a folder and checks it there.

    Args:
        model: on the CPU.
        given: the input modalities.
        want: the output modality.

    Raises:
        InputError: the libraries are not installed, a modality is unknown, or the model's posteriors are not products
            of experts, the only ones that graphs support.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"--onnx needs {error.name}, which is not installed; {install('onnx')} brings it") from None
    if any(getattr(type(model.model), part) is not getattr(MultimodalVAE, part) for part in _PARTS):
        raise InputError(
            f"--onnx: this run's objective ({model.recipe.objective.name}) has posteriors of another form; "
            f"graphs support products of experts only (mvae, mvtcae, crmvae)"
        )
    if model.covariates:
        raise InputError(
            f"--onnx: this model has covariates ({', '.join(model.covariates)}), which graphs do not support; export "
            f"without --onnx"
        )
    if not given:
        raise InputError("--onnx: name what is given, --given NAME,NAME")
    given = tuple(dict.fromkeys(given))
    model.decode(torch.zeros(1, model.latent_dim), [want])  # raises for a wrong name
    model.allows(given)  # the same
    return lambda folder: _write(model, given, want, folder)


def _write(model: TrainedModel, given: Sequence[str], want: str, folder: Path) -> Path:
    """Export a translation into a folder, check the graph, and return its file."""
    *names, wanted = (re.sub(r"\W", "_", name) for name in (*given, want))
    path = folder / "onnx" / f"{'-'.join(names)}-to-{wanted}.onnx"
    path.parent.mkdir(exist_ok=True)
    translator = Translator(model.model, given, want).eval()
    rows = torch.export.Dim("rows", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about names and its own parts
        try:
            torch.onnx.export(
                translator,
                # The inputs are distinct tensors: one tensor passed twice would become one input of the graph.
                tuple(value.clone() for value in _inputs(model, given, _EXAMPLES).values()),
                str(path),
                dynamo=True,
                input_names=[f"given_{name}" for name in names],
                output_names=["want", "loc", "scale"],
                dynamic_shapes=(tuple({0: rows} for _ in given),),
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter and a plugin's own code may raise anything
            cause = error.__cause__ or error  # the exporter's own message is advice to its authors
            said = " ".join(str(cause).split())[:300]
            raise RunError(
                f"--onnx: {', '.join(given)} to {want} cannot be exported as a graph ({type(cause).__name__}: {said}); "
                f"export without --onnx, or another --given or --want"
            ) from error
    _check(model, given, want, path)
    return path


def _check(model: TrainedModel, given: Sequence[str], want: str, path: Path) -> None:
    """Compare a graph's results with the library's, also for numbers of rows that it was not traced with.

    Raises:
        RunError: the results differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    takes = [one.name for one in session.get_inputs()]
    if len(takes) != len(given):
        raise RunError(f"--onnx: the graph has {len(takes)} inputs for {len(given)} modalities, so it was not kept")
    for count in _CHECKED:
        inputs = _inputs(model, given, count)
        try:
            found = session.run(None, {n: v.numpy() for n, v in zip(takes, inputs.values(), strict=True)})
        except Exception as error:  # for instance for a number of rows that was traced as a constant
            said = " ".join(str(error).split())[:300]
            raise RunError(f"--onnx: the graph does not run on {count} rows ({said}), so it was not kept") from error
        posterior = model.embed({name: in_units(model.schemas[name], value) for name, value in inputs.items()})
        decoded = model.decode(posterior.loc, [want])[want]
        ours = decoded.value if decoded.probabilities is None else decoded.probabilities
        for what, mine, theirs in zip(
            (want, "loc", "scale"), (ours, posterior.loc, posterior.scale), found, strict=True
        ):
            if mine.shape != theirs.shape or not np.allclose(mine.numpy(), theirs, _TOLERANCE, _TOLERANCE):
                raise RunError(f"--onnx: the graph's {what} differs from the library's, so it was not kept")


def _inputs(model: TrainedModel, given: Sequence[str], count: int) -> dict[str, Tensor]:
    """Return values sampled from the model itself, `(rows, *event_shape)` each, as its networks see them."""
    sampled = model.sample(count, given, noise=True, seed=count)
    found = {}
    for name in given:
        schema = model.schemas[name]
        stored = schema.draw(as_stored(schema, sampled[name].samples[0]), generator(count, "graph", 0))
        value = schema.unpack(stored)
        found[name] = value.to(model.model.dtype) if value.is_floating_point() else value
    return found
