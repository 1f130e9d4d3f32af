"""Progress that people watch and logs can hold."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int | None, what: str, *, unit: str = "it", initial: int = 0, **kwargs: Any) -> tqdm[Any]:
    """Return a progress bar on standard error: live on a terminal, a line now and then in a log.

    Args:
        total: number of units the work has, or None if that is not known.
        what: a few words shown before the bar.
        unit: what is counted, shown in the rate.
        initial: units already done before, when work goes on where it stopped.
        kwargs: further `tqdm.tqdm` arguments.
    """
    live = sys.stderr.isatty()
    kwargs = {
        "mininterval": 0.2 if live else 10.0,
        "ascii": None if live else True,
        "ncols": None if live else 100,
    } | kwargs
    return tqdm(total=total, desc=what, unit=unit, initial=initial, file=sys.stderr, dynamic_ncols=live, **kwargs)
