"""Covariates of the estimators: columns that are known, not explained, and not filled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import cross_val_score

from modalkit.errors import InputError
from modalkit.sklearn import MultimodalClassifier, MultimodalEmbedder, MultimodalImputer, MultimodalRegressor, load

ROWS = 80


def table() -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Return two measurements of a state, which each site moves, with gaps; and the state."""
    random = np.random.default_rng(0)
    site, state = random.integers(0, 2, ROWS), random.normal(size=ROWS)
    frame = pd.DataFrame(
        {
            "a": state + 3 * site + 0.1 * random.normal(size=ROWS),
            "b": 2 * state - 4 * site + 0.1 * random.normal(size=ROWS),
            "site": pd.Categorical.from_codes(site, ["north", "south"]),
            "dose": random.normal(size=ROWS),
            "year": np.full(ROWS, 2020.0),
        }
    )
    frame.loc[3, "a"], frame.loc[4, "site"], frame.loc[5, ["a", "b", "dose"]] = np.nan, np.nan, np.nan
    frame.loc[7, "year"] = np.nan
    return frame, state


FRAME, STATE = table()
CONDITIONS = ["site", "dose", "year"]


@pytest.fixture(scope="module")
def imputer() -> MultimodalImputer:
    return MultimodalImputer(covariates=CONDITIONS, epochs=2, n_imputations=2).fit(FRAME)


def test_covariates_come_back_unchanged_and_the_rest_is_predicted_given_them(imputer: MultimodalImputer) -> None:
    filled = imputer.transform(FRAME)
    pd.testing.assert_frame_equal(filled[CONDITIONS], FRAME[CONDITIONS])
    assert not filled[["a", "b"]].isna().any().any()
    south = FRAME.loc[3, "site"] == "south"
    assert filled.loc[3, "a"] == pytest.approx(STATE[3] + 3 * south, abs=0.5)
    doubt = imputer.uncertainty(FRAME)
    assert doubt[CONDITIONS].isna().all().all() and doubt.loc[5, "a"] > 2 * doubt.loc[3, "a"] > 0
    for one in imputer.imputations(FRAME):
        pd.testing.assert_frame_equal(one[CONDITIONS], FRAME[CONDITIONS])


def test_a_row_without_measurements_is_what_its_site_is_like(imputer: MultimodalImputer) -> None:
    nothing = FRAME.iloc[:2].assign(a=np.nan, b=np.nan, site=pd.Categorical(["north", "south"]), dose=0.0)
    north, south = imputer.transform(nothing)[["a", "b"]].to_numpy()
    np.testing.assert_allclose(south - north, [3, -4], atol=0.8)


def test_a_site_that_was_not_seen_is_named_or_absent(imputer: MultimodalImputer) -> None:
    new = FRAME.assign(site="west")
    with pytest.raises(InputError, match="column 'site', row 0: 'west' was not seen in fit"):
        imputer.transform(new)
    lenient = copy.deepcopy(imputer).set_params(handle_unknown="missing")
    assert lenient.transform(new)["site"].eq("west").all()


def test_a_saved_imputer_knows_its_covariates(imputer: MultimodalImputer, tmp_path: Path) -> None:
    imputer.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(load(tmp_path / "saved").transform(FRAME), imputer.transform(FRAME))


def test_an_embedding_does_not_tell_the_site() -> None:
    z = MultimodalEmbedder(covariates=["site"], epochs=2, latent_dim=1).fit_transform(FRAME[["a", "b", "site"]])[:, 0]
    known = FRAME["site"].notna() & FRAME["a"].notna()
    assert abs(np.corrcoef(z[known], STATE[known])[0, 1]) > 0.95
    apart = np.array([z[known & (FRAME["site"] == site)].mean() for site in ("north", "south")])
    state = np.array([STATE[known & (FRAME["site"] == site)].mean() for site in ("north", "south")])
    assert abs(abs(apart[1] - apart[0]) - abs(state[1] - state[0])) < 0.3  # the sites differ by 3 and 4 in what it sees


def test_predictors_are_conditioned_too() -> None:
    y = STATE + 5 * (FRAME["site"] == "south")
    regressor = MultimodalRegressor(covariates=["site"], epochs=2)
    assert cross_val_score(regressor, FRAME[["a", "site"]], y, cv=2).mean() > 0.9
    alone = regressor.fit(FRAME[["site"]], y).predict(FRAME[["site"]])  # only covariates: y is explained given them
    assert alone[FRAME["site"] == "south"].mean() > alone[FRAME["site"] == "north"].mean()
    classifier = MultimodalClassifier(covariates=["site"], epochs=2).fit(FRAME[["a", "site"]], STATE > 0)
    assert classifier.score(FRAME[["a", "site"]], STATE > 0) > 0.8


PAIR = {"a": {"kind": "vector", "size": 1}, "site": {"kind": "label", "classes": 2}}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"covariates": "site"}, r"covariates: give a list of columns, such as \['site'\]"),
    "number": ({"covariates": 1}, r"covariates: give a list of columns, such as \[1\]"),
    "list": ({"covariates": [["site"]]}, "covariates: there is no column .'site'."),
    "unknown": ({"covariates": ["sites"]}, "covariates: there is no column 'sites' .did you mean 'site'"),
    "part": (
        {"covariates": ["a"], "modalities": {"both": ["a", "b"]}},
        "'both': 'a' is a covariate, and other columns of 'both' are not",
    ),
    "role": (
        {"modalities": {"site": {"columns": ["site"], "role": "covariate"}}},
        "'site': name its columns in `covariates`",
    ),
    "recipe": ({"covariates": ["site"], "recipe": {"modalities": PAIR}}, "recipe: 'site': .* the recipe does not say"),
    "covariates": (
        {"recipe": {"modalities": PAIR | {"site": PAIR["site"] | {"role": "covariate"}}}},
        "recipe: 'site': is a covariate, but `covariates` does not name its columns",
    ),
    "kind": (
        {"covariates": ["n"], "modalities": {"n": {"columns": ["n"], "kind": "counts"}}},
        "the kind counts cannot be a covariate",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_a_covariate_is_named(name: str) -> None:
    parameters, message = WRONG[name]
    frame = FRAME[["a", "site"]].assign(**({"b": FRAME["b"]} if name == "part" else {}))
    frame = frame.assign(n=np.arange(ROWS) % 7) if name == "kind" else frame
    with pytest.raises(InputError, match=message):
        MultimodalImputer(epochs=1, **parameters).fit(frame)


def test_a_table_of_covariates_alone_teaches_nothing() -> None:
    with pytest.raises(InputError, match="no column that is no covariate holds two different values"):
        MultimodalEmbedder(covariates=["site"]).fit(FRAME[["site", "year"]])
