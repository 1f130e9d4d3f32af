"""Several tables joined by the ids of their rows: trained on, asked, and returned as one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow
import pytest

import modalkit
from modalkit.errors import InputError

RNG = np.random.default_rng(0)
IDS = [f"p{row}" for row in range(24)]
Z = RNG.normal(size=24)
BLOOD = {
    "patient": IDS[:18],
    "iron": (12 + 2 * Z[:18]).round(2).tolist(),
    "visits": [round(40 + 5 * z) for z in Z[:18]],
}
SCANS = {"patient": IDS[:4:-1], "volume": (3 + Z[:4:-1]).tolist(), "sick": (Z[:4:-1] > 0).tolist()}
Cells = dict[str, list[Any]]
Make = Callable[[Cells], Any]


def pandas(cells: Cells) -> Any:
    return pytest.importorskip("pandas").DataFrame(cells)


def polars(cells: Cells) -> Any:
    return pytest.importorskip("polars").DataFrame(cells)


MAKERS: dict[str, Make] = {"arrow": pyarrow.table, "pandas": pandas, "polars": polars}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


def lists(table: Any) -> Cells:
    """Return the cells of a table, its index included, None where missing."""
    if hasattr(table, "reset_index"):
        table = pyarrow.Table.from_pandas(table.reset_index(), preserve_index=False)
    return dict(table.to_pydict() if isinstance(table, pyarrow.Table) else table.to_dict(as_series=False))


def train(*given: Any, **more: Any) -> modalkit.TrainedModel:
    return modalkit.train(*given, **({"progress": False, "set": {"train.max_steps": 1}} | more))


def test_a_row_for_each_id_lacks_what_its_tables_lack(make: Make) -> None:
    tables = {"blood": make(BLOOD), "scans": make(SCANS)}
    before = {name: lists(table) for name, table in tables.items()}
    found = lists(modalkit.join(tables, id="patient"))
    assert {name: lists(table) for name, table in tables.items()} == before
    order = [*BLOOD["patient"], *(one for one in SCANS["patient"] if one not in BLOOD["patient"])]
    assert found["patient"] == order and set(order) == set(IDS)
    for cells in (BLOOD, SCANS):
        own = {title: dict(zip(cells["patient"], cells[title], strict=True)) for title in cells}
        for title, by_id in own.items():
            if title != "patient":
                assert found[title] == [by_id.get(one) for one in order], title
    assert all(isinstance(one, (int, type(None))) for one in found["visits"])  # no float because some are missing


def test_tables_train_a_model_that_fills_all_their_rows(make: Make, tmp_path: Any) -> None:
    tables = {"blood": make(BLOOD), "scans": make(SCANS)}
    model = train(data=tables, run=tmp_path / "run", id="patient")
    assert set(model.modalities) == {"iron", "visits", "volume", "sick"}  # ids are learned by nobody
    dataset = modalkit.Dataset(tmp_path / "run" / "data")
    there = dict(zip(dataset.names, dataset.present.T.tolist(), strict=True))
    keys = [dataset.key(row) for row in range(len(dataset))]
    for name, cells in (("iron", BLOOD), ("visits", BLOOD), ("volume", SCANS), ("sick", SCANS)):
        assert there[name] == [key in cells["patient"] for key in keys], name
    joined = modalkit.join(tables, id="patient")
    before, filled = lists(joined), lists(model.impute(joined))
    for name, cells in filled.items():
        assert None not in cells
        assert all(new == old for old, new in zip(before[name], cells, strict=True) if old is not None), name
    assert model.embed(joined).loc.shape[0] == 24


def test_tables_of_pandas_join_by_their_index() -> None:
    tables = {name: pandas(cells).set_index("patient") for name, cells in (("a", BLOOD), ("b", SCANS))}
    model = train(data=tables)
    filled = model.impute(tables)
    assert filled.index.name == "patient" and set(filled.index) == set(IDS) and not filled.isna().any(axis=None)
    assert filled.equals(model.impute(modalkit.join(tables)))
    assert len(model.infer(tables, want=["volume"])["volume"].value) == 24


def test_the_ids_of_one_table_are_not_learned(make: Make, tmp_path: Any) -> None:
    numbers = [100 + 3 * row**2 for row in range(18)]  # would be a modality of numbers
    model = train(data=make(BLOOD | {"patient": numbers}), id="patient", run=tmp_path / "run")
    assert set(model.modalities) == {"iron", "visits"}
    assert modalkit.Dataset(tmp_path / "run" / "data").key(2) == "112"


def wrong(first: Cells, second: Cells, **given: Any) -> Callable[[Make], Any]:
    return lambda make: modalkit.join({"blood": make(first), "scans": make(second)}, **{"id": "patient", **given})


TWICE = [*BLOOD["patient"][:-1], "p3"]
WRONG: dict[str, tuple[Callable[[Make], Any], str]] = {
    "an id twice": (
        wrong(BLOOD | {"patient": TWICE}, SCANS),
        "table 'blood': the id 'p3' is in the rows 3 and 17, counted from 0",
    ),
    "no id": (
        wrong(BLOOD | {"patient": [None, *IDS[1:18]]}, SCANS),
        "table 'blood': row 0, counted from 0, has no id",
    ),
    "no such column": (
        wrong(BLOOD, SCANS, id="case"),
        "table 'blood': has no column.* 'case' with ids; it has patient",
    ),
    "a common column": (
        wrong(BLOOD, SCANS | {"iron": SCANS["volume"]}),
        "the tables 'blood' and 'scans' both have a column 'iron'",
    ),
    "no common id": (
        wrong(BLOOD, SCANS | {"patient": range(19)}),
        "'blood' has no id in common with the others",
    ),
    "no rows": (wrong({"patient": []}, SCANS), "table 'blood': the table has no rows"),
    "no table": (lambda make: modalkit.join({"blood": make(BLOOD), "scans": [1]}), "'scans' is a list, not a table"),
    "nothing": (lambda make: modalkit.join({}), "give a mapping from names to tables"),
    "no ids named": (
        lambda make: train(data={"a": make(BLOOD), "b": make(SCANS)}),
        "'a': has no i.*id='patient'",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_tables_that_cannot_be_joined_say_why(what: str, make: Make) -> None:
    given, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        given(make)


def test_tables_of_two_libraries_and_ids_of_several_levels_are_refused() -> None:
    blood, scans = pandas(BLOOD), pandas(SCANS)
    with pytest.raises(InputError, match="'a' and 'b' are of two libraries"):
        modalkit.join({"a": blood, "b": pyarrow.table(SCANS)}, id="patient")
    with pytest.raises(InputError, match="'b': has an index of 2 levels"):
        modalkit.join({"a": blood.set_index("patient"), "b": scans.set_index(["patient", "sick"])})
    with pytest.raises(InputError, match="'a': has no ids, because its index counts the rows"):
        modalkit.join({"a": blood[["iron"]], "b": scans.set_index("patient")})
    with pytest.raises(InputError, match="id: is for tables"):
        train(data={"a": [1.0, 2.0]}, id="patient")
