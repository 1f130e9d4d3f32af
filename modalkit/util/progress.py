"""Progress bars, which can be switched off for the whole process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_shown = True


def show_bars(shown: bool) -> None:
    """Switch all progress bars of this process on or off. They are on at first."""
    global _shown
    _shown = shown


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Hide all progress bars of this process inside a ``with`` block, or leave them as they are.

    Args:
        shown: whether to leave them as they are.
    """
    before = _shown
    show_bars(before and shown)
    try:
        yield
    finally:
        show_bars(before)


def bar(
    total: int | None, what: str, *, unit: str = "it", initial: int = 0, disable: bool = False, **kwargs: Any
) -> tqdm[Any]:
    """Return a progress bar on standard error. A terminal shows it live; a log file gets a line every ten seconds.

    In a notebook it is a bar of the notebook.

    Args:
        total: number of units of the work, or None if unknown.
        what: a few words shown before the bar.
        unit: name of a unit, shown in the rate.
        initial: units that were done before, if the work is resumed.
        disable: show nothing, as after ``show_bars(False)``.
        kwargs: further `tqdm.tqdm` arguments.
    """
    if "ipykernel" in sys.modules:
        from tqdm.auto import tqdm as in_notebook

        return in_notebook(total=total, desc=what, unit=unit, initial=initial, disable=disable or not _shown, **kwargs)
    from tqdm import tqdm  # only now: the command line switches bars before it needs one

    live = sys.stderr.isatty()
    kwargs = {
        "mininterval": 0.2 if live else 10.0,
        "ascii": None if live else True,
        "ncols": None if live else 100,
        "dynamic_ncols": live,
        "disable": disable or not _shown,
    } | kwargs
    return tqdm(total=total, desc=what, unit=unit, initial=initial, file=sys.stderr, **kwargs)
