"""How long a piece of work takes, and how much memory this process holds meanwhile."""

from __future__ import annotations

import re
import time
from pathlib import Path

_PROCESS = Path("/proc/self")


class Usage:
    """Wall time and the peak of this process's memory, from the moment that this object is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        try:
            (_PROCESS / "clear_refs").write_text("5")  # the system then measures the peak anew
            self._has_peak = True
        except OSError:
            self._has_peak = False

    @property
    def seconds(self) -> float:
        """The wall time until now."""
        return time.perf_counter() - self._start

    @property
    def mebibytes(self) -> float | None:
        """The most memory that the process has held; None where the system does not say (only Linux does)."""
        if not self._has_peak:
            return None
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else None
