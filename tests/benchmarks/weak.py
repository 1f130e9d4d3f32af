"""What the labels that weak supervision leaves can teach without this library: controls for Figures 4 and 5.

    python tests/benchmarks/weak.py mnist data/mnist
    python tests/benchmarks/weak.py celeba data/celeba-transforms --size 64

MNIST: classifiers of the 500 paired digits of `data.weak.paired=0.01`, and such as also use the digits without label.
CelebA: for each attribute a logistic regression on principal components of the pictures, and a factor analysis of
components and attributes together (a linear MVAE), on the entries that `data.weak.keep` leaves; then both on histograms
of oriented gradients and a coarse picture, of mirrored pictures too. The regressions' settings are chosen on the
validation rows. Takes a few minutes, and needs scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import hog
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional

from modalkit.data import Dataset
from modalkit.data.weak import weaken
from modalkit.recipe.loading import load_recipe

Array, Mask = NDArray[np.float64], NDArray[np.bool_]
BITS = ("Male", "Smiling", "Mouth_Slightly_Open", "Heavy_Makeup", "Wavy_Hair")


def rows_of(recipe: str, path: Path, *settings: str) -> tuple[Dataset, dict[str, Tensor]]:
    """Open a dataset with a recipe's entries hidden; also return its splits."""
    loaded = load_recipe(Path(recipe), [f"data.path={path}", *settings])
    whole = Dataset(path, list(loaded.modalities))
    dataset = weaken(whole, whole.rows("train"), loaded.data.weak, loaded.seed)
    return dataset, {split: dataset.rows(split) for split in ("train", "valid", "test")}


def pictures(dataset: Dataset, rows: Tensor) -> Array:
    """Return the first modality's intensities, one row a sample."""
    return (dataset[rows].values[dataset.names[0]].flatten(1).double() / 255).numpy()


def say(what: str, right: Mask | Array) -> None:
    """Print a mean accuracy and its standard error over rows."""
    each = np.asarray(right, float)
    print(f"{what}: {100 * each.mean():.1f} % +- {100 * each.std() / len(each) ** 0.5:.1f}", flush=True)


def network(convolutions: bool, dropout: float) -> nn.Sequential:
    """Return mnist_mvae's encoder as a classifier, or one of two convolutions, as `network: dcgan` has."""
    if convolutions:
        two = [nn.Conv2d(1, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.SiLU()]
        dense = [nn.Linear(64 * 49, 512), nn.SiLU(), nn.Dropout(dropout), nn.Linear(512, 10)]
        return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *two, nn.Flatten(), *dense)
    hidden = [nn.Linear(784, 512), nn.SiLU(), nn.Dropout(dropout), nn.Linear(512, 512), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(512, 10))


