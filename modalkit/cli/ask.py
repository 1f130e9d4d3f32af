"""Commands that ask a trained model, and serve: heavy imports wait until one is called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from modalkit.errors import InputError, install

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
Data = Annotated[
    Path | None, typer.Argument(metavar="DATASET", help="A dataset's folder; by default the one it was trained on.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
Draws = Annotated[int, typer.Option(min=1, help="Draws of z a row, which predictions are averaged over.")]
Noise = Annotated[
    bool, typer.Option("--noise", help="Draw samples from the likelihoods, in place of their means and modes.")
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="The folder to make, or one with an earlier answer.")]
Want = Annotated[str | None, typer.Option(help="What to predict: modalities, separated by commas.")]


def translate(
    run: Run,
    given: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="What is known: a picture's path, a class, a text, numbers, a .npy, .json or .txt file; repeatable.",
        ),
    ],
    out: Folder,
    want: Want = None,
    samples: Annotated[int, typer.Option(min=0, help="How many samples to write beside the mean.")] = 8,
    draws: Draws = 32,
    noise: Noise = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Predict modalities from others: any from any.

    Prints the answer, and writes the mean (of classes and texts the mode) and samples of each as files that open
    anywhere, sheet.png with all side by side where there are pictures, and answer.json with the figures. Without
    --want, all that is not given is predicted.

    Example: modalkit translate runs/quickstart --given gray=photo.jpg --want image,edges -o out
    """
    from modalkit.inference import as_batch, load
    from modalkit.inference.answers import answer, earlier_files, told, write_answer

    earlier_files(out)
    known = _values(given)
    model = load(run, device=device)
    batch = as_batch(model.schemas, known)
    found = model.infer(batch, _names(want), samples, draws=draws, noise=noise, seed=seed)
    files, figures = answer(model.schemas, batch, found)
    posterior = {"loc": found.posterior.loc[0].tolist(), "scale": found.posterior.scale[0].tolist()}
    about = {"run": str(run), "weights": model.weights, "given": known, "seed": seed, "draws": max(draws, samples)}
    written = write_answer(out, files, {**about, "posterior": posterior, "predictions": figures})
    for line in told(figures, written):
        typer.echo(line)


def sample(
    run: Run,
    out: Folder,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 16,
    want: Want = None,
    noise: Noise = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw from the prior, every modality of one draw belonging together.

    Written as `translate` does; where there are no pictures, as one table, samples.csv.

    Example: modalkit sample runs/quickstart -n 16 -o drawn
    """
    from modalkit.inference import load
    from modalkit.inference.answers import earlier_files, first_samples, samples, where, write_answer

    earlier_files(out)
    model = load(run, device=device)
    files, figures = samples(model.sample(n, _names(want), noise=noise, seed=seed))
    about = {"run": str(run), "weights": model.weights, "seed": seed, "drawn": figures}
    written = write_answer(out, files, about)
    if "samples.csv" in files:
        typer.echo("\n".join(first_samples(files["samples.csv"])))
    typer.echo(where(written))


def impute(
    run: Run,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="FILE.csv, .tsv or .parquet for a table; or a folder for a dataset.")
    ],
    dataset: Data = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Fill with draws from the predictive distribution, not with its mean.")
    ] = False,
    draws: Draws = 32,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Fill in whatever is absent from what its row has.

    As a table: of a dataset that was built from your own, that table, its columns, rows and known cells as they were,
    and beside it FILE-uncertainty, which says what was filled and how sure that is. As a dataset like any other in a
    folder: OUT/imputed is a Parquet table (a file a shard) that says the same, and interrupted, the same command goes
    on.

    Example: modalkit impute runs/patients data/patients -o filled.csv
    """
    from modalkit.data import Dataset
    from modalkit.inference import load
    from modalkit.inference.imputing import impute_dataset, impute_table, uninformed
    from modalkit.inference.tables import check_table

    as_table = not out.is_dir() and re.fullmatch(r"\.[A-Za-z]\w*", out.suffix) is not None  # data/v1.2 is a folder
    if as_table:
        check_table(out)
    model = load(run, device=device)
    opened = Dataset(dataset or model.recipe.data.path, in_memory=False)
    if as_table:
        found, files = impute_table(model, opened, out, sample=sample, draws=draws, seed=seed)
        beside = "".join(f"; how sure each is: {path}" for path in files[1:])
    else:
        found = impute_dataset(model, opened, out, sample=sample, draws=draws, seed=seed)
        beside = f"; table: {out / 'imputed'}"
    filled = ", ".join(f"{name} {count:,}" for name, (count, _) in found.items() if count) or "none was absent"
    typer.echo(f"{out}: {len(opened):,} rows; entries filled: {filled}{beside}")
    if nothing := uninformed(model, opened):
        what = "draws of what any row might be" if sample else "what the model expects of any row"
        typer.echo(f"{nothing:,} row{' has' if nothing == 1 else 's have'} nothing to infer from: filled with {what}")
    if left := ", ".join(f"{name} {count:,}" for name, (_, count) in found.items() if count):
        typer.echo(f"still absent, for this run's objective has no posterior given what those rows have: {left}")


def embed(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write: FILE.csv, .tsv or .parquet.")],
    dataset: Data = None,
    given: Annotated[
        str | None, typer.Option(help="From which modalities, separated by commas; by default all that a row has.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, valid or test; all by default.")] = None,
    device: Device = "cpu",
) -> None:
    """Write every row's posterior as a table: key, split, loc_0, ..., scale_0, ...

    Example: modalkit embed runs/circle data/circle --given image -o embedding.parquet
    """
    from modalkit.data import Dataset
    from modalkit.inference import load
    from modalkit.inference.tables import check_table, write_embedding
    from modalkit.inference.values import check_names

    check_table(out)
    model = load(run, device=device)
    names = _names(given)
    check_names(names or (), model.modalities)
    opened = Dataset(dataset or model.recipe.data.path, list(model.modalities), in_memory=False)
    written, left = write_embedding(model, opened, out, given=names, split=split)
    typer.echo(f"{out}: {written:,} rows" + (f"; left out {left:,} that have none of it" if left else ""))


def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Listen at this name or address; others than this machine's own too.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Device = "cpu",
) -> None:
    """Ask a model in the browser: give and tick, see samples, watch the posterior sharpen, walk through z.

    Prints the page's address, which only this machine can reach unless --host says otherwise. Ctrl-C ends it.

    Example: modalkit serve runs/quickstart --open
    """
    try:
        from modalkit.playground.server import serve as serve_page
    except ModuleNotFoundError as error:
        raise InputError(f"this needs {error.name}, which is not installed; {install('serve')} brings it") from None
    from modalkit.inference import load

    serve_page(load(run, device=device), host, port, browser=browser)


def _values(given: Iterable[str]) -> dict[str, str]:
    """Return what `--given NAME=VALUE` says."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--given {text}: write NAME=VALUE, such as gray=photo.png")
        if name in found:
            raise InputError(f"--given {text}: '{name}' is given twice")
        found[name] = value
    return found


def _names(text: str | None) -> list[str] | None:
    """Return modalities that are separated by commas."""
    return None if text is None else list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


COMMANDS = (translate, sample, impute, embed, serve)
