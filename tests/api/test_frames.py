"""Tables in memory: trained on as they are, and returned with only their missing cells filled."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

import modalkit
from modalkit.errors import InputError

ROWS = 24  # with fewer than 20 training rows, a draft starts at random, which is fast
RNG = np.random.default_rng(0)
Z = RNG.normal(size=ROWS)
Cells = dict[str, list[Any]]


def holes(values: list[Any], every: int) -> list[Any]:
    return [None if row % every == 0 else value for row, value in enumerate(values)]


CELLS: Cells = {
    "id": [f"r{row}" for row in range(ROWS)],
    "body mass": holes((70 + 10 * Z).round(1).tolist(), 5),
    "visits": holes([round(40 + 5 * z) for z in Z], 4),
    "smokes": holes((Z > 0).tolist(), 3),
    "group": holes(["none" if z < 0 else "high" for z in Z], 6),
    "eats": holes(["Yes" if z > 0.2 else "No" for z in Z], 7),
    "when": [f"text {row % 12}" for row in range(ROWS)],
}


def arrow(cells: Cells) -> Any:
    table = pyarrow.table(cells)
    if "group" in cells:
        place = table.column_names.index("group")
        table = table.set_column(place, "group", table["group"].dictionary_encode())
    return table


def pandas(cells: Cells) -> Any:
    """Types of columns as pandas has them by default, a nullable one, a category, and an index that is not 0, 1, …."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(cells, index=[f"row {row}" for row in range(len(next(iter(cells.values()))))])
    types = {"visits": "Int64", "smokes": "boolean", "group": "category"}
    return frame.astype({name: kind for name, kind in types.items() if name in cells})


def polars(cells: Cells) -> Any:
    return pytest.importorskip("polars").DataFrame(cells)


MAKERS = {"arrow": arrow, "pandas": pandas, "polars": polars}


def lists(table: Any) -> Cells:
    """Return the cells of a table, None where missing."""
    if isinstance(table, pyarrow.Table):
        return dict(table.to_pydict())
    if hasattr(table, "to_dicts"):
        return dict(table.to_dict(as_series=False))
    return {
        name: [None if gone else value for value, gone in zip(table[name], table[name].isna(), strict=True)]
        for name in table
    }


def train(*given: Any, **more: Any) -> modalkit.TrainedModel:
    return modalkit.train(*given, **({"progress": False, "set": {"train.max_steps": 1}} | more))


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Cells], Any]:
    return MAKERS[request.param]


def test_a_table_comes_back_with_only_its_missing_cells_filled(make: Callable[[Cells], Any]) -> None:
    table = make(CELLS)
    before = lists(table)
    model = train(data=table)
    kinds = {name: schema.kind for name, schema in model.schemas.items()}
    assert kinds == {
        "body_mass": "vector",
        "visits": "vector",
        "smokes": "bit",
        "group": "label",
        "eats": "bit",
        "when": "label",
    }
    filled = model.impute(table)
    assert lists(table) == before  # what was given has not changed
    assert type(filled) is type(table) and list(lists(filled)) == list(CELLS)
    for name, cells in lists(filled).items():
        for old, new in zip(before[name], cells, strict=True):
            assert new == old if old is not None else new is not None, name
    if isinstance(table, pyarrow.Table):
        assert filled.schema == table.schema
    else:
        assert list(filled.dtypes) == list(table.dtypes)
    if hasattr(table, "index"):
        assert filled.index.equals(table.index)
    assert set(lists(filled)["group"]) == {"none", "high"} and set(lists(filled)["eats"]) == {"Yes", "No"}
    again = model.impute(make({name: cells[:3] for name, cells in CELLS.items() if name != "eats"}))
    assert None not in lists(again)["body mass"]  # other rows, without one of the columns
    assert model.embed(table).loc.shape[0] == ROWS


