"""Whether what is generated from some modalities is classified as the class of its row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import draw
from modalkit.errors import InputError
from modalkit.evaluation.likelihood import fetch
from modalkit.evaluation.metrics._means import mean_and_error
from modalkit.evaluation.metrics._predictions import ROWS, Figures
from modalkit.evaluation.metrics.accuracy import right
from modalkit.evaluation.questions import Asking, Question, allows, split_names
from modalkit.model.moments import point
from modalkit.model.sampling import sample_posterior
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import CustomNetwork, Display, Metric, Schema
from modalkit.runs.checkpoint import load_weights, save_weights
from modalkit.runs.folder import RunFolder
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed, generator

if TYPE_CHECKING:
    from modalkit.runs.opened import Run

_EPOCHS = 5
_BATCH_SIZE = 100


@dataclass(frozen=True)
class Generation(Question):
    """Is the target, a modality, generated from what is given classified rightly?

    Attributes:
        classified: the modality that the classifier predicts.
    """

    classified: str = ""

    def __str__(self) -> str:
        whose = "that" if self.given == (self.classified,) else "the row's"
        return f"{self.targets[0]} generated from {', '.join(self.given)}, classified as {whose} {self.classified}"


class Classifier(nn.Module):
    """A network that predicts one modality from another, made of the networks that their kinds provide.

    Args:
        source: schema of the modality that it sees.
        target: schema of the modality that it predicts.
    """

    def __init__(self, source: Schema, target: Schema) -> None:
        super().__init__()
        self.source, self.target, self.kind = source, target, registry.modality(target.kind)
        self.encoder = registry.modality(source.kind).encoder(source)
        value = source.unpack(source.zeros(2))
        with torch.no_grad():
            features = self.encoder.eval()(value).shape[1]
        self.decoder = self.kind.decoder(target, features)
        self.train()

    def forward(self, value: Tensor) -> Distribution:
        """Return p(target|source)."""
        return self.kind.likelihood(self.target, self.decoder(self.encoder(value)))

    def guess(self, value: Tensor) -> Tensor:
        """Return the most probable targets of values, or of bits their probabilities, `(rows, *event_shape)`."""
        floating = self.target.unpack(self.target.zeros(1)).is_floating_point()
        return point(self.kind.outcome, self(_single(value)), floating)

    def features(self, value: Tensor) -> Tensor:
        """Return what the last linear layer sees, `(rows, features)`; without such a layer, the encoder's features."""
        encoded: Tensor = self.encoder(_single(value))
        seen = [encoded]
        linear = [layer for layer in self.decoder.modules() if isinstance(layer, nn.Linear)]
        for last in linear[-1:]:
            hook = last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
            try:
                self.decoder(encoded)
            finally:
                hook.remove()
        return seen[-1]


def _single(value: Tensor) -> Tensor:
    """Return values in the precision of classifiers, which that of the run does not change."""
    return value.to(torch.get_default_dtype()) if value.is_floating_point() else value


def train_classifier(
    dataset: Dataset, schemas: dict[str, Schema], source: str, target: str, path: Path, *, epochs: int, seed: int
) -> Classifier:
    """Return a classifier of one modality from another, trained on a dataset's training rows.

    Args:
        dataset: real data.
        schemas: of its modalities.
        source: the modality that the classifier sees.
        target: the modality that it predicts.
        path: the file of its weights: read if it exists, else written.
        epochs: passes over the training rows.
        seed: determines the classifier.
    """
    torch.manual_seed(derived_seed(seed, "classifier"))
    classifier = Classifier(schemas[source], schemas[target])
    if path.exists():
        load_weights(path, classifier)
        return classifier.eval()
    names = dataset.names
    rows = dataset.rows("train")
    rows = rows[dataset.present[rows][:, [names.index(source), names.index(target)]].all(1)]
    if not len(rows):
        raise InputError(f"{dataset.path}: no training row has both {source} and {target} to train a classifier on")
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    with bar(epochs * len(rows), f"classifier of {target} from {source}", unit="row", leave=False) as progress:
        for epoch in range(epochs):
            order = torch.randperm(len(rows), generator=generator(seed, "classifier order", epoch))
            for part in torch.split(rows[order], _BATCH_SIZE):
                batch = draw(dataset[part], schemas, generator(seed, "classifier data", epoch, int(part[0])))
                log_p = classifier(schemas[source].unpack(batch.values[source])).log_prob(
                    schemas[target].unpack(batch.values[target])
                )
                optimizer.zero_grad()
                (-log_p.mean()).backward()
                optimizer.step()
                progress.update(len(part))
    save_weights(path, classifier)
    return classifier.eval()


