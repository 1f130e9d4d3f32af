"""The web application: one page, and the requests that its script sends."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import torch
from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from modalkit.data import Batch, Dataset, check_manifest
from modalkit.data.reading import evenly
from modalkit.errors import InputError, ModalkitError
from modalkit.inference import TrainedModel
from modalkit.pictures import shown_as_picture
from modalkit.playground.answers import answer, json_cell, json_row, prediction
from modalkit.playground.controls import Control, controls, value_of
from modalkit.playground.gate import TOO_SLOW, Gate

_log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_EXAMPLES = 12
_AT_ONCE = 2
_READ_AT_ONCE, _SMALL = 16, 1 << 20
_MOST_TEXT = 64 << 10
_SECONDS_TO_SEND = 20


class Playground:
    """A trained model and its page.

    At most two requests are answered at a time. Of those that are larger than 1 MiB, or do not say how large they are,
    at most 16 are read at a time. So a slow one does not hold up others, and memory does not grow with their number.

    Args:
        model: the model.

    Attributes:
        schemas: the modalities, and behind them the covariates; their numbers are what forms name.
        controls: their controls.
        examples: rows of the held-out split; None if the model's dataset is not available or has changed.
        keys: keys of the examples.
        first: what the page opens with: a picture, and another one that is predicted from it; None if there are none.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self.schemas = {**model.schemas, **model.covariates}
        self.controls: list[Control] = controls(model)
        self.examples, self.keys = _examples(model, list(self.schemas))
        self.first = _first(model)
        self._turns, self._bodies = anyio.Semaphore(_AT_ONCE), anyio.Semaphore(_READ_AT_ONCE)
        self._templates = Jinja2Templates(_HERE / "templates")

    async def page(self, request: Request) -> Response:
        """Answer with the page."""
        context = {
            "model": self.model,
            "controls": self.controls,
            "thumbnails": [(key, self._thumbnail(row)) for row, key in enumerate(self.keys)],
            "predictable": set(self.model.predictable),
            "first": self.first,
            "start": self._start(),
        }
        return self._templates.TemplateResponse(request, "page.html", context)

    async def row(self, request: Request) -> Response:
        """Answer with an example's value of each modality."""
        number = request.path_params["number"]
        known = {str(row): row for row in range(len(self.keys))}  # Python refuses to convert thousands of digits
        if self.examples is None or number not in known:
            raise HTTPException(404, "no such row")
        return JSONResponse({"cells": json_row(self.schemas, self.examples, known[number])})

    async def answer(self, request: Request) -> Response:
        """Answer a form with the numbers of ``known`` and ``want`` modalities, and a value of each known one."""
        return await self._in_turn(request, self._answer)

    async def walk(self, request: Request) -> Response:
        """Answer a form with ``z``, a point of the latent space, with what it decodes to."""
        return await self._in_turn(request, self._walk)

    async def _in_turn(self, request: Request, compute: Any) -> Response:
        """Read a form and answer it, when it is this request's turn."""
        length = request.headers.get("content-length", "")
        small = length.isdigit() and int(length) <= _SMALL
        async with nullcontext() if small else self._bodies:
            with anyio.move_on_after(_SECONDS_TO_SEND) as sending:
                async with request.form(max_files=64, max_fields=4096, max_part_size=_MOST_TEXT) as form:
                    entries = await _entries(form)
            if sending.cancelled_caught:
                raise HTTPException(408, TOO_SLOW)
        async with self._turns:
            start = time.perf_counter()
            found = await to_thread.run_sync(compute, entries)
            return JSONResponse(found | {"seconds": time.perf_counter() - start})

    def _answer(self, form: dict[str, list[str | bytes]]) -> dict[str, Any]:
        return answer(self.model, self._given(form), self._names(form, "want"), _whole(form, "seed"))

    def _walk(self, form: dict[str, list[str | bytes]]) -> dict[str, Any]:
        z = torch.tensor(_point(_one(form, "z", ""), self.model.latent_dim))[None]  # (1, latent_dim)
        found = self.model.decode(z, self._names(form, "want"), self._given(form), seed=_whole(form, "seed"))
        return {"predictions": [prediction(name, one) for name, one in found.items()]}

    def _given(self, form: dict[str, list[str | bytes]]) -> dict[str, Any]:
        """Return the known values, in the form's order."""
        given: dict[str, Any] = {}
        for name in self._names(form, "known"):
            number = list(self.schemas).index(name)
            if f"value-{number}" in form or "row" not in form:
                given[name] = value_of(self.controls[number], form.get(f"value-{number}", []))
            else:
                given[name] = self._of_example(_whole(form, "row"), number)
        return given

    def _of_example(self, row: int, number: int) -> torch.Tensor:
        """Return an example's stored value of the modality with this number."""
        name = list(self.schemas)[number]
        if self.examples is None or row >= len(self.keys) or not self.examples.present[row, number]:
            raise InputError(f"modality '{name}': that row does not have it")
        return self.examples.values[name][row]

    def _names(self, form: dict[str, list[str | bytes]], field: str) -> list[str]:
        """Return the names of the modalities whose numbers a field of a form has."""
        numbers = [str(one) for one in form.get(field, [])]
        known = {str(number): name for number, name in enumerate(self.schemas)}
        if any(number not in known for number in numbers):
            raise InputError(f"{field}: no such modality")
        return list(dict.fromkeys(known[number] for number in numbers))

    def _start(self) -> int:
        """Return the first example that has both pictures which the page opens with, or else the first one."""
        if self.examples is None or self.first is None:
            return 0
        columns = [list(self.schemas).index(name) for name in self.first]
        return int(self.examples.present[:, columns].all(1).int().argmax())

    def _thumbnail(self, row: int) -> dict[str, str] | None:
        """Return the first picture of an example, or its first value if it has no picture."""
        assert self.examples is not None
        cells = [one for one in json_row(self.schemas, self.examples, row) if one]
        return next((one for one in cells if "picture" in one), cells[0] if cells else json_cell(""))