def test_a_recipe_says_what_columns_are(make: Callable[[Cells], Any]) -> None:
    recipe = {
        "modalities": {
            "both": {"kind": "vector", "size": 2, "names": ["body mass", "visits"]},
            "eats": {"kind": "label", "names": ["No", "Yes"]},
        },
        "train": {"epochs": 1},
    }
    table = make(CELLS)
    model = train(recipe, table, split=["train"] * 20 + ["test"] * 4)
    assert model.modalities == ("both", "eats") and model.schemas["both"].event_shape == (2,)
    filled, before = lists(model.impute(table)), lists(table)
    for name in ("body mass", "visits", "eats"):
        assert None not in filled[name]
        assert all(new == old for old, new in zip(before[name], filled[name], strict=True) if old is not None)
    with pytest.raises(InputError, match="no column 'b' for the modality 'b'"):
        train({"modalities": {"b": {"kind": "bit"}}}, table)


def typed() -> Any:
    """Return an Arrow table with columns of many types, each with gaps, and of types that cannot be used."""
    import datetime
    from decimal import Decimal

    whole, real = holes([round(40 + 5 * z) for z in Z], 4), holes(Z.round(3).tolist(), 5)
    words = holes(["a" if z > 0 else "b" for z in Z], 6)
    columns = {
        "int8": pyarrow.array(whole, pyarrow.int8()),
        "uint16": pyarrow.array(whole, pyarrow.uint16()),
        "float32": pyarrow.array(real, pyarrow.float32()),
        "decimal": pyarrow.array([None if x is None else Decimal(str(x)) for x in real], pyarrow.decimal128(8, 3)),
        "bool": pyarrow.array(holes((Z > 0).tolist(), 3), pyarrow.bool_()),
        "large": pyarrow.array(words, pyarrow.large_string()),
        "category": pyarrow.array(words).dictionary_encode(),
        "day": pyarrow.array(holes([datetime.date(2020, 1, 1 + row) for row in range(ROWS)], 4)),
        "list": pyarrow.array(holes([[1, 2]] * ROWS, 4)),
    }
    return pyarrow.table(columns)


@pytest.mark.parametrize("library", ["arrow", "polars"])
def test_types_of_columns_stay_and_types_that_cannot_be_used_keep_their_gaps(library: str) -> None:
    table = typed()
    if library == "polars":
        pl = pytest.importorskip("polars")
        table = pl.from_arrow(table).with_columns(pl.col("large").cast(pl.Enum(["b", "a"])).alias("enum"))
    model, before = train(data=table), lists(table)
    assert "day" not in model.schemas and "list" not in model.schemas
    filled = model.impute(table)
    assert filled.schema == table.schema and type(filled) is type(table)
    for name, cells in lists(filled).items():
        kept = name in ("day", "list")
        for old, new in zip(before[name], cells, strict=True):
            assert new == old if kept or old is not None else new is not None, name
    part = table[3:5] if library == "polars" else table.slice(3, 2)
    assert None not in lists(model.impute(part))["float32"]


def twice(cells: Cells) -> Any:
    table = arrow(cells)
    return table.append_column("visits", table["visits"])


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no rows": (lambda: arrow({"a": []}), "has no rows; it has the columns a"),
    "no columns": (lambda: pyarrow.table({}), "has no columns"),
    "one row": (lambda: arrow({"a": [1.0]}), "one row, which is too few"),
    "twice": (lambda: twice(CELLS), "two columns are called 'visits'"),
    "all missing": (lambda: arrow(CELLS | {"a": [None] * ROWS}), "column 'a' has no value in any row"),
    "infinite": (lambda: arrow(CELLS | {"a": [*range(ROWS - 1), float("inf")]}), "column 'a', row 23: is infinite"),
    "texts": (lambda: arrow(CELLS | {"a": [*"1" * 20, "2", "3", "x", "1"]}), "column 'a', row 22: 'x' is no number"),
    "alike": (lambda: arrow({"a b": CELLS["visits"], "a_b": CELLS["body mass"]}), "'a b' and 'a_b' both make"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_cannot_be_used_says_why(what: str) -> None:
    make, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        train(data=make())


def test_pandas_tables_that_cannot_be_used_say_why() -> None:
    pd = pytest.importorskip("pandas")
    mixed = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1, "x", 2]}, index=["i", "j", "k"])
    with pytest.raises(
        InputError, match=r"column 'b' holds values of several types: int in row 'i' and str in row 'j'"
    ):
        train(data=mixed)
    with pytest.raises(InputError, match="names of 2 levels"):
        train(data=pd.DataFrame([[1, 2], [3, 4]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])))
    with pytest.raises(InputError, match="two columns are called 'a'"):
        train(data=pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]))


