"""Check that this checkout computes, to the bit, what another commit computed: weights, metrics, datasets, answers.

    python tests/benchmarks/unchanged.py HEAD~3                     # all cases, about two minutes on two idle cores
    python tests/benchmarks/unchanged.py HEAD~3 --only mvae,impute
    python tests/benchmarks/unchanged.py HEAD~3 --keep old.json     # computes the other commit's digests only once

The other commit is checked out into a temporary worktree. Both checkouts are installed, without their dependencies,
into folders of their own. A driver process for each runs the same commands with one thread. It imports torch once and
runs every command in a forked child; trainings with several processes start real processes. Every file that a command
writes is digested, without what depends on the clock. Of what a command prints, the numbers are digested, so that words
may change. The exit status is 1 if any digest differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORTED_ONCE = ("torch", "torchvision", "lightning_fabric", "torch.utils.tensorboard", "pydantic", "pyarrow")
INSTALLED = ("modalkit", "modalities", "tools", "recipes", "pyproject.toml", "README.md", "LICENSE")
"""What of a checkout is installed."""
SKIPPED = ("environment.json", "events.out.tfevents", "metrics.csv", ".lock", "state.pt", "recipe.yaml")
"""Beginnings of the names of files that depend on the clock, the machine or the layout of recipes."""
DATA = """
import sys, torch, modalkit
g = torch.Generator().manual_seed(0)
angle = torch.rand(160, generator=g) * 6.28
position = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(160, 2, generator=g)
grid = torch.linspace(-1.4, 1.4, 12)
near = (grid[None, None, :] - position[:, 0, None, None]) ** 2 + (grid[None, :, None] - position[:, 1, None, None]) ** 2
schemas = {
    "image": modalkit.schema("image", size=12, channels=1),
    "position": modalkit.schema("vector", size=2),
    "class": modalkit.schema("label", names=["left", "up", "right"]),
    "counts": modalkit.schema("counts", size=2),
    "text": modalkit.schema("tokens", alphabet="abc", max_length=3),
    "high": modalkit.schema("bit"),
}
label = (angle // 2.1).long().clamp(max=2)
values = {
    "image": torch.exp(-4 * near)[:, None],
    "position": position,
    "class": label,
    "counts": torch.poisson(4 + 3 * position.clamp(-1, 1), generator=g).long(),
    "text": ["abc"[: 1 + int(k)] for k in label],
    "high": (position[:, 1] > 0).long(),
}
holes = {name: torch.rand(160, generator=g) < 0.7 for name in ("image", "class", "counts", "text", "high")}
modalkit.write_dataset("circle", schemas, values, present=holes)
modalkit.write_dataset("whole", schemas, values)
"""
TABLE = "height,kind,score,age\n" + "".join(
    f"{1.5 + i % 7 / 10},{'cat' if i % 3 else 'dog'},{'' if i % 5 == 0 else i % 11},{20 + i % 40}\n" for i in range(80)
)
RECIPE = """\
data: {path: DATA}
modalities:
  image: {kind: image, size: 12, channels: 1, network: IMAGE}
  position: {kind: vector, size: 2, network: &dense {type: mlp, hidden: [16], decoder_hidden: [16]}}
  class: {kind: label, classes: 3, network: *dense}
  counts: {kind: counts, size: 2, network: *dense}
  text: {kind: tokens, alphabet: abc, max_length: 3}
  high: {kind: bit, network: *dense}
model: {latent_dim: 4}
objective: {name: NAME, warmup_epochs: 1TARGETS}
train: {epochs: 3, batch_size: 16, learning_rate: 0.003, accelerator: cpu, log_every: 2, pictures_every: 0}
"""
CONVOLUTIONS = "{type: dcgan, widths: [4, 8], batch_norm: true, dropout: 0.2}"
TWO = ["modalities.counts=null", "modalities.text=null", "modalities.high=null", "modalities.position=null"]
ONE = [*TWO, "modalities.class=null"]
TRAININGS: dict[str, tuple[str, str, list[str]]] = {  # data, objective, changes
    "mvae": ("circle", "mvae", []),
    "mvae-present": ("circle", "mvae", ["objective.targets=present", "objective.k=2", "objective.singles=2"]),
    "mixture-mvae": ("circle", "mixture-mvae", []),
    "bivcca": ("circle", "bivcca", []),
    "mmvae": ("circle", "mmvae", []),
    "mopoe": ("circle", "mopoe", []),
    "mvtcae": ("circle", "mvtcae", []),
    "jmvae": ("whole", "jmvae", []),
    "telbo": ("whole", "telbo", ["objective.first_stage_epochs=2"]),
    "cvae": ("whole", "cvae", TWO),
    "vae": ("circle", "vae", ONE),
    "centred": ("circle", "mvae", ["model.centered=true"]),
    "weak": ("whole", "mvae", ["data.weak.paired=0.3", "data.weak.keep=0.9", "train.paired_share=0.5"]),
    "augmentation": ("circle", "mvae", ["data.augment={shift: 0.1, rotate: 10, scale: 0.1, flip: true}"]),
    "self-training": (
        "circle",
        "mvae",
        ["train.self_training={modalities: [class, high], after_epochs: 1, confidence: 0.4}"],
    ),
    "cosine": ("circle", "mvae", ["train.schedule=cosine", "train.clip_norm=1.0", "train.patience=2"]),
    "two-processes": ("circle", "mvae", ["train.devices=2"]),
    "two-processes-jmvae": ("whole", "jmvae", ["train.devices=2"]),
    "double": ("circle", "mvae", ["train.precision='64'"]),
}


@dataclass(frozen=True)
class Command:
    """A command line after ``modalkit``.

    Attributes:
        words: its words.
        output: a file for what it prints; else that goes to the case's own file.
        forked: whether it may run in a forked child.
    """

    words: tuple[str, ...]
    output: str = ""
    forked: bool = True


def cases() -> dict[str, list[Command]]:
    """Write the recipes and tables that the cases need into the current folder, and return their commands by name."""
    found: dict[str, list[Command]] = {}
    for name, (data, objective, changes) in TRAININGS.items():
        image = CONVOLUTIONS if objective != "cvae" else "{type: mlp, hidden: [16], decoder_hidden: [16]}"
        text = RECIPE.replace("DATA", data).replace("NAME", objective).replace("IMAGE", image)
        text = text.replace("TARGETS", ", targets: subset" if objective in ("mvae", "mixture-mvae") else "")
        Path(f"{name}.yaml").write_text(text)
        options = [word for change in changes for word in ("--set", change)]
        found[name] = [Command(("train", f"{name}.yaml", *options), forked="train.devices=2" not in changes)]
    Path("bits.yaml").write_text(
        "data: {path: bits}\nmodalities:\n  bit{}: {each: 0..11, kind: bit, network: {type: mlp, hidden: [8],"
        " decoder_hidden: [8]}}\nmodel: {latent_dim: 3}\nobjective: {targets: subset}\n"
        "train: {epochs: 2, batch_size: 50}\n"
    )
    Path("own.csv").write_text(TABLE)
    typed = {
        "evaluate": ["evaluate runs/mvae --particles 20 --rows 10"],
        "impute": ["impute runs/mvae circle -o filled.csv --draws 4"],
        "sample": ["sample runs/mvae -n 3 -o sampled"],
        "embed": ["embed runs/mvae circle -o embedded.parquet"],
        "translate": ["translate runs/mvae --given class=up --want image,high -o told"],
        "export": ["export runs/mvae shared"],
        "faces": [
            "build-dataset sample-faces --out faces --count 24",
            "build-dataset celeba-transforms --source faces --out six --size 32",
        ],
        "bits": ["build-dataset sample-bits --out bits --modalities 12 --rows 200", "train bits.yaml"],
        "table": [
            "build-dataset table own.csv --out own --yes",
            "init own > own.yaml",
            "train own.yaml --set train.epochs=3",
            "impute runs/own own -o own-filled.csv --draws 4",
        ],
    }
    for name, lines in typed.items():
        parts = [line.partition(" > ") for line in lines]
        found[name] = [Command(tuple(words.split()), output) for words, _, output in parts]
    return found


def drive(only: set[str]) -> None:
    """Run the cases in the current folder, with the modalkit that this process finds."""
    for name in IMPORTED_ONCE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _forked(lambda: exec(DATA, {}), Path("data.stdout"), Path("data.stderr"))
    for name, commands in cases().items():
        if only and name not in only:
            continue
        printed = ""
        for command in commands:
            out, err = Path(f"{name}.out"), Path(f"{name}.err")
            code = _run(command, out, err)
            text = out.read_text()
            if command.output:
                Path(command.output).write_text(text)
            else:
                printed += text
            if code:
                Path(f"{name}.failed").write_text(err.read_text()[-2000:])
                print(f"{name}: failed: {err.read_text().strip().splitlines()[-1:]}", flush=True)
            out.unlink(), err.unlink()
        timeless = re.sub(r"[0-9.]+ (s|min)\b", "", printed)
        Path(f"{name}.stdout").write_text("\n".join(re.findall(r"-?[0-9][0-9.,e+-]*", timeless)))


def _run(command: Command, out: Path, err: Path) -> int:
    """Run a command, with its output in files, and return its exit status."""
    if not command.forked:
        with out.open("w") as stdout, err.open("w") as stderr:
            words = [sys.executable, "-m", "modalkit", *command.words]
            return subprocess.run(words, stdout=stdout, stderr=stderr).returncode

    def main() -> None:
        from modalkit.cli import main

        sys.argv = ["modalkit", *command.words]
        main()

    return _forked(main, out, err)


def _forked(work: Callable[[], object], out: Path, err: Path) -> int:
    """Do some work in a forked child, with its output in files, and return its exit status."""
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        for path, stream in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)  # without what the parent would do at its end


def digest(path: Path) -> str:
    """Return a file's SHA-256, without what depends on the clock or on addresses in memory."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        content = json.dumps(tensors(content), sort_keys=True).encode()
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in content.decode().splitlines()]
        content = json.dumps([{k: v for k, v in line.items() if k != "rows_per_second"} for line in lines]).encode()
    return hashlib.sha256(content).hexdigest()