@torch.no_grad()
def coherence(
    model: MultimodalVAE,
    classifier: Classifier,
    dataset: Dataset,
    rows: Tensor,
    source: str,
    target: str,
    seed: int,
    given: Sequence[str] = (),
) -> Figures:
    """Return how often generated samples are classified as their row's target, and real ones.

    For each row z is sampled from the posterior, the source modality is decoded to its mean, and this is classified.

    Args:
        model: in eval mode meanwhile.
        classifier: of the target from the source.
        dataset: where the rows are.
        rows: int64 `(rows,)`; rows that lack one of the modalities that are named are left out.
        source: the modality to generate.
        target: the modality that the classifier predicts.
        seed: of the samples.
        given: the modalities to generate it from; the target by default.

    Returns:
        ``generated`` and ``real``: the share that is right in all its parts, and its standard error.
    """
    schema = model.schemas[target]
    given = given or (target,)
    named = [model.names.index(name) for name in {source, target, *given}]
    rows = rows[dataset.present[rows][:, named].all(1)]
    shares: dict[str, list[Tensor]] = {"generated": [], "real": []}
    with evaluating(model):
        for start in range(0, len(rows), ROWS):
            batch = fetch(dataset, model.schemas, rows[start : start + ROWS], seed).to(model.device)
            inputs = sample_posterior(model, batch, given, 1, derived_seed(seed, "coherence", start))
            truth = schema.unpack(batch.values[target])
            real = model.schemas[source].unpack(batch.values[source])
            for what, value in (("generated", model.predict(source, inputs[0])), ("real", real)):
                parts = right(schema, classifier.guess(value), truth).values()
                shares[what].append(torch.stack(list(parts)).double().mean(0))
    return {what: mean_and_error(torch.cat(parts)) for what, parts in shares.items() if parts}


def parse(model: MultimodalVAE, asked: str) -> Generation:
    """Return the question of ``SOURCE:TARGET`` or ``SOURCE:TARGET:GIVEN,...``.

    Raises:
        InputError: the names are not modalities, or the model or the target's kind does not allow it.
    """
    source, target, given = _names(model, asked)
    if source not in model.decoders or not allows(model, given):
        of = ", ".join(given)
        raise InputError(f"--coherence {asked}: this run's objective does not generate {source} from {of}")
    if registry.modality(kind := model.schemas[target].kind).correct is None:
        raise InputError(f"--coherence {asked}: {target}'s kind, '{kind}', does not say when a prediction is right")
    for name in (source, target):
        if isinstance(getattr(model.schemas[name], "network", None), CustomNetwork):
            raise InputError(
                f"--coherence {asked}: {name} has networks of your own; the classifier uses the networks of its kind"
            )
    return Generation((source,), given, classified=target)


def _names(model: MultimodalVAE, asked: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the source, the target and what is given of ``SOURCE:TARGET:GIVEN,...``."""
    source, _, rest = asked.partition(":")
    target, named, others = rest.partition(":")
    if source == target or not {source, target} <= set(model.names):
        raise InputError(f"--coherence {asked}: write SOURCE:TARGET, two of {', '.join(model.names)}")
    if not named:
        return source, target, (target,)
    given = split_names(others)
    if not given or source in given or not set(given) <= set(model.names):
        possible = ", ".join(name for name in model.names if name != source)
        raise InputError(f"--coherence {asked}: write SOURCE:TARGET:GIVEN,..., with given modalities of {possible}")
    return source, target, tuple(name for name in model.names if name in given)


def measure(run: Run, question: Question, asking: Asking) -> Figures:
    """Return the coherence of what `parse` returns, with a classifier that the run's folder keeps."""
    assert isinstance(question, Generation)
    (source,), target = question.targets, question.classified
    classifier = classifier_of(run, source, target, asking.seed)
    rows = asking.rows_of(run.dataset)
    return coherence(run.model, classifier, run.dataset, rows, source, target, asking.seed, question.given)


def classifier_of(run: Run, source: str, target: str, seed: int) -> Classifier:
    """Return the classifier of a run's dataset, on the model's device; the run's folder keeps it."""
    about = f"{_EPOCHS} {seed} {[shard.sha256 for shard in run.dataset.manifest.shards]}"
    digest = hashlib.sha256(about.encode()).hexdigest()[:8]
    path = RunFolder(run.path).passes / f"classifier-{target}-from-{source}-{digest}.safetensors"
    found = train_classifier(run.dataset, run.model.schemas, source, target, path, epochs=_EPOCHS, seed=seed)
    return found.to(run.model.device)


METRIC = Metric(
    name="coherence",
    summary="Coherence, generated and real samples that are classified rightly",
    measure=measure,
    display=Display("%", factor=100, digits=2, pages=()),
    heading="{question}",
)
