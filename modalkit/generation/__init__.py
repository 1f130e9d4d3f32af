"""Metrics of samples that a model generates, given some modalities or nothing, from its posterior, prior or sampler."""

from modalkit.generation.frechet import frechet_distance, frechet_of

__all__ = ["frechet_distance", "frechet_of"]
