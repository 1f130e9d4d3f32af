"""An answer as files: pictures, texts and arrays that open anywhere, and ``answer.json`` with the figures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modalkit import registry
from modalkit.data import Batch
from modalkit.errors import InputError, guard
from modalkit.inference.results import Inference
from modalkit.model.prediction import Prediction, in_units
from modalkit.pictures import Cell, row_cells, sheet, show, shown_as_picture
from modalkit.plugin import Outcome, Picture, Schema
from modalkit.util.files import remove_leftovers, write_bytes, write_json
from modalkit.util.json_files import read_json

_ACCOUNT, _SHEET = "answer.json", "sheet.png"
_MOST_LINES = 64  # of a sheet
_MOST_NUMBERS = 16  # in a printed line
_MOST_SHOWN = 8  # printed columns of samples


def answer(
    schemas: Mapping[str, Schema], batch: Batch, inference: Inference
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return one row's predictions as files and as figures.

    Args:
        schemas: the schemas of the model's modalities.
        batch: the given values, one row.
        inference: the predictions of that row.

    Returns:
        The content of each file by its name, and the figures by modality. A picture's files are ``NAME-mean.png`` and
        ``NAME-0.png`` … for each sample; those of other kinds end in ``.txt``, with ``mode`` instead of ``mean`` for
        integers that are no counts. Numbers are also in ``.npy``, and in what else their kind writes
        (`Modality.files`). ``answer.csv`` has a line for the mean and each sample, with all that is not shown as a
        picture. If there are pictures, ``sheet.png`` shows everything. Figures are the value, its uncertainty and the
        samples; for pictures only their mean spread.
    """
    files: dict[str, bytes] = {}
    figures: dict[str, Any] = {}
    lines: dict[str, list[Cell]] = {}
    rows: dict[str, Tensor] = {}  # the point, then the samples
    for name, there in zip(batch.values, batch.present[0].tolist(), strict=True):
        if there or name in inference:
            lines[name] = row_cells(schemas, batch, 0, [name]) if there else [""]
    for name, prediction in inference.items():
        point = "mean" if prediction.value.is_floating_point() or prediction.outcome is Outcome.COUNT else "mode"
        values = {point: prediction.value[0]} | {str(i): one[0] for i, one in enumerate(prediction.samples)}
        files |= _files(name, prediction.schema, values)
        rows[name] = torch.stack([prediction.value[0], *(one[0] for one in prediction.samples)])
        lines[name] += (prediction.show(0, i) for i in (None, *range(len(prediction.samples))))
        figures[name] = _figures(prediction)
    titles = ["given", "mean", *map(str, range(max(len(p.samples) for p in inference.values())))]
    if any("text" in said for said in figures.values()):
        files["answer.csv"] = _table(inference, rows, titles[1:])
    return files | _page(lines, titles), figures


def samples(inference: Inference) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return rows sampled from the prior as files ``NAME-ROW.png`` and so on, and as figures; see `answer`.

    What is not shown as a picture is also in ``samples.csv``, with one line for each row and one column for each
    number, in the user's units. If there are no pictures, this is the only file.
    """
    drawn: dict[str, Tensor] = {}
    files: dict[str, bytes] = {}
    figures: dict[str, Any] = {}
    lines: dict[str, list[Cell]] = {}
    for name, prediction in inference.items():
        rows = drawn[name] = prediction.samples[0]  # (rows, *event_shape)
        files |= _files(name, prediction.schema, {str(i): one for i, one in enumerate(rows)})
        lines[name] = [show(prediction.schema, one) for one in rows]
        if isinstance(lines[name][0], str):
            figures[name] = {"texts": lines[name], "samples": rows.tolist()}
    table = {"samples.csv": _table(inference, drawn)} if figures else {}
    if len(figures) == len(lines):
        return table, figures
    return files | table | _page(lines, [str(i) for i in range(len(inference.posterior.loc))]), figures


def _table(inference: Mapping[str, Prediction], rows: Mapping[str, Tensor], titles: Sequence[str] = ()) -> bytes:
    """Return values as CSV: numbers in one column each, under their names if they have any; others as texts.

    Args:
        inference: predictions of the modalities; those that are shown as pictures are left out.
        rows: by modality `(rows, *event_shape)`.
        titles: what each row is, for a first column; none by default.
    """
    columns: dict[str, list[str]] = {"": list(titles)} if titles else {}
    for name, values in rows.items():
        schema = inference[name].schema
        if shown_as_picture(schema):
            continue
        if not (values.is_floating_point() or inference[name].outcome is Outcome.COUNT):
            columns[name] = [str(show(schema, one)) for one in values]
            continue
        flat = in_units(schema, values).reshape(len(values), -1)  # (rows, *event_shape) -> (rows, numbers)
        parts = schema.part_names or [f"{name}.{i}" for i in range(flat.shape[1])]
        parts = [name] if flat.shape[1] == 1 else parts
        for title, column in zip(parts, flat.unbind(1), strict=True):
            columns[title if title not in columns else f"{name}.{title}"] = [f"{x:.6g}" for x in column.tolist()]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def first_samples(table: bytes) -> Iterator[str]:
    """Yield the first lines of ``samples.csv`` for printing, with as many columns as fit a terminal."""
    lines = list(csv.reader(io.StringIO(table.decode())))
    few = [[cell[:14] for cell in line[:_MOST_SHOWN]] for line in lines[: _MOST_SHOWN - 2]]
    widths = [max(map(len, column)) for column in zip(*few, strict=True)]
    for line in few:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells) + ("  …" if len(lines[0]) > _MOST_SHOWN else "")


def told(figures: Mapping[str, Mapping[str, Any]], written: Sequence[Path]) -> Iterator[str]:
    """Yield an answer as lines for printing: each prediction and how certain it is, then where the files are.

    Args:
        figures: the figures that `answer` returned.
        written: the files that `write_answer` returned.
    """
    for name, said in figures.items():
        pictures = [path for path in written if path.name in (f"{_stem(name)}-{what}.png" for what in ("mean", "mode"))]
        yield f"{name}: {said['text'] if 'text' in said else pictures[0]}{_sure(said)}"
    yield where(written)


def where(written: Sequence[Path]) -> str:
    """Return a line that says where the files of an answer are."""
    sheets = [path for path in written if path.name == _SHEET]
    return f"{len(written)} files in {written[0].parent}" + (f"; all side by side: {sheets[0]}" if sheets else "")


def _sure(said: Mapping[str, Any]) -> str:
    """Return in words how certain a prediction is, if that is one number or a few."""
    probability, scale = said.get("probability"), said.get("scale")
    if isinstance(probability, float):
        return f"  (probability {probability:.3f})"
    if isinstance(scale, list) and len(scale) <= _MOST_NUMBERS and isinstance(scale[0], float):
        return f"  (standard deviation {' '.join(f'{one:.3g}' for one in scale)})"
    return ""


def earlier_files(out: Path) -> set[str]:
    """Return the names of the files of an earlier answer in a folder.

    Raises:
        InputError: the folder holds other files.
    """
    account, before = out / _ACCOUNT, set[str]()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder")
    if account.is_file():
        found = read_json(account)
        listed = found.get("files") if isinstance(found, dict) else None
        names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        before = {name for name in names if name == Path(name).name}  # names only: the file may come from anywhere
    remove_leftovers(out)
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if others := sorted(there - before - {_ACCOUNT}):
        raise InputError(f"{out}: holds other things ({', '.join(others[:3])}); choose an empty or a new folder")
    return before


def write_answer(out: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> list[Path]:
    """Write files and ``answer.json`` into a folder. They replace an earlier answer in it.

    Args:
        out: the folder, created if needed.
        files: the content of each file by its name.
        about: the content of ``answer.json``, without the list of files, which is added.

    Returns:
        The paths of the files.

    Raises:
        InputError: the folder holds other files.
        RunError: the disk cannot be written.
    """
    before = earlier_files(out)
    # answer.json comes first: if the process is killed, the folder is still recognised as an answer's.
    write_json(out / _ACCOUNT, {**about, "files": sorted(files)})
    for name, content in files.items():
        write_bytes(out / name, content)
    for name in before - set(files):
        (out / name).unlink(missing_ok=True)
    return [out / name for name in (*files, _ACCOUNT)]


def _stem(name: str) -> str:
    """Return the beginning of the names of a modality's files."""
    return re.sub(r"[^\w-]", "_", name)


