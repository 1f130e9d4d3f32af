"""Writing the metrics of a run: into `metrics.jsonl` always, and to the loggers that the recipe names."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial

from modalkit.errors import RunError, guard
from modalkit.runs.folder import RunFolder
from modalkit.runs.loggers import LOGGERS, Logger, require
from modalkit.runs.metrics import read_metrics
from modalkit.util.files import write_text
from modalkit.util.text import evenly_spaced

_log = logging.getLogger(__name__)


class MetricsLog:
    """Writes metrics as JSON lines and to other loggers; lines of steps that a resumed run repeats are dropped first.

    Args:
        folder: of the run.
        step: number of steps done; lines after it are dropped, and all lines if it is 0.
        loggers: names of `LOGGERS`.
        names: the modalities. Of hundreds, loggers that plot get those of `some`, evenly spaced; files hold all.
        enabled: whether this process writes.

    Raises:
        InputError: a logger is not installed, or cannot start.
    """

    def __init__(
        self, folder: RunFolder, step: int, loggers: Sequence[str], names: Sequence[str], *, enabled: bool
    ) -> None:
        self.folder, self.enabled = folder, enabled
        self.unplotted = set(names) - set(evenly_spaced(names))
        self.loggers: dict[str, Logger] = {}
        if enabled:
            require(loggers)
            kept = [line for line in read_metrics(folder.path) if step > 0 and line["step"] <= step]
            write_text(folder.metrics, "".join(f"{json.dumps(line)}\n" for line in kept))
            self.lines = folder.metrics.open("a")
            for name in dict.fromkeys(loggers):
                with guard(f"train.loggers: {name}"):
                    self.loggers[name] = LOGGERS[name](folder.path, step)

    def __call__(self, split: str, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        if not self.enabled:
            return
        line = {"step": step, "epoch": epoch, "split": split} | metrics
        try:
            self.lines.write(json.dumps(line) + "\n")
            self.lines.flush()
            plotted = {name: value for name, value in line.items() if _modality(name) not in self.unplotted}
            for name, logger in list(self.loggers.items()):
                self._try(name, partial(logger, line if name == "csv" else plotted))
        except OSError as error:  # TensorBoard's writer fails here if the disk is full or the folder is gone
            raise RunError(f"{self.folder.path}: cannot write its metrics: {error}") from error

    def _try(self, name: str, act: Callable[[], None]) -> None:
        """Call a logger; if it fails, for example because a server is down, it is not used any more."""
        try:
            act()
        except OSError:
            raise
        except Exception as error:
            _log.warning(
                f"train.loggers: {name} failed and is not used any more; metrics.jsonl has every metric: {error}"
            )
            del self.loggers[name]

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.lines.close()
            for name, logger in list(self.loggers.items()):
                self._try(name, logger.close)


def _modality(metric: str) -> str:
    """Return the modality that a metric is about, such as x for ``log_px/x`` and ``elbo/only:x``."""
    return metric.rpartition("/")[2].removeprefix("only:")
