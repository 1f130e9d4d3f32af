"""The estimators for scikit-learn: tables come back as they went in, pipelines, saving, and messages."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from modalkit.errors import InputError
from modalkit.sklearn import (
    MultimodalClassifier,
    MultimodalEmbedder,
    MultimodalImputer,
    MultimodalRegressor,
    load,
    pool,
)


@parametrize_with_checks(
    [MultimodalImputer(), MultimodalEmbedder(), MultimodalRegressor(), MultimodalClassifier()]
)  # no check is expected to fail
@pytest.mark.slow
def test_scikit_learns_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def table(rows: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    size = random.normal(size=rows)
    frame = pd.DataFrame(
        {
            "size": 100 + 5 * size,
            "weight": (2 * size + 0.1 * random.normal(size=rows)).astype("float32"),
            "count": pd.array(np.rint(10 + 3 * size).astype(int), "Int64"),
            "big": pd.array(size > 0, "boolean"),
            "grade": pd.Categorical.from_codes((size > 0.5).astype(int), ["low", "high", "never"]),
            "town": np.where(size > 0, "Bern", "Rome").astype(object),
            "same": np.ones(rows),
            "flag": (size > -0.5).astype(int),
        },
        index=pd.Index([f"r{row}" for row in range(rows)], name="row"),
    )
    for column, row in enumerate(range(3, 10)):
        frame.iloc[row, column] = None
    return frame


FRAME = table()


@pytest.fixture(scope="module")
def imputer() -> MultimodalImputer:
    return MultimodalImputer(epochs=1, add_indicator=True, n_imputations=2).fit(FRAME)


@pytest.fixture(scope="module")
def regressor() -> MultimodalRegressor:
    X = np.random.default_rng(1).normal(size=(60, 2))
    return MultimodalRegressor(epochs=1).fit(X, 1000 + 50 * X[:, 0])


def test_a_frame_returns_as_it_went_in(imputer: MultimodalImputer) -> None:
    before = FRAME.copy(deep=True)
    filled = imputer.transform(FRAME)
    pd.testing.assert_frame_equal(FRAME, before)
    own = filled[FRAME.columns]
    assert own.index.equals(FRAME.index) and (own.dtypes == FRAME.dtypes).all() and not own.isna().any().any()
    pd.testing.assert_frame_equal(own.where(FRAME.notna()), FRAME)
    assert filled.columns.tolist() == imputer.get_feature_names_out().tolist()
    assert filled["missingindicator_size"].tolist() == FRAME["size"].isna().tolist()
    assert filled["same"].eq(1).all() and filled.loc["r8", "town"] in ("Bern", "Rome")
    assert abs(filled.loc["r3", "size"] - 100) < 20


def test_samples_differ_and_what_is_uncertain_has_a_number(imputer: MultimodalImputer) -> None:
    one, two = imputer.imputations(FRAME)
    assert one.loc["r3", "size"] != two.loc["r3", "size"] and one.dtypes.equals(two.dtypes)
    doubt = imputer.uncertainty(FRAME)
    assert (doubt.isna() == FRAME.notna()).all().all() and doubt.index.equals(FRAME.index)
    assert 0 < doubt.loc["r3", "size"] < 10 and 0 <= doubt.loc["r7", "grade"] < 1 and doubt.loc["r9", "same"] == 0


def test_each_imputation_can_have_a_model_of_its_own() -> None:
    X = np.where(np.random.default_rng(0).random((30, 2)) < 0.2, np.nan, np.arange(60.0).reshape(30, 2))
    fitted = MultimodalImputer(epochs=1, bootstrap=True, n_imputations=2).fit(X)
    one, two = fitted.imputations(X)
    assert len(fitted.bootstrapped_) == 2 and (one != two)[np.isnan(X)].all() and (one == two)[~np.isnan(X)].all()


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "save"])
def test_a_fitted_estimator_needs_no_file(
    copied: str, imputer: MultimodalImputer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    if copied == "save":
        imputer.save(tmp_path / "saved")
        other = load(tmp_path / "saved")
    else:
        other = pickle.loads(pickle.dumps(imputer)) if copied == "pickle" else copy.deepcopy(imputer)
    assert other is not imputer and other.get_params() == imputer.get_params()
    pd.testing.assert_frame_equal(other.transform(FRAME), imputer.transform(FRAME))
    assert not list((tmp_path / "temporary").iterdir())


def test_a_regressor_is_sure_of_what_it_can_know(regressor: MultimodalRegressor, tmp_path: Path) -> None:
    X = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 0.0]])
    mean, std = regressor.predict(X, return_std=True)
    np.testing.assert_allclose(mean, [1000, 1050, 1000], atol=20)
    assert std[0] < 15 and 2 * std[0] < std[2] < 70  # without the first column, it can be anything
    assert regressor.predict(X[1:2]) == pytest.approx(mean[1:2], rel=1e-12)  # whatever rows are beside it
    regressor.save(tmp_path / "saved")
    np.testing.assert_array_equal(load(tmp_path / "saved").predict(X), mean)


def test_pipelines_searches_and_columns() -> None:
    frame = FRAME[["size", "weight", "town"]]
    target = np.where(FRAME["flag"] == 1, "yes", "no")
    step = ColumnTransformer([("numbers", MultimodalImputer(epochs=1), ["size", "weight"])])
    step.set_output(transform="pandas")
    assert make_pipeline(step, LinearRegression()).fit(frame, FRAME["flag"]).predict(frame).shape == (40,)
    assert step.fit_transform(frame).columns.tolist() == ["numbers__size", "numbers__weight"]
    classifier = MultimodalClassifier(epochs=1)
    assert cross_val_score(classifier, frame, target, cv=2).mean() > 0.5
    search = GridSearchCV(classifier, {"latent_dim": [2]}, cv=2).fit(frame, target)
    assert search.best_estimator_.trained_.model.latent_dim == 2
    assert search.predict_proba(frame).sum(1) == pytest.approx(1) and set(search.classes_) == {"no", "yes"}


def test_columns_can_be_grouped_and_have_kinds_and_settings() -> None:
    groups = {"body": ["size", "weight"], "n": {"columns": ["count"], "kind": "counts"}}
    embedder = MultimodalEmbedder(
        modalities=groups, epochs=1, latent_dim=2, settings={"train.batch_size": 7}, handle_unknown="missing"
    )
    frame = FRAME[["size", "weight", "count", "grade"]]
    z = clone(embedder).set_output(transform="pandas").fit_transform(frame)
    assert z.columns.tolist() == ["multimodalembedder0", "multimodalembedder1"] and z.index.equals(frame.index)
    embedder.fit(frame)
    recipe = embedder.trained_.model.recipe
    assert {name: schema.kind for name, schema in recipe.modalities.items()} == {
        "body": "vector",
        "n": "counts",
        "grade": "label",
    }
    assert recipe.train.batch_size == 7 and (embedder.uncertainty(frame) > 0).all()
    with pytest.raises(InputError, match="kind counts cannot hold -1 in column 'count'"):
        embedder.transform(frame.assign(count=-1))


def array(*values: Any) -> Any:
    return np.array([[value, 1.0] for value in values], dtype=object)


MULTI = pd.DataFrame(np.ones((3, 2)), columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]))
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "twice": (FRAME[["size", "size"]], {}, "more than one column 'size'"),
    "levels": (MULTI, {}, "MultiIndex"),
    "dates": (FRAME.assign(day=pd.Timestamp("2020-01-01")), {}, "column 'day': holds datetime64.*convert it"),
    "mixture": (FRAME.assign(town=["a", 1] * 20), {}, "column 'town': holds a category ..a.. and a number .1."),
    "objects": (array({}, 2), {}, "column 0: .* a dict cannot be used"),
    "names": (pd.DataFrame({"id": [f"n{i}" for i in range(60)]}), {}, "column 'id': holds 60 different texts"),
    "nothing": (FRAME.assign(size=np.nan), {}, "column 'size': all of its cells are missing"),
    "infinity": (FRAME.assign(size=np.inf), {}, "column 'size': row 0 holds infinity"),
    "group": (FRAME, {"modalities": {"a": ["sizes"]}}, "'a': there is no column 'sizes' .did you mean 'size'"),
    "groups": (FRAME, {"modalities": {"a": ["size"], "b": ["size"]}}, "column 'size' is in 'a' and in 'b'"),
    "sorts": (FRAME, {"modalities": {"a": ["size", "town"]}}, "'a': 'town' holds categories"),
    "kind": (FRAME, {"modalities": {"a": {"columns": ["size"], "kind": "vectr"}}}, "'a': unknown kind 'vectr'"),
    "unknown": (FRAME, {"handle_unknown": "skip"}, "handle_unknown: should be 'error' or 'missing'"),
    "recipe": (
        FRAME[["size"]],
        {"recipe": {"modalities": {"a": {"kind": "bit"}}}},
        "recipe: lists the modalities a; the columns make size",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_named(name: str) -> None:
    X, parameters, message = WRONG[name]
    with pytest.raises(InputError, match=message) as error:
        MultimodalImputer(**parameters).fit(X)
    assert isinstance(error.value, ValueError)


def test_a_category_that_was_not_seen_is_named_or_missing(imputer: MultimodalImputer) -> None:
    new = FRAME.assign(town="Oslo")
    with pytest.raises(InputError, match="column 'town', row 0: 'Oslo' was not seen"):
        imputer.transform(new)
    lenient = copy.deepcopy(imputer).set_params(handle_unknown="missing")
    assert lenient.transform(new)["town"].eq("Oslo").all()
    with pytest.raises(ValueError, match="town"):
        imputer.transform(FRAME.drop(columns="town"))


def test_columns_that_hold_nothing_are_left_out_of_an_embedding() -> None:
    with pytest.warns(UserWarning, match="all cells of void are missing"):
        embedder = MultimodalEmbedder(epochs=1).fit(FRAME[["size", "weight"]].assign(void=np.nan))
    assert [group.modality for group in embedder.groups_] == ["size", "weight"]


def test_pooling_follows_rubins_rules() -> None:
    pooled = pool([[1.0, 5.0], [3.0, 5.0]], [[0.5, 0.2], [0.5, 0.4]], df=10)
    np.testing.assert_allclose(pooled.estimate, [2, 5])
    np.testing.assert_allclose(pooled.variance, [0.5 + 1.5 * 2, 0.3])
    share = 3 / 3.5
    np.testing.assert_allclose(pooled.df, [1 / (share**2 + 13 / (11 * 10 * (1 - share))), 10 * 11 / 13])
    low, high = pooled.interval()
    np.testing.assert_allclose((low + high) / 2, pooled.estimate)
    with pytest.raises(InputError, match="1 estimate is too few"):
        pool([1.0], [1.0])


def test_torch_is_imported_when_an_estimator_is_fitted() -> None:
    code = "import modalkit.sklearn as s, sys; s.MultimodalImputer(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