def _files(name: str, schema: Schema, values: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return the files of one modality's values `(*event_shape)`; the keys of `values` become part of their names."""
    stem, found = _stem(name), dict[str, bytes]()
    kind = registry.modality(schema.kind)
    for what, value in values.items():
        shown = show(schema, value)
        if isinstance(shown, str):
            found[f"{stem}-{what}.txt"] = f"{shown}\n".encode()
        else:
            found[f"{stem}-{what}.png"] = png(shown)
        several_bits = kind.outcome is Outcome.BINARY and isinstance(shown, str)
        if value.ndim and (kind.outcome in (Outcome.REAL, Outcome.COUNT) or several_bits):
            found[f"{stem}-{what}.npy"] = _npy(in_units(schema, value))
        if kind.files is not None:
            with guard(f"kind '{schema.kind}': its files"):
                of_kind = kind.files(schema, value.detach().cpu())
            found |= {f"{stem}-{what}{suffix}": content for suffix, content in of_kind.items()}
    return found


def _figures(prediction: Prediction) -> dict[str, Any]:
    """Return the figures of a prediction's first row, without pixels."""
    text = prediction.show(0)
    if not isinstance(text, str):
        spread = prediction.spread
        return {} if spread is None else {"spread": float(spread.mean())}
    found: dict[str, Any] = {"text": text, "value": prediction.in_units(prediction.value)[0].tolist()}
    if prediction.scale is not None:
        found["scale"] = prediction.width_in_units(prediction.scale)[0].tolist()
    if prediction.probability is not None:
        found["probability"] = prediction.probability[0].tolist()
    if prediction.probabilities is not None:
        each = enumerate(prediction.probabilities[0].tolist())
        found["probabilities"] = {str(show(prediction.schema, torch.tensor(i))): one for i, one in each}
    return found | {"samples": prediction.in_units(prediction.samples)[:, 0].tolist()}


def _page(columns: Mapping[str, list[Cell]], titles: list[str]) -> dict[str, bytes]:
    """Return ``sheet.png`` with one column for each modality, or no file if no cell is a picture."""
    if all(isinstance(cell, str) for column in columns.values() for cell in column):
        return {}
    count = min(len(titles), _MOST_LINES)
    cells = [[column[i] if i < len(column) else "" for column in columns.values()] for i in range(count)]
    return {_SHEET: png(sheet(cells, titles[:count], list(columns)))}


def png(picture: Image.Image | Picture) -> bytes:
    """Return a picture as the content of a PNG file."""
    file = io.BytesIO()
    whole = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    whole.save(file, "PNG")
    return file.getvalue()


def _npy(value: Tensor) -> bytes:
    """Return a tensor as the content of a NumPy file."""
    file = io.BytesIO()
    np.save(file, value.numpy(), allow_pickle=False)
    return file.getvalue()
