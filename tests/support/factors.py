"""Models that are given the weights of a factor analysis, so that likelihoods and predictions have a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from support.linear import fill
from torch import Tensor, nn

from modalkit.model import assemble
from modalkit.model.factor_analysis import FactorAnalysis
from modalkit.nn.linear import LinearDecoder, LinearFeatures
from modalkit.recipe import load_recipe
from modalkit.runs.checkpoint import save_weights


def random_analysis(columns: int, factors: int, seed: int) -> FactorAnalysis:
    """Return a factor analysis in double precision, with noise variances between 0.05 and 1.05."""
    g = torch.Generator().manual_seed(seed)
    loadings = torch.randn(columns, factors, generator=g, dtype=torch.double)
    mean, noise = torch.randn(2, columns, generator=g, dtype=torch.double)
    return FactorAnalysis(loadings, mean, noise.sigmoid() + 0.05)


def recipe_text(sizes: Mapping[str, int], latent_dim: int, experts: str, data: Path | str = "nowhere") -> str:
    """Return a recipe of vectors whose model is a factor analysis once the hidden layers contribute nothing."""
    network = "{type: mlp, hidden: [3], decoder_hidden: [3], linear: true}"
    modalities = "".join(
        f"  {name}: {{kind: vector, size: {size}, scale: per_dimension, network: {network}}}\n"
        for name, size in sizes.items()
    )
    return (
        f"data: {{path: {data}}}\nmodalities:\n{modalities}"
        f"model: {{latent_dim: {latent_dim}, experts: {experts}}}\ntrain: {{precision: 64}}\n"
    )


def factor_run(folder: Path, analysis: FactorAnalysis, sizes: Mapping[str, int], experts: str) -> Path:
    """Write a run folder whose model has the weights of a factor analysis, and return it.

    Args:
        folder: the folder to make.
        analysis: in double precision; its columns are those of the modalities, in order.
        sizes: how many columns each modality has.
        experts: `low_rank` or `full`.
    """
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_text(sizes, analysis.factors, experts))
    model = assemble(load_recipe(folder / "recipe.yaml")).double()
    first = 0
    for name, size in sizes.items():
        part = analysis.part(slice(first, first + size))
        first += size
        directions, slope = measurement(part, model.measurements[name].rank)  # type: ignore[arg-type]
        with torch.no_grad():
            model.measurements[name].directions.copy_(directions)  # type: ignore[operator, union-attr]
        _give_encoder(model.encoders[name], model.heads[name], slope, -slope @ part.mean)
        _give_decoder(model.decoders[name], part)
    save_weights(folder / "checkpoints" / "best.safetensors", model)
    return folder


def measurement(part: FactorAnalysis, rank: int) -> tuple[Tensor, Tensor]:
    r"""Return U, `(factors, rank)`, and V, `(rank, columns)`, of an expert that measures :math:`b = V (x - \mu)`.

    With the singular value decomposition :math:`diag(\psi)^{-1/2} W = L S R^\top`, they are :math:`U = R S` and
    :math:`V = L^\top diag(\psi)^{-1/2}`. So :math:`U U^\top = W^\top diag(\psi)^{-1} W`, and
    :math:`U b = W^\top diag(\psi)^{-1} (x - \mu)`. Further directions are zero.
    """
    left, values, right = torch.linalg.svd(part.loadings / part.noise.sqrt()[:, None], full_matrices=False)
    directions, slope = part.loadings.new_zeros(part.factors, rank), part.loadings.new_zeros(rank, len(part.mean))
    directions[:, : len(values)] = right.T * values
    slope[: len(values)] = left.T / part.noise.sqrt()
    return directions, slope


def _give_encoder(encoder: nn.Module, head: nn.Module, slope: Tensor, offset: Tensor) -> None:
    """Make a head return `slope @ x + offset`, by the linear path alone."""
    assert isinstance(encoder, LinearFeatures) and isinstance(head, nn.Linear)
    width, used = encoder.linear.out_features, min(encoder.linear.out_features, len(slope))
    assert not slope[used:].any()
    path, chosen = slope.new_zeros(width, slope.shape[1]), slope.new_zeros(len(slope), head.in_features)
    path[:used] = slope[:used]
    chosen[:used, -width:][:, :used] = torch.eye(used)
    fill(encoder.linear, path, slope.new_zeros(width))
    fill(head, chosen, offset)


def _give_decoder(decoder: nn.Module, part: FactorAnalysis) -> None:
    """Make a decoder return the means and the noise of a factor analysis."""
    (path,) = (one for one in decoder.modules() if isinstance(one, LinearDecoder))
    fill(path.linear, part.loadings, part.mean)
    last = [one for one in path.network.modules() if isinstance(one, nn.Linear)][-1]
    fill(last, torch.zeros_like(last.weight), torch.zeros_like(last.bias))
    with torch.no_grad():
        decoder.log_scale.copy_((part.noise.sqrt() - 1e-3).log() / 10)  # type: ignore[operator, union-attr]
