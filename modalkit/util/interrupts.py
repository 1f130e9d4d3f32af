"""Ctrl-C and SIGTERM as requests to stop, so that a loop stops only where it is safe."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

_log = logging.getLogger(__name__)


class Interrupts:
    """A context in which Ctrl-C or SIGTERM requests a stop, and a second one raises `KeyboardInterrupt` at once.

    In a thread other than the main one it does nothing, because signals reach the main thread only.

    Attributes:
        signal: number of the signal that arrived, or 0. The loop looks at it between two steps.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        _log.warning("stopping after this step; press Ctrl-C again to stop at once")