def make_app(model: TrainedModel, host: str = "127.0.0.1") -> Starlette:
    """Return the application that serves a model's page.

    Args:
        model: the model.
        host: the name or address that the server listens at; requests for other hosts are refused.
    """
    playground = Playground(model)
    return Starlette(
        routes=[
            Route("/", playground.page),
            Route("/rows/{number}", playground.row),
            Route("/answer", playground.answer, methods=["POST"]),
            Route("/walk", playground.walk, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ],
        middleware=[Middleware(Gate, host=host)],
        exception_handlers={
            HTTPException: _http_error,
            ModalkitError: _modalkit_error,
            ClientDisconnect: _gone,
        },
    )


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _modalkit_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422 if isinstance(error, InputError) else 500)


async def _gone(_: Request, error: Exception) -> Response:
    """Answer nothing, because the page has closed the connection to send a newer request."""
    return Response(status_code=499)


async def _entries(form: FormData) -> dict[str, list[str | bytes]]:
    """Return a form's entries: texts, and the content of files without their names."""
    found: dict[str, list[str | bytes]] = {}
    for name, entry in form.multi_items():
        found.setdefault(name, []).append(await entry.read() if isinstance(entry, UploadFile) else entry)
    return found


def _one(form: dict[str, list[str | bytes]], field: str, default: str) -> str:
    """Return the text of a field that a form has at most once, or the default."""
    held = form.get(field, [default])
    if len(held) > 1 or not isinstance(held[0], str):
        raise InputError(f"{field}: give one text, once")
    return held[0]


def _whole(form: dict[str, list[str | bytes]], field: str) -> int:
    """Return an integer of a form, 0 if it has none."""
    text = _one(form, field, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InputError(f"{field}: give a whole number from 0")
    return int(text)


def _point(text: str, latent_dim: int) -> list[float]:
    """Return a point of the latent space from JSON."""
    try:
        given = json.loads(text)
        numbers = isinstance(given, list) and all(type(number) in (int, float) for number in given)
        point = [float(number) for number in given] if numbers else []
    except (ValueError, OverflowError, RecursionError):
        point = []
    if len(point) != latent_dim or not all(math.isfinite(number) and abs(number) < 1e6 for number in point):
        raise InputError(f"z: give a list of {latent_dim} numbers")
    return point


def _first(model: TrainedModel) -> tuple[str, str] | None:
    """Return a picture to give and another one to predict: colour from gray, or else two that are as close to it.

    A prediction is most telling where the picture has to add something. So pairs with more channels than are given come
    first, and then those of one kind.
    """
    shown = {name: one for name, one in model.schemas.items() if len(one.event_shape) == 3 and shown_as_picture(one)}
    pairs = [(g, w) for g in shown if model.allows([g]) for w in shown if w != g and w in model.predictable]

    def distance(pair: tuple[str, str]) -> tuple[bool, bool]:
        given, want = (shown[name] for name in pair)
        return given.event_shape[0] >= want.event_shape[0], given.kind != want.kind

    return min(pairs, key=distance, default=None)


def _examples(model: TrainedModel, names: list[str]) -> tuple[Batch | None, list[str]]:
    """Return some held-out rows of the dataset that the model was trained on, with these columns, and their keys."""
    try:
        dataset = Dataset(model.dataset_path(), names, in_memory=False)
        check_manifest(dataset.path, {**model.schemas, **model.covariates})
    except InputError as error:  # the dataset was moved, was built again in another way, or may not be contacted
        _log.info(f"no example rows: {error}")
        return None, []
    rows = next((found for split in ("test", "valid") if len(found := dataset.rows(split))), torch.arange(0))
    rows = evenly(rows, _EXAMPLES)
    return (dataset[rows], [dataset.key(int(row)) for row in rows]) if len(rows) else (None, [])
