"""``evaluation.json``: what `modalkit evaluate` measured in a run, read and written as records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from modalkit.errors import InputError
from modalkit.evaluation.metrics import accuracy, coherence, log_likelihood, reconstruction
from modalkit.plugin import Display, Metric
from modalkit.util.files import write_json
from modalkit.util.json_files import first_problem, read_json

_SECTIONS = {
    log_likelihood.METRIC.name: ("log_likelihoods", log_likelihood.METRIC),
    accuracy.METRIC.name: ("accuracies", accuracy.METRIC),
    coherence.METRIC.name: ("coherence", coherence.METRIC),
    reconstruction.METRIC.name: ("reconstruction", reconstruction.METRIC),
}
"""The metrics that have a section of their own; all others share the section ``metrics``."""


_Figure = Annotated[list[float | None], Field(min_length=2, max_length=2)]
_Object = dict[str, Any]


def _figures_and_settings(entry: _Object) -> _Object:
    """Check an entry whose keys are figures, but for its settings; ValueError names the key."""
    for part, one in entry.items():
        if part == "settings":
            if not isinstance(one, dict):
                raise ValueError("settings: should be an object")
        elif not (isinstance(one, list) and len(one) == 2 and all(_is_number(number) for number in one)):
            raise ValueError(f"{part}: should be a mean and its standard error")
    return entry


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


_Figures = Annotated[_Object, AfterValidator(_figures_and_settings)]


class _Open(BaseModel):
    """A part of the file whose other keys are not checked. Defaults stand for keys that may be missing."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Likelihood(_Open):
    log_p: _Figure = []
    variance: _Figure = []
    ess: _Figure = []
    rows: int = 0
    settings: _Object = {}


class _Display(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    unit: str = ""
    higher_is_better: bool | None = None
    factor: float = 1.0
    digits: Annotated[int, Field(ge=0, le=30)] = 0
    pages: list[str] = []


class _Measured(_Open):
    question: Any
    figures: dict[str, _Figure]
    settings: _Object


class _Metric(_Open):
    summary: str
    display: _Display
    measured: dict[str, _Measured]


class _Content(_Open):
    log_likelihoods: dict[str, _Likelihood] = {}
    accuracies: dict[str, _Figures] = {}
    coherence: dict[str, _Figures] = {}
    reconstruction: _Figures = {}
    metrics: dict[str, _Metric] = {}
    translations: _Object = {}
    parameters: dict[str, int] = {}


@dataclass(frozen=True)
class Record:
    """What one metric measured for one question.

    Attributes:
        metric: its name.
        summary: what it is, in a few words.
        display: its unit, which direction is better, and how its numbers are shown.
        question: the question as text, such as ``log p(class | image)``; empty where the metric takes none.
        figures: by part, a mean and its standard error, None for what is not known; the part is empty where the
            question has one figure alone.
        details: what else is known: of log-likelihoods the whole answer, of others the question's modalities.
        settings: on which rows and with how many samples it was measured.
    """

    metric: str
    summary: str
    display: Display
    question: str
    figures: Mapping[str, Sequence[float | None]]
    details: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def label(self, part: str) -> str:
        """Return what names a part's figure among those of all metrics."""
        named = self.question if self.metric in _SECTIONS else f"{self.metric} {self.question.removeprefix('log ')}"
        return f"{named}: {part}" if part else named


def record(
    metric: Metric,
    question: str,
    figures: Mapping[str, Sequence[float | None]],
    settings: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
) -> Record:
    """Return the record of what a metric measured."""
    return Record(metric.name, metric.summary, metric.display, question, figures, details or {}, settings)


def read_records(path: Path, page: str | None = None) -> list[Record]:
    """Return the records of an ``evaluation.json``, built-in metrics first; none where there is no such file.

    Args:
        path: the file.
        page: return only metrics that this page shows: ``report``, ``compare`` or ``card``.

    Raises:
        InputError: the file is damaged.
    """
    kept, found = _read(path), list[Record]()
    try:
        for section, metric in _SECTIONS.values():
            found += _built_in(metric, kept.get(section, {}))
        for name, one in kept.get("metrics", {}).items():
            display = Display(**one["display"] | {"pages": tuple(one["display"].get("pages", Display.pages))})
            for question, entry in one["measured"].items():
                details = {"question": entry["question"]}
                figures, settings = entry["figures"], entry["settings"]
                found.append(Record(name, one["summary"], display, question, figures, details, settings))
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    return [one for one in found if page is None or page in one.display.pages]


def check_readable(path: Path) -> None:
    """Check that records can be added to an ``evaluation.json``.

    Raises:
        InputError: the file is damaged.
    """
    _read(path)


def add_records(
    path: Path,
    records: Sequence[Record],
    counts: Mapping[str, int],
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Add records to an ``evaluation.json``; they replace what the same metric measured for the same question.

    Args:
        path: the file.
        records: what was measured.
        counts: how many parameters each part of the model has.
        sections: other sections of the file, which replace those of the same names.

    Raises:
        InputError: the file is damaged.
    """
    kept = _read(path)
    for one in records:
        settings = {"settings": one.settings}
        match one.metric:
            case log_likelihood.METRIC.name:
                kept.setdefault("log_likelihoods", {})[one.question] = dict(one.details) | settings
            case reconstruction.METRIC.name:
                kept["reconstruction"] = dict(one.figures) | settings
            case accuracy.METRIC.name | coherence.METRIC.name:
                kept.setdefault(_SECTIONS[one.metric][0], {})[one.question] = dict(one.figures) | settings
            case _:
                about = kept.setdefault("metrics", {}).setdefault(one.metric, {"measured": {}})
                about |= {"summary": one.summary, "display": asdict(one.display)}
                about["measured"][one.question] = {"figures": one.figures, **one.details} | settings
    write_json(path, _without_nan(kept | dict(sections or {}) | {"parameters": counts}))


def _built_in(metric: Metric, section: Mapping[str, Any]) -> list[Record]:
    """Return the records of a section of its own."""
    if metric is log_likelihood.METRIC:
        return [
            record(metric, question, {"": answer["log_p"]}, answer.get("settings", {}), answer)
            for question, answer in section.items()
            if answer.get("log_p")
        ]
    entries = {"": section} if metric is reconstruction.METRIC and section else section
    return [
        record(
            metric,
            question,
            {part: figure for part, figure in entry.items() if part != "settings"},
            entry.get("settings", {}),
        )
        for question, entry in entries.items()
    ]


def _read(path: Path) -> dict[str, Any]:
    """Return the content of the file, checked where its form is known; empty where there is no such file."""
    kept = read_json(path) if path.exists() else {}
    try:
        _Content.model_validate(kept)
    except ValidationError as error:
        raise _damaged(path, first_problem(error)) from None
    return dict(kept)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read ({why}); delete it, or move it away")


def _without_nan(value: Any) -> Any:
    """Return what JSON can hold: None in place of infinities and of what is not a number."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
