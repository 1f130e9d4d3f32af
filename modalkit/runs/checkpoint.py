"""Saving and loading weights and training state: a file is written whole or not at all, and never executed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from modalkit.errors import InputError
from modalkit.runs import sealed
from modalkit.util.files import refusal, write_atomic

_REFIT = {"fit": "refit"}


def save_weights(path: Path, model: nn.Module, *, refit: bool = False) -> None:
    """Write a model's weights and running statistics as safetensors, with a digest in the header.

    Args:
        path: the file.
        model: whose weights to write.
        refit: whether they were fitted to training and validation rows; the file says so then.
    """
    about = {sealed.KEY: sealed.EMPTY} | (_REFIT if refit else {})

    def write(temporary: Path) -> None:
        save_model(model, str(temporary), about)
        sealed.seal(temporary)

    write_atomic(path, write)


def is_refit(path: Path) -> bool:
    """Tell whether a file holds weights that were fitted to training and validation rows; False if it is no such file.

    Args:
        path: what `save_weights` wrote.
    """
    try:
        with safe_open(str(path), "pt") as file:
            return (file.metadata() or {}).get("fit") == _REFIT["fit"]
    except (OSError, SafetensorError):
        return False


def load_weights(path: Path, model: nn.Module) -> None:
    """Load into `model` the weights that `save_weights` wrote.

    Raises:
        InputError: no such file, it is damaged, or it holds another model's weights.
    """
    sealed.check(path)
    try:
        load_model(model, str(path))
    except FileNotFoundError:  # safetensors raises it whatever the reason
        if (why := refusal(path)) is not None:
            raise InputError(f"{path}: cannot be read ({why}); ask its owner for the right to read it") from None
        raise InputError(f"{path}: no weights there; has this run finished an epoch?") from None
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: not this recipe's weights: {' '.join(str(error).split())[:300]}") from None


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values for `load_state`.

    Raises:
        RunError: the disk is full or cannot be written. The earlier content of `path` is unchanged.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            kept = _KeepsError(file)
            try:
                torch.save(state, kept)  # type: ignore[arg-type]  # it needs nothing but `write`
            except Exception as error:
                raise kept.error or error from error

    write_atomic(path, write)


class _KeepsError(io.RawIOBase):
    """A file that keeps the error of its last write: `torch.save` replaces it by an error about its own position.

    Args:
        file: the file that everything is written to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    error: OSError | None

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, content: Any) -> int:
        """Write bytes, and keep the error if that fails."""
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums but does not compare them
            # torch compresses nothing, so that no file can be larger in memory than on the disk
            if any(one.compress_type or one.file_size > path.stat().st_size for one in archive.infolist()):
                raise ValueError("it is compressed, or claims to be larger than it is")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} differs")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in reading it
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({reason}); delete the run folder and train again") from None
    return state
