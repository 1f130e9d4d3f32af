"""Docstrings as Markdown: their formulas as code, and their examples as blocks."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", re.MULTILINE)


class Markdown(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            text = re.sub(r":math:`([^`]*)`", r"`\1`", obj.docstring.value)
            text = re.sub(r"^\.\. math::$|::$", lambda found: ":" if found[0] == "::" else "", text, flags=re.MULTILINE)
            obj.docstring.value = EXAMPLE.sub(r"\1```python\n\g<0>\n\1```", text)