def tensors(content: bytes) -> dict[str, object]:
    """Return what a safetensors file holds, by name.

    If several names share a tensor, the file stores it under one of them and the others as metadata. Which name that
    is depends on addresses in memory, so each of the names gets the tensor here.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    metadata.pop("sha256", None)  # the file's own digest, which not every commit writes
    found: dict[str, object] = {}
    for name, about in header.items():
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        found[name] = [about["dtype"], about["shape"], hashlib.sha256(content[begin:end]).hexdigest()]
    return found | {name: found.get(kept, kept) for name, kept in metadata.items()}


def start(checkout: Path, folder: Path, only: str) -> subprocess.Popen[bytes]:
    """Install a checkout in a folder, and start a driver that runs the cases there."""
    site, source, work = folder / "site", folder / "source", folder / "work"
    for name in INSTALLED:  # copied, so that an earlier build's leftovers in the checkout do not matter
        copy = shutil.copytree if (checkout / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(checkout / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(pip, check=True)
    work.mkdir()
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": str(site)}
    driver = [sys.executable, __file__, "--drive", "--only", only]
    return subprocess.Popen(driver, cwd=work, env=os.environ | fixed)


def finish(driver: subprocess.Popen[bytes], folder: Path) -> dict[str, str]:
    """Wait for a driver and return the digest of each file that its commands wrote."""
    if driver.wait():
        raise SystemExit(f"the driver in {folder} failed")
    work = folder / "work"
    return {
        str(path.relative_to(work)): digest(path)
        for path in sorted(work.rglob("*"))
        if path.is_file() and not path.name.startswith(SKIPPED)
    }


def compare(commit: str, only: str, keep: Path | None) -> int:
    """Compare with another commit, print what differs, and return the exit status."""
    with tempfile.TemporaryDirectory() as made:
        before, now, tree = Path(made, "before"), Path(made, "now"), Path(made, "tree")
        before.mkdir(), now.mkdir()
        known = json.loads(keep.read_text()) if keep and keep.exists() else None
        if known is None:
            subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, commit], check=True)
        try:
            old_driver = start(tree, before, only) if known is None else None
            new_driver = start(ROOT, now, only)
            old = finish(old_driver, before) if old_driver else known
            new = finish(new_driver, now)
        finally:
            if known is None:
                subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
    if keep and known is None:
        keep.write_text(json.dumps(old))
    differing = [path for path in old if old[path] != new.get(path)] + [path for path in new if path not in old]
    for path in differing:
        print(f"differs: {path}")
    whole = hashlib.sha256(json.dumps(new).encode()).hexdigest()
    print(f"{len(new)} files, {len(differing)} differ; digest of all: {whole}")
    return 1 if differing else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="the commit to compare with")
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--keep", type=Path, help="a JSON file of the other commit's digests: read if it exists")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive({name for name in given.only.split(",") if name})
        return 0
    if not given.commit:
        parser.error("name a commit to compare with")
    return compare(given.commit, given.only, given.keep)


if __name__ == "__main__":
    sys.exit(main())
