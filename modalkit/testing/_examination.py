"""What all checks of plugins share: they name the plugin and the part that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Examination:
    """One plugin under examination.

    Args:
        who: what to call it, such as "kind 'vector'".
    """

    def __init__(self, who: str) -> None:
        self.who = who

    def expect(self, part: str, ok: bool, problem: str) -> None:
        """Raise `AssertionError` that names a part of the plugin, unless all is well."""
        if not ok:
            raise AssertionError(f"{self.who}: {part}: {problem}")

    @contextmanager
    def using(self, part: str, doing: str = "") -> Iterator[None]:
        """Turn whatever a part of the plugin raises into an `AssertionError` that names the part."""
        try:
            yield
        except AssertionError:
            raise
        except Exception as error:  # a plugin may raise anything
            problem = f"raised {type(error).__name__}{doing and ' ' + doing}: {error}"
            raise AssertionError(f"{self.who}: {part}: {problem}") from error
