"""Cells in AnnData and MuData: trained on as they are, and written back with what the model says of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.documents import follow

import modalkit
from modalkit.data import Dataset
from modalkit.errors import InputError

anndata = pytest.importorskip("anndata", reason="AnnData needs the package anndata (extra `cells`)")
mudata = pytest.importorskip("mudata", reason="MuData needs the package mudata (extra `cells`)")
pd = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")

CELLS = [f"c{i}" for i in range(24)]
RNG = np.random.default_rng(0)
Z = RNG.normal(size=24)
GENES = RNG.poisson(np.exp(1 + np.outer(Z, [0.5, -0.5, 0.2, 0.0]))).astype("float32")
PROTEINS = (5 + np.outer(Z, [1, 2, -1]) + RNG.normal(size=(24, 3))).astype("float32")


def rna(rows: slice = slice(0, 18), form: Callable[[Any], Any] = sparse.csr_matrix) -> Any:
    names = pd.DataFrame(index=[f"gene{i}" for i in range(4)])
    obs = pd.DataFrame({"type": np.where(Z > 0, "T", "B")[rows], "age": (50 + 9 * Z)[rows]}, index=CELLS[rows])
    return anndata.AnnData(form(GENES[rows]), obs=obs, var=names, layers={"logs": np.log1p(GENES[rows])})


def proteins(rows: slice = slice(6, 24)) -> Any:
    obs = pd.DataFrame(index=CELLS[rows][::-1])
    return anndata.AnnData(PROTEINS[rows][::-1].copy(), obs=obs, var=pd.DataFrame(index=["CD3", "CD4", "CD8"]))


def cells() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata announces how it will update in future
        return mudata.MuData({"rna": rna(), "prot": proteins()})


def train(*given: Any, **more: Any) -> modalkit.TrainedModel:
    return modalkit.train(*given, **({"progress": False, "set": {"train.max_steps": 1}} | more))


def contents(data: Any) -> dict[str, Any]:
    """Return all that an object holds, as texts and arrays."""
    mods = data.mod if hasattr(data, "mod") else {"X": data}
    dense = {name: mod.X.toarray() if sparse.issparse(mod.X) else np.array(mod.X) for name, mod in mods.items()}
    return {"X": {n: v.tolist() for n, v in dense.items()}, "obs": data.obs.to_csv(), "obsm": sorted(data.obsm)}


def test_each_matrix_is_a_modality_and_each_cell_a_row(tmp_path: Path) -> None:
    data = cells()
    before = contents(data)
    model = train(data=data, obs=["rna:type"], run=tmp_path / "run")
    assert contents(data) == before
    assert {name: schema.kind for name, schema in model.schemas.items()} == {
        "rna": "counts",
        "prot": "vector",
        "rna_type": "label",
    }
    assert model.schemas["prot"].part_names == ("CD3", "CD4", "CD8")
    dataset = Dataset(tmp_path / "run" / "data")
    keys = [dataset.key(row) for row in range(len(dataset))]
    assert keys == list(data.obs_names) and set(keys) == set(CELLS)
    for name, own, values in (("rna", CELLS[:18], GENES), ("prot", CELLS[6:], PROTEINS)):
        there = dataset.present[:, dataset.names.index(name)].tolist()
        assert there == [key in own for key in keys]
        stored = dataset.values(name, dataset.rows("train")).numpy()
        for row, value in zip(dataset.rows("train").tolist(), stored, strict=True):
            assert value.tolist() == (values[CELLS.index(keys[row])].tolist() if there[row] else [0] * values.shape[1])
    standard = model.schemas["prot"].standardize
    training = dataset.values("prot", dataset.rows("train"))[dataset.present[dataset.rows("train"), 1]]
    assert np.allclose(standard.loc, training.double().mean(0)) and np.allclose(
        standard.scale, training.double().std(0, correction=0)
    )


def test_what_the_model_says_is_written_back_by_annotate_alone() -> None:
    data = cells()
    model = train(data=data, obs="rna:type")
    modalkit.annotate(model, data, impute=["prot", "rna_type"])
    assert data.obsm["X_modalkit"].shape == (24, model.latent_dim) and np.isfinite(data.obsm["X_modalkit"]).all()
    filled = data.obsm["prot_modalkit"]
    assert list(filled.columns) == ["CD3", "CD4", "CD8"] and list(filled.index) == list(data.obs_names)
    assert np.array_equal(filled.loc[CELLS[6:]], PROTEINS[6:]) and not filled.isna().any(axis=None)
    types = data.obs["rna_type_modalkit"]
    assert types[CELLS[:18]].tolist() == data.obs["rna:type"][CELLS[:18]].tolist() and set(types) <= {"T", "B"}
    alone = modalkit.inference.as_batch(model.schemas, {"prot": PROTEINS[19:]})
    assert np.allclose(
        model.embed(alone).loc, data.obsm["X_modalkit"][data.obs_names.get_indexer(CELLS[19:])], atol=1e-5
    )


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_an_anndata_is_one_modality_whose_gaps_go_to_a_layer(form: Callable[[Any], Any], tmp_path: Path) -> None:
    data = rna(slice(0, 24), form)
    model = train(data=data, obs=["type", "age"])
    assert {name: schema.kind for name, schema in model.schemas.items()} == {
        "X": "counts",
        "type": "label",
        "age": "vector",
    }
    unknown = rna(slice(0, 24), form)[:, ::-1].copy()  # its variables are in another order
    del unknown.obs["type"]
    modalkit.annotate(model, unknown, impute=["X", "type"])
    assert np.array_equal(unknown.layers["modalkit"], GENES[:, ::-1])
    assert set(unknown.obs["type_modalkit"]) <= {"T", "B"}


def test_a_layer_can_be_learned_and_its_missing_values_filled() -> None:
    data = rna()
    data.layers["logs"][3] = np.nan
    data.layers["logs"][4, 1] = np.nan
    model = train(data=data, layer="logs", obs=["age"])
    assert model.schemas["X"].kind == "vector"
    modalkit.annotate(model, data, layer="logs", impute=["X"])
    made, known = data.layers["modalkit"], ~np.isnan(data.layers["logs"])
    assert np.isfinite(made).all() and np.array_equal(made[known], data.layers["logs"][known])
    assert (~known).sum() == 5  # what was given has not changed


def test_few_rows_are_dense_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalkit.data.annotated.VALUES", 40)
    monkeypatch.setattr("modalkit.api.writing._VALUES", 40)
    data, other = cells(), cells()
    modalkit.annotate(train(data=data), data)
    monkeypatch.undo()
    modalkit.annotate(train(data=other), other)
    assert np.allclose(data.obsm["X_modalkit"], other.obsm["X_modalkit"], atol=1e-5)


def test_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    rna().write_h5ad(tmp_path / "cells.h5ad")
    data = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = train(data=data, obs=["age"])
    assert model.schemas["X"].kind == "counts"


def test_a_recipe_says_what_matrices_are() -> None:
    recipe = {
        "modalities": {
            "prot": {"kind": "vector", "size": 3, "scale": 0.5},
            "rna_type": {"kind": "label", "names": ["B", "T"]},
        },
        "train": {"epochs": 1},
    }
    data = cells()
    data.obs["rna_type"] = data.obs.pop("rna:type")
    model = train(recipe, data)
    assert model.modalities == ("prot", "rna_type") and model.schemas["prot"].scale == 0.5
    with pytest.raises(InputError, match="no column 'x' for the modality 'x'"):
        train({"modalities": {"x": {"kind": "bit"}}}, data)


def twice(names: str) -> Any:
    data = rna()
    setattr(data, names, ["same"] * len(getattr(data, names)))
    return data


def infinite() -> Any:
    data = rna(form=np.array)
    data.X[2, 1] = np.inf
    return data


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "rows twice": (
        lambda: train(data=twice("obs_names")),
        r"\(obs_names\): 'same' is there twice.*obs_names_make_unique",
    ),
    "variables twice": (lambda: train(data=twice("var_names")), r"\(var_names\) of 'X': 'same' is there twice"),
    "no rows": (lambda: train(data=rna(slice(0, 0))), "data: has no rows"),
    "no layer": (lambda: train(data=rna(), layer="counts"), "'X' has no layer 'counts'; it has logs"),
    "no such modality": (lambda: train(data=cells(), layer={"atac": "x"}), "layer: there is no modality 'atac'"),
    "no column": (lambda: train(data=rna(), obs=["Type"]), "obs: there is no column 'Type' .did you mean 'type'"),
    "useless column": (lambda: train(data=useless(), obs=["one"]), "no column can be used: one: 'a' in every row$"),
    "infinite": (lambda: train(data=infinite()), "'X', row 'c2', variable 'gene1' is infinite"),
    "no cells": (lambda: train(data={"a": [1.0, 2.0]}, obs=["a"]), "obs: is for AnnData and MuData; data is a dict"),
    "by variables": (lambda: train(data=mudata.MuData({"a": rna()}, axis=1)), "axis=1"),
}


def useless() -> Any:
    data = rna()
    data.obs["one"] = "a"
    return data


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", WRONG)
def test_cells_that_cannot_be_used_say_why(what: str) -> None:
    given, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        given()


def test_cells_that_do_not_fit_the_model_say_why() -> None:
    model = train(data=rna(), obs=["type"])
    with pytest.raises(InputError, match="'X' lacks 1 of the model's 4 variables: gene3"):
        modalkit.annotate(model, rna()[:, :3])
    with pytest.raises(InputError, match=r"variable 'gene.': .* is no whole number; choose the layer"):
        modalkit.annotate(model, rna(), layer="logs")
    with pytest.raises(InputError, match="no modality 'Y'"):
        modalkit.annotate(model, rna(), impute=["Y"])
    with pytest.raises(InputError, match="has none of the model's modalities; it has rna, prot"):
        modalkit.annotate(model, mudata.MuData({"rna": rna(), "prot": proteins()}))
    with pytest.raises(InputError, match="data is a dict; give an AnnData"):
        modalkit.annotate(model, {})
    with pytest.raises(InputError, match=r"modalkit.annotate\(model, data\)"):
        model.embed(rna())
    data = rna()
    data.obs.loc["c1", "type"] = "NK"
    with pytest.raises(InputError, match=r"column 'type', row 'c1'.*NK"):
        modalkit.annotate(model, data)
    assert not list(data.obsm)


def made_cells(folder: Path) -> tuple[Any, Any, Any]:
    """Write cells of five types into `folder`, some without proteins, some without genes.

    Returns:
        The types, all proteins, and the means that they were sampled from.
    """
    rng, rows = np.random.default_rng(0), 2000
    kind = rng.integers(5, size=rows)
    z = rng.normal(size=(5, 6))[kind] * 1.2 + 0.4 * rng.normal(size=(rows, 6))
    genes = np.exp(-0.5 + z @ rng.normal(scale=0.5, size=(6, 200))) * rng.lognormal(0, 0.3, size=(rows, 1))
    means = np.exp(3 + z @ rng.normal(scale=0.35, size=(6, 20)))
    prot = rng.poisson(rng.gamma(8, means / 8)).astype("float32")
    whole = {"rna": rng.poisson(rng.gamma(4, genes / 4)).astype("float32"), "prot": prot}
    lost, obs = rng.random(rows), pd.DataFrame(index=[f"cell{i}" for i in range(rows)])
    there = {"rna": lost >= 0.15, "prot": (lost < 0.15) | (lost >= 0.45)}
    mods = {name: anndata.AnnData(sparse.csr_matrix(x[there[name]]), obs=obs[there[name]]) for name, x in whole.items()}
    mudata.MuData(mods).write(folder / "cells.h5mu")
    return kind, prot, means


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_about_cells_imputes_proteins_and_tells_types_apart(tmp_path: Path) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    kind, prot, means = made_cells(tmp_path)
    data = follow("cells.md", tmp_path)["data"]
    order = data.obs_names.get_indexer([f"cell{i}" for i in range(len(kind))])
    has = {name: data.obsm[name].ravel()[order].astype(bool) for name in ("rna", "prot")}
    filled, z = data.obsm["prot_modalkit"].to_numpy()[order], data.obsm["X_modalkit"][order]
    assert np.array_equal(filled[has["prot"]], prot[has["prot"]])

    def error(guess: Any) -> Any:
        return np.sqrt(np.square(np.log1p(guess) - np.log1p(prot))[~has["prot"]].mean(0))

    baseline = error(np.expm1(np.log1p(prot[has["prot"]]).mean(0)))
    found, best = (error(filled) / baseline).mean(), (error(means) / baseline).mean()
    right = [
        neighbors.KNeighborsClassifier(15).fit(z[one], kind[one]).score(z[~one], kind[~one])
        for one in (has["prot"], has["rna"])
    ]
    print(f"error {found:.3f}, of the true means {best:.3f}; types without proteins, without genes: {right}")
    assert best < found < best + 0.1 and right[0] > 0.97 and right[1] > 0.88