def classify(
    x: Tensor, y: Tensor, test: Tensor, alone: Tensor | None, *, convolutions: bool, dropout: float, noise: float
) -> NDArray[np.int64]:
    """Train a network on labelled pictures, and on its own confident guesses of others if given; classify."""
    torch.manual_seed(0)
    model = network(convolutions, dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(1200 if alone is None else 2500):
        pick = torch.randint(len(x), (32,))
        loss = functional.cross_entropy(model(x[pick] + noise * torch.randn(32, 784)), y[pick])
        if alone is not None and step > 400:
            other = alone[torch.randint(len(alone), (100,))]
            with torch.no_grad():
                confidence, guess = model.eval()(other).softmax(-1).max(-1)
            scores = functional.cross_entropy(
                model.train()(other + noise * torch.randn(100, 784)), guess, reduction="none"
            )
            loss = loss + (scores * (confidence > 0.95)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found: NDArray[np.int64] = torch.cat([model.eval()(part) for part in test.split(1000)]).argmax(-1).numpy()
    return found


def mnist(path: Path) -> None:
    """Print how well digits are told with 500 labels, by several means."""
    dataset, rows = rows_of("mnist_mvae", path, "data.weak.paired=0.01")
    present = dataset.present[rows["train"]]
    both, alone = rows["train"][present.all(1)], rows["train"][present[:, 0] & ~present[:, 1]]
    x, u, test = (pictures(dataset, some) for some in (both, alone, rows["test"]))
    y, truth = (dataset[some].values["label"].numpy() for some in (both, rows["test"]))
    print(f"{len(x)} labelled digits, {len(u)} without label")
    say("nearest neighbour", KNeighborsClassifier(1).fit(x, y).predict(test) == truth)
    say("support vector machine", SVC(C=10).fit(x, y).predict(test) == truth)
    spread = LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.9, max_iter=50)
    spread.fit(np.concatenate([x, u]), np.concatenate([y, np.full(len(u), -1)]))
    neighbours = KNeighborsClassifier(5).fit(np.concatenate([x, u]), spread.transduction_)
    say("labels spread to the others, then 5 neighbours", neighbours.predict(test) == truth)
    tx, tu, tt = (torch.from_numpy(some).float() for some in (x, u, test))
    for convolutions in (False, True):
        name = "convolutions" if convolutions else "the recipe's encoder"
        for more, noise, what in ((None, 0.0, ""), (tu, 0.3, ", and on its own guesses of the others")):
            found = classify(tx, torch.from_numpy(y), tt, more, convolutions=convolutions, dropout=0.5, noise=noise)
            say(f"{name}, dropout 0.5{what}", found == truth)


def gradients(flat: Array, size: int) -> Array:
    """Return histograms of oriented gradients, and beside them a coarse picture of a quarter of their variance."""
    found = []
    for picture in flat.reshape(-1, 3, size, size).transpose(0, 2, 3, 1):
        shape = hog(picture, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=-1)
        coarse = picture.reshape(16, size // 16, 16, size // 16, 3).mean((1, 3)).ravel()
        found.append(np.concatenate([shape, coarse / 4]))
    return np.stack(found)


def mirrored(flat: Array, size: int) -> Array:
    """Return pictures, a row each, mirrored left to right."""
    return np.ascontiguousarray(flat.reshape(-1, 3, size, size)[..., ::-1]).reshape(flat.shape)


def logistic(x: Array, y: Array, present: Mask, valid: tuple[Array, Array], test: tuple[Array, Array]) -> Array:
    """Return which attributes of test rows are told right: a logistic regression each, all of one strength."""
    best, chosen = 0.0, np.zeros(0)
    for components in (20, 50, 100):
        pca = PCA(components, whiten=True, random_state=0).fit(x[present[:, 0]])
        fx, fv, ft = pca.transform(x), pca.transform(valid[0]), pca.transform(test[0])
        for strength in (0.001, 0.01, 0.03, 0.1):
            right = []
            for column in range(y.shape[1]):
                use = present[:, 0] & present[:, column + 1]
                if len(set(y[use, column])) < 2:
                    guess = [np.full(len(f), y[use, column][0]) for f in (fv, ft)]
                else:
                    fitted = LogisticRegression(C=strength, max_iter=300).fit(fx[use], y[use, column])
                    guess = [fitted.predict(f) for f in (fv, ft)]
                right.append((guess[0] == valid[1][:, column], guess[1] == test[1][:, column]))
            mean = float(np.mean([one for one, _ in right]))
            if mean > best:
                best, chosen = mean, np.stack([other for _, other in right], 1)
    return chosen


def factors(
    x: Array, y: Array, present: Mask, test: tuple[Array, Array], latent_dim: int = 20, rounds: int = 40
) -> Array:
    """Return which attributes are told right by a factor analysis of 50 components and all attributes, fitted by EM."""
    size = 50
    pca = PCA(size, random_state=0).fit(x[present[:, 0]])
    scale = 3 / pca.transform(x[present[:, 0]]).std(0)[0]
    mean = np.array([y[present[:, c + 1], c].mean() for c in range(y.shape[1])])
    spread = np.sqrt(mean * (1 - mean) + 1e-3)
    values = np.concatenate([pca.transform(x) * scale, (y - mean) / spread], 1)
    there = np.concatenate([np.repeat(present[:, :1], size, 1), present[:, 1:]], 1)
    values, seen = values[there.any(1)], there[there.any(1)]
    slope = np.random.default_rng(0).normal(size=(values.shape[1], latent_dim)) * 0.1
    noise = np.ones(len(slope))
    for _ in range(rounds):
        precision = np.einsum("nd,dl,dm->nlm", seen / noise, slope, slope, optimize=True) + np.eye(latent_dim)
        covariance = np.linalg.inv(precision)
        loc = np.einsum("nlm,nm->nl", covariance, (seen * values / noise) @ slope)
        square = covariance + loc[:, :, None] * loc[:, None, :]
        for d in range(len(slope)):
            z, v, zz = loc[seen[:, d]], values[seen[:, d], d], square[seen[:, d]].sum(0)
            ridge = noise[d] * (5.0 if d >= size else 1e-3)  # a prior on the few attributes' slopes
            slope[d] = np.linalg.solve(zz + ridge * np.eye(latent_dim), v @ z)
            error = (v**2).sum() - 2 * v @ (z @ slope[d]) + slope[d] @ zz @ slope[d]
            noise[d] = max(1e-3, error / len(v))
    of_picture = slope[:size] / noise[:size, None]
    z = np.linalg.solve(
        np.eye(latent_dim) + slope[:size].T @ of_picture, (pca.transform(test[0]) * scale @ of_picture).T
    ).T
    return np.asarray((z @ slope[size:].T * spread + mean > 0.5) == test[1])


def celeba(path: Path, size: int) -> None:
    """Print how well attributes are told from faces when a share of all entries is kept."""
    kept: dict[str, Array] = {}
    for keep in (0.1, 0.45, 1.0):
        dataset, rows = rows_of("celeba19_mvae", path, f"data.weak.keep={keep}", f"modalities.image.size={size}")
        bits = dataset.names[1:]
        x, valid, test = (
            (pictures(dataset, some), np.stack([dataset[some].values[b].numpy() for b in bits], 1).astype(float))
            for some in rows.values()
        )
        present = dataset.present[rows["train"]].numpy()
        pairs = (present[:, :1] & present[:, 1:]).sum(0).mean()
        print(f"keep {keep}: {present[:, 0].sum()} pictures, {pairs:.0f} with any one attribute")
        answers = {
            "logistic regression": logistic(*x, present, valid, test),
            "factor analysis": factors(*x, present, test),
        }
        if not kept:  # they are the same for every keep
            named = {"train": x[0], "valid": valid[0], "test": test[0], "mirrored": mirrored(x[0], size)}
            kept = {name: gradients(flat, size) for name, flat in named.items()}
        both = np.concatenate([kept["train"], kept["mirrored"]]), np.concatenate([x[1]] * 2)
        there = np.concatenate([present] * 2)
        of = (kept["valid"], valid[1]), (kept["test"], test[1])
        answers["logistic regression on gradients, mirrored too"] = logistic(*both, there, *of)
        answers["factor analysis of gradients, mirrored too"] = factors(*both, there, of[1])
        majority = (x[1].mean(0) > 0.5) == test[1]
        for what, right in {"always the majority": majority, **answers}.items():
            each = ", ".join(f"{b} {100 * right[:, bits.index(b)].mean():.1f}" for b in BITS)
            say(f"  {what} ({each}), mean", right.mean(1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mnist", "celeba"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.what == "mnist":
        mnist(arguments.path)
    else:
        celeba(arguments.path, arguments.size)