@pytest.mark.parametrize("library", MAKERS)
def test_columns_without_any_value_are_filled(library: str) -> None:
    make = MAKERS[library]
    model = train(data=make(CELLS))
    empty: Cells = {"body mass": [70.5, None], "visits": [None, None], "group": [None, None], "eats": [None, None]}
    filled = lists(model.impute(make(empty)))
    assert not [name for name, cells in filled.items() if None in cells]
    assert set(filled["group"]) <= {"none", "high"} and filled["body mass"][0] == 70.5
    plain = MAKERS | {"arrow": pyarrow.table, "pandas": pytest.importorskip("pandas").DataFrame}
    nan = [float("nan")] * 2  # as pandas has columns without a value
    found = lists(model.impute(plain[library]({"group": nan, "visits": [40.0, 41.0]})))
    assert set(found["group"]) <= {"none", "high"}


def test_polars_tables_that_cannot_be_used_say_why() -> None:
    pl = pytest.importorskip("polars")
    with pytest.raises(InputError, match=r"is a LazyFrame; call its collect\(\) first"):
        train(data=pl.DataFrame(CELLS).lazy())
    mixed = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": pl.Series([1, "x", None], dtype=pl.Object)})
    with pytest.raises(InputError, match="column 'b' holds values of several types: int in row 0 and str in row 1"):
        train(data=mixed)
    model = train(data=pl.DataFrame(CELLS))
    with pytest.raises(InputError, match="has no rows; it has the columns id"):
        model.impute(pl.DataFrame(CELLS).clear())
    with pytest.raises(InputError, match=r"column 'group', row 1: .*'low'"):
        model.impute(pl.DataFrame(CELLS | {"group": ["none", "low", *CELLS["group"][2:]]}))
    with pytest.raises(InputError, match="has none of the model's columns; it has x"):
        model.impute(pl.DataFrame({"x": [1.0]}))
    one = pl.DataFrame({"visits": [None, 41, 40]}, schema={"visits": pl.Int64})
    assert None not in lists(model.impute(one))["visits"]  # fewer columns than at the fit


def test_columns_of_a_pandas_table_are_arrays(tmp_path: Any) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"n": [-1.0, 1.0, 2.0, np.nan, 4.0], "m": [1, 2, 3, 4, 5], "s": ["a", "b", None, "a", "b"]})
    frame = frame[frame["m"] > 1]  # the index begins at 1
    schemas = {"x": modalkit.schema("vector", size=2), "s": modalkit.schema("label", names=["a", "b"])}
    values, before = {"x": frame[["m", "m"]], "s": frame["s"]}, frame.copy()
    manifest = modalkit.write_dataset(tmp_path / "d", schemas, values, present={"x": frame["n"] > -1})
    assert {name: facts.present for name, facts in manifest.modalities.items()} == {"x": 3, "s": 3}
    assert frame.equals(before)


def test_importing_loads_no_table_library() -> None:
    assert "pandas" not in vars(importlib.import_module("modalkit.data.frames"))


@pytest.mark.slow
def test_a_million_rows_need_at_most_twice_their_memory() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    script = Path(__file__).parents[1] / "benchmarks" / "memory.py"
    done = subprocess.run([sys.executable, str(script), "--steps", "5"], capture_output=True, text=True, check=True)
    found = re.search(r"([\d.]+) times the frame", done.stdout)
    assert found is not None and float(found[1]) <= 2, done.stdout
