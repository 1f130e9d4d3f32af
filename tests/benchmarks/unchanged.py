"""Whether this checkout computes, to the bit, what another commit did: weights, metrics, datasets, answers.

    python tests/benchmarks/unchanged.py HEAD~3               # all cases, some minutes on two cores
    python tests/benchmarks/unchanged.py HEAD~3 --only mvae,impute

The other commit is checked out into a temporary worktree. Both are installed, without their dependencies, into folders
of their own, and both run the same commands on the same machine with one thread. Every file that a command leaves is
digested; of logs, what depends on the clock is left out. The exit status is 1 if any digest differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
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
objective: {name: NAME, warmup_epochs: 1}
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


def commands() -> dict[str, list[list[str]]]:
    """Return, by case, the command lines that it types."""
    kit = [sys.executable, "-m", "modalkit"]
    found: dict[str, list[list[str]]] = {}
    for name, (data, objective, changes) in TRAININGS.items():
        image = CONVOLUTIONS if objective != "cvae" else "{type: mlp, hidden: [16], decoder_hidden: [16]}"
        text = RECIPE.replace("DATA", data).replace("NAME", objective).replace("IMAGE", image)
        Path(f"{name}.yaml").write_text(text)
        found[name] = [[*kit, "train", f"{name}.yaml", *(word for change in changes for word in ("--set", change))]]
    found["evaluate"] = [[*kit, "evaluate", "runs/mvae", "--particles", "20", "--rows", "10"]]
    found["impute"] = [[*kit, "impute", "runs/mvae", "circle", "-o", "filled.csv", "--draws", "4"]]
    found["sample"] = [[*kit, "sample", "runs/mvae", "-n", "3", "-o", "sampled"]]
    found["embed"] = [[*kit, "embed", "runs/mvae", "circle", "-o", "embedded.parquet"]]
    found["translate"] = [[*kit, "translate", "runs/mvae", "--given", "class=up", "--want", "image,high", "-o", "told"]]
    found["export"] = [[*kit, "export", "runs/mvae", "shared"]]
    found["faces"] = [
        [*kit, "build-dataset", "sample-faces", "--out", "faces", "--count", "24"],
        [*kit, "build-dataset", "celeba-transforms", "--source", "faces", "--out", "six", "--size", "32"],
    ]
    found["bits"] = [
        [*kit, "build-dataset", "sample-bits", "--out", "bits", "--modalities", "12", "--rows", "200"],
        [*kit, "train", "bits.yaml"],
    ]
    Path("bits.yaml").write_text(
        "data: {path: bits}\nmodalities:\n  bit{}: {each: 0..11, kind: bit, network: {type: mlp, hidden: [8],"
        " decoder_hidden: [8]}}\nmodel: {latent_dim: 3}\ntrain: {epochs: 2, batch_size: 50}\n"
    )
    Path("own.csv").write_text(TABLE)
    found["table"] = [
        [*kit, "build-dataset", "table", "own.csv", "--out", "own", "--yes"],
        ["sh", "-c", f"{sys.executable} -m modalkit init own > own.yaml"],
        [*kit, "train", "own.yaml", "--set", "train.epochs=3"],
        [*kit, "impute", "runs/own", "own", "-o", "own-filled.csv", "--draws", "4"],
    ]
    return found


def digest(path: Path) -> str:
    """Return a file's SHA-256, without what depends on the clock."""
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in content.decode().splitlines()]
        content = json.dumps([{k: v for k, v in line.items() if k != "rows_per_second"} for line in lines]).encode()
    return hashlib.sha256(content).hexdigest()


def run(checkout: Path, folder: Path, only: set[str]) -> dict[str, str]:
    """Install a checkout, type all commands in a folder, and return the digest of each file that they left."""
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(checkout)]
    subprocess.run(pip, check=True)
    work = folder / "work"
    work.mkdir()
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    environment = os.environ | fixed | {"PYTHONPATH": str(site)}
    os.chdir(work)
    subprocess.run([sys.executable, "-c", DATA], check=True, env=environment)
    for name, lines in commands().items():
        if only and name not in only:
            continue
        printed: list[str] = []
        for line in lines:
            done = subprocess.run(line, env=environment, capture_output=True, text=True)
            printed.append(done.stdout)
            if done.returncode:
                Path(f"{name}.failed").write_text(done.stderr[-2000:])
                print(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        Path(f"{name}.stdout").write_text(re.sub(r"[0-9.]+ (s|min)\b", "", "".join(printed)))
    skipped = ("environment.json", "events.out.tfevents", "metrics.csv", ".lock", "state.pt", "recipe.yaml")
    return {
        str(path.relative_to(work)): digest(path)
        for path in sorted(work.rglob("*"))
        if path.is_file() and not path.name.startswith(skipped)
    }


def main() -> int:
    """Compare, print what differs, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--only", default="", help="cases, separated by commas")
    parser.add_argument("--keep", type=Path, help="a JSON file of the other commit's digests: read, or written")
    given = parser.parse_args()
    only = {name for name in given.only.split(",") if name}
    with tempfile.TemporaryDirectory() as folder:
        before, now = Path(folder, "before"), Path(folder, "now")
        before.mkdir(), now.mkdir()
        if given.keep and given.keep.exists():
            old = json.loads(given.keep.read_text())
        else:
            tree = Path(folder, "tree")
            subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, given.commit], check=True)
            try:
                old = run(tree, before, only)
            finally:
                os.chdir(ROOT)
                subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
            if given.keep:
                given.keep.write_text(json.dumps(old))
        new = run(ROOT, now, only)
        os.chdir(ROOT)
    differing = [path for path in old if old[path] != new.get(path)] + [path for path in new if path not in old]
    for path in differing:
        print(f"differs: {path}")
    whole = hashlib.sha256(json.dumps(new).encode()).hexdigest()
    print(f"{len(new)} files, {len(differing)} differ; all together {whole}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
