"""Ctrl-C and SIGTERM as requests, met where it is safe to stop."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

_log = logging.getLogger(__name__)


class Interrupts:
    """Turns Ctrl-C and SIGTERM into a request that the loop meets between two steps; a second one is not held."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        _log.info("stopping after this step; once more stops at once")
