"""Commands that use a trained model: translate, sample, fit-sampler, impute, embed, serve, export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from modalkit.cli.options import (
    AsIf,
    DatasetArgument,
    Device,
    Draws,
    Noise,
    NoSampler,
    OtherData,
    OutFolder,
    RunArgument,
    Seed,
    Style,
    Trust,
    Want,
    Weights,
    check_named,
    split_names,
    split_values,
)
from modalkit.errors import InputError, install


def translate(
    run: RunArgument,
    given: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="A known modality or covariate: a picture file, class, text, numbers, or a .npy, .json or .txt file; "
            "repeatable.",
        ),
    ],
    out: OutFolder,
    want: Want = None,
    as_if: AsIf = None,
    style: Style = None,
    samples: Annotated[int, typer.Option(min=0, help="Number of samples to write beside the mean.")] = 8,
    draws: Draws = 32,
    noise: Noise = False,
    no_sampler: NoSampler = False,
    seed: Seed = 0,
    device: Device = "cpu",
    weights: Weights = "best",
    trust: Trust = False,
) -> None:
    """Predict modalities from others: any from any.

    Prints the answer. Writes for each modality its mean (for classes and texts the mode) and samples as ordinary
    files (pictures, texts, .npy, .csv of series, .wav), answer.csv with all numbers and words, answer.json with all
    figures, and sheet.png, which shows all pictures side by side. Without --want, every modality that is not given is
    predicted. With --style, modalities with private latents take those of another value: this content, that style.

    Example: modalkit translate runs/quickstart --given gray=photo.jpg --want image,edges -o out
    """
    known, instead = split_values(given), split_values(as_if or [], "--as-if")
    check_named(run, [*known, *(split_names(want) or ())])
    from modalkit.inference import as_batch, load
    from modalkit.inference.answers import answer, earlier_files, told, write_answer
    from modalkit.inference.named_style import named_style

    earlier_files(out)
    model = load(run, device=device, weights=weights, trust=trust)
    schemas = {**model.schemas, **model.covariates}
    batch = as_batch(schemas, known)
    found = model.infer(
        batch,
        split_names(want),
        samples,
        draws=draws,
        noise=noise,
        seed=seed,
        sampler=not no_sampler,
        as_if=instead or None,
        style=named_style(model, style, split_names(want), known) if style else None,
    )
    files, figures = answer(schemas, batch, found)
    posterior = {"loc": found.posterior.loc[0].tolist(), "scale": found.posterior.scale[0].tolist()}
    about = {"run": str(run), "weights": model.weights, "given": known, "seed": seed, "draws": max(draws, samples)}
    about |= {"as_if": instead} if instead else {}
    about |= {"style": style} if style else {}
    written = write_answer(out, files, {**about, "posterior": posterior, "predictions": figures})
    for line in told(figures, written):
        typer.echo(line)


def sample(
    run: RunArgument,
    out: OutFolder,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 16,
    want: Want = None,
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="The value of a covariate in all samples; repeatable."),
    ] = None,
    noise: Noise = False,
    temperature: Annotated[
        float, typer.Option(min=0, help="Factor of the noise's standard deviation: below 1, more typical samples.")
    ] = 1.0,
    prior: Annotated[
        bool, typer.Option("--prior", help="Sample from the prior, even if the run has a sampler.", show_default=False)
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    weights: Weights = "best",
    trust: Trust = False,
) -> None:
    """Sample new rows. The modalities of one sample belong together.

    If `fit-sampler` has fitted a sampler to the weights, samples come from it, otherwise from the prior. Covariates
    that are not given are those of training rows.

    Files are written as by `translate`, with the table samples.csv; if no modality is a picture, only this table.

    Example: modalkit sample runs/quickstart -n 16 -o drawn
    """
    check_named(run, split_names(want) or ())
    from modalkit.inference import load
    from modalkit.inference.answers import earlier_files, first_samples, samples, where, write_answer

    earlier_files(out)
    model = load(run, device=device, weights=weights, trust=trust)
    known = split_values(given or [])
    drawn = model.sample(
        n,
        split_names(want),
        given=known or None,
        noise=noise,
        temperature=temperature,
        seed=seed,
        sampler=not prior,
    )
    files, figures = samples(drawn)
    about = {"run": str(run), "weights": model.weights, "seed": seed, "temperature": temperature, "drawn": figures}
    about |= {"given": known} if known else {}
    written = write_answer(out, files, about)
    if "samples.csv" in files:
        typer.echo("\n".join(first_samples(files["samples.csv"])))
    typer.echo(where(written))


def impute(
    run: RunArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A table, FILE.csv, .tsv or .parquet; or a folder for a dataset.")
    ],
    dataset: DatasetArgument = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Fill with samples of the predictive distribution instead of its mean.")
    ] = False,
    as_if: AsIf = None,
    draws: Draws = 32,
    no_sampler: NoSampler = False,
    seed: Seed = 0,
    device: Device = "cpu",
    weights: Weights = "best",
    trust: Trust = False,
) -> None:
    """Fill in what each row lacks, predicted from what it has.

    With a table as OUT: if the dataset was built from your own table, OUT is that table with its gaps filled; its
    columns, rows and known cells do not change. FILE-uncertainty beside it lists every filled cell and how uncertain
    it is. With a folder as OUT: a complete dataset, and OUT/imputed, a Parquet table (a file per shard) of what was
    filled. If interrupted, the same command resumes.

    Example: modalkit impute runs/patients data/patients -o filled.csv
    """
    from modalkit.data import Dataset
    from modalkit.inference import load
    from modalkit.inference.imputing import impute_dataset, impute_table, uninformed
    from modalkit.inference.tables import check_table

    as_table = not out.is_dir() and re.fullmatch(r"\.[A-Za-z]\w*", out.suffix) is not None  # data/v1.2 is a folder
    if as_table:
        check_table(out)
    model = load(run, device=device, weights=weights, trust=trust)
    if no_sampler:
        model.sampler = None
    instead = split_values(as_if or [], "--as-if") or None
    opened = Dataset(dataset or model.dataset_path("the argument DATASET"), in_memory=False)
    if as_table:
        found, files = impute_table(model, opened, out, sample=sample, draws=draws, seed=seed, as_if=instead)
        beside = "".join(f"; how sure each is: {path}" for path in files[1:])
    else:
        found = impute_dataset(model, opened, out, sample=sample, draws=draws, seed=seed, as_if=instead)
        beside = f"; table: {out / 'imputed'}"
    filled = ", ".join(f"{name} {count:,}" for name, (count, _) in found.items() if count) or "none was absent"
    typer.echo(f"{out}: {len(opened):,} rows; entries filled: {filled}{beside}")
    if nothing := uninformed(model, opened):
        what = "samples of what any row might be" if sample else "what the model expects of any row"
        typer.echo(f"{nothing:,} row{' has' if nothing == 1 else 's have'} nothing to infer from: filled with {what}")
    if left := ", ".join(f"{name} {count:,}" for name, (_, count) in found.items() if count):
        typer.echo(f"still absent, since this objective has no posterior given what those rows have: {left}")


def fit_sampler(
    run: RunArgument,
    steps: Annotated[int, typer.Option(min=1, help="The most steps; validation rows may end it earlier.")] = 3000,
    data: OtherData = None,
    seed: Seed = 0,
    device: Device = "cpu",
    trust: Trust = False,
) -> None:
    """Fit a sampler of z to a finished run, for samples that look like data; the model does not change.

    Afterwards `sample`, `translate` and `impute --sample` take their samples from it. Means, uncertainties and metrics
    stay the same. If interrupted, nothing is written. Once the run's best weights change, fit it again.

    Example: modalkit fit-sampler runs/quickstart
    """
    from modalkit.inference import TrainedModel
    from modalkit.runs.folder import RunFolder
    from modalkit.runs.opened import load_model

    loaded = load_model(run, device=device, trust=trust)  # without its earlier sampler, which may be damaged
    model = TrainedModel(loaded.model, loaded.recipe, run, loaded.weights, trusted=trust)
    model.fit_sampler(data or model.dataset_path("--data"), steps=steps, seed=seed)
    typer.echo(f"{RunFolder(run).sampler}: modalkit sample {run} -o drawn takes its samples from it")


def embed(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write: FILE.csv, .tsv or .parquet.")],
    dataset: DatasetArgument = None,
    given: Annotated[
        str | None, typer.Option(help="Modalities to infer z from, separated by commas; by default all that a row has.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, valid or test; all by default.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Add the private latents, as loc_NAME_0, ..., scale_NAME_0, ...")
    ] = False,
    device: Device = "cpu",
    weights: Weights = "best",
    trust: Trust = False,
) -> None:
    """Write every row's posterior as a table: key, split, loc_0, ..., scale_0, ...

    Example: modalkit embed runs/circle data/circle --given image -o embedding.parquet
    """
    names = split_names(given)
    check_named(run, names or ())
    from modalkit.data import Dataset
    from modalkit.inference import load
    from modalkit.inference.conditions import check_modalities
    from modalkit.inference.tables import check_table, write_embedding

    check_table(out)
    model = load(run, device=device, weights=weights, trust=trust)
    check_modalities(names or (), model.model)
    opened = Dataset(
        dataset or model.dataset_path("the argument DATASET"),
        list(model.modalities),
        in_memory=False,
        covariates=list(model.covariates),
    )
    written, left = write_embedding(model, opened, out, given=names, split=split, private=private)
    typer.echo(f"{out}: {written:,} rows" + (f"; left out {left:,} rows that have none of it" if left else ""))


def serve(
    run: RunArgument,
    host: Annotated[
        str, typer.Option(help="Name or address to listen at. By default only this machine can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8000,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Device = "cpu",
    weights: Weights = "best",
    trust: Trust = False,
) -> None:
    """Explore a model in the browser: give modalities, see samples of the others and the posterior, walk through z.

    Prints the page's address. Only this machine can reach it, unless --host says otherwise. Ctrl-C stops it.

    Example: modalkit serve runs/quickstart --open
    """
    try:
        from modalkit.playground.server import serve as serve_page
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; install it with {install('serve')}") from None
    from modalkit.inference import load

    serve_page(load(run, device=device, weights=weights, trust=trust), host, port, browser=browser)


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; no file is overwritten.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Add an ONNX graph of one translation.")] = False,
    given: Annotated[str, typer.Option(help="Inputs of the graph: modalities, separated by commas.")] = "",
    want: Annotated[str, typer.Option(help="Output of the graph: one modality.")] = "",
    push: Annotated[str | None, typer.Option(metavar="REPO", help="Upload the folder to the Hugging Face Hub.")] = None,
    trust: Trust = False,
) -> None:
    """Write a trained model as a folder to share: weights, recipe and model card.

    `modalkit.load(DIR)` and every command that takes a RUN accept this folder, and give exactly the same answers.

    Example: modalkit export runs/quickstart shared/faces --onnx --given gray --want image
    """
    from modalkit.inference import load
    from modalkit.publishing.folder import export as write
    from modalkit.publishing.folder import push as upload
    from modalkit.publishing.graph import onnx_graph

    if bool(given or want) != onnx or bool(given) != bool(want):
        raise InputError("--onnx, --given and --want go together: --onnx --given gray --want image")
    model = load(run, trust=trust)
    graphs = [onnx_graph(model, [name.strip() for name in given.split(",")], want)] if onnx else []
    for path in write(model, out, graphs):
        typer.echo(path)
    if push:
        typer.echo(upload(out, push))
