"""Numbers as people write them: decimal commas, thousands separators, percent and currency signs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Decimal = Literal["auto", ",", "."]
"""The decimal mark of a table: as its columns show, or as the user says."""

_UNIT = r"(?:[$€£¥₹₽₩%‰]|EUR|USD|GBP|CHF|JPY|CNY|INR)"
_CELL = re.compile(
    rf"(?P<sign>[+-]?)(?P<before>{_UNIT}\s?)?(?P<own>[+-]?)(?P<number>[0-9.,][0-9.,'’\s]*?)(?P<power>[eE][+-]?[0-9]+)?"
    rf"(?P<after>\s?{_UNIT})?"
)
_GAP = r"['’\s]"
_POINT = re.compile(rf"[0-9]+\.?[0-9]*|\.[0-9]+|[0-9]{{1,3}}(?:(?:,[0-9]{{3}})+|(?:{_GAP}[0-9]{{3}})+)(?:\.[0-9]*)?")
_COMMA = re.compile(rf"[0-9]+(?:,[0-9]+)?|,[0-9]+|[0-9]{{1,3}}(?:(?:\.[0-9]{{3}})+|(?:{_GAP}[0-9]{{3}})+)(?:,[0-9]+)?")
_POINT_ONLY = re.compile(r"[+-]?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?|[+-]?(inf|nan)")
_CODE = re.compile(r"0[0-9]+")


@dataclass(frozen=True)
class NumberForm:
    """How a column writes its numbers.

    Attributes:
        decimal: the decimal mark, ``"."`` or ``","``.
        thousands: what separates groups of three digits; empty if nothing does.
        before: a unit before the number, such as ``"€ "``.
        after: a unit after the number, such as ``" %"``.
        guessed: whether the cells alone do not show which mark is the decimal one, as in ``"1,234"``.
    """

    decimal: str = "."
    thousands: str = ""
    before: str = ""
    after: str = ""
    guessed: bool = False

    def plain(self, text: str) -> str:
        """Return a cell as programs write numbers; a text that is no number as it is.

        >>> NumberForm(",", ".", after=" €").plain("-1.234,50 €")
        '-1234.50'
        """
        match = _CELL.fullmatch(text)
        if match is None:
            return text
        pattern = _COMMA if self.decimal == "," else _POINT
        if not pattern.fullmatch(match["number"]):
            return text
        digits = re.sub(rf"{_GAP}|{re.escape('.' if self.decimal == ',' else ',')}", "", match["number"])
        return f"{match['sign'] or match['own']}{digits.replace(',', '.')}{match['power'] or ''}"

    def written(self, plain: str) -> str:
        """Return a number as the column writes it; the inverse of `plain`.

        >>> NumberForm(",", ".", after=" €").written("-1234.5")
        '-1.234,5 €'
        """
        sign, rest = (plain[0], plain[1:]) if plain[:1] in ("-", "+") else ("", plain)
        whole, point, decimals = rest.partition(".")
        if self.thousands and whole.isdigit():
            whole = f"{int(whole):,}".replace(",", self.thousands)
        return f"{sign}{self.before}{whole}{self.decimal if point else ''}{decimals}{self.after}"

    def described(self) -> str:
        """Describe what is unusual in this form."""
        parts = ["a decimal comma"] if self.decimal == "," else []
        parts += [f"'{self.thousands}' between thousands"] if self.thousands else []
        parts += [f"the unit '{(self.before or self.after).strip()}'"] if self.before or self.after else []
        return " and ".join(parts)


def forms(columns: Mapping[str, Iterable[str]], separator: str, decimal: Decimal = "auto") -> dict[str, NumberForm]:
    """Return how columns write numbers, without those that write them as programs do, and those that hold others.

    A column is decided by all of its cells. If they allow both marks, the columns that allow one decide. If these do
    not agree, a point is a decimal mark, and so is a comma where semicolons separate the cells: ``1,234`` is 1.234
    there, and 1234 elsewhere. Cells of typed files that are numbers already stay as they are.

    Args:
        columns: the cells by name; "" where empty.
        separator: what separates the cells of the file; empty for typed files.
        decimal: the decimal mark, if the user says so.
    """
    cells = {name: [text for text in dict.fromkeys(texts) if text] for name, texts in columns.items()}
    if not separator:
        cells = {name: texts for name, texts in cells.items() if not all(map(_POINT_ONLY.fullmatch, texts))}
    matched = {name: parts for name, texts in cells.items() if (parts := _matched(texts))}
    allowed = {name: _allowed([part["number"] for part in parts]) for name, parts in matched.items()}
    sure = {marks[0] for marks in allowed.values() if len(marks) == 1}
    usual = sure.pop() if len(sure) == 1 else ""
    found = {}
    for name, marks in allowed.items():
        if not marks:
            continue
        numbers = [part["number"] for part in matched[name]]
        unclear = len(marks) > 1 and any("," in number or "." in number for number in numbers)
        likely = "," if separator == ";" and any("," in number for number in numbers) else "."
        said = "" if decimal == "auto" else decimal
        mark = marks[0] if len(marks) == 1 else (said or usual or likely) if unclear else "."
        form = _form(matched[name], mark, guessed=unclear and decimal == "auto")
        if form.decimal == "," or form.thousands or form.before or form.after:
            found[name] = form
    return found


def _matched(texts: Sequence[str]) -> list[re.Match[str]]:
    """Return the parts of each cell; nothing if a cell is no number, or if units differ."""
    parts = [match for text in texts if (match := _CELL.fullmatch(text))]
    units = {((part["before"] or "").strip(), (part["after"] or "").strip()) for part in parts}
    codes = any(_CODE.fullmatch(part["number"]) for part in parts)
    signs = any(part["sign"] and part["own"] for part in parts)
    return parts if len(parts) == len(texts) and len(units) == 1 and not codes and not signs else []


def _allowed(numbers: Collection[str]) -> list[str]:
    """Return the decimal marks with which all numbers can be read."""
    return [mark for mark, pattern in ((".", _POINT), (",", _COMMA)) if all(map(pattern.fullmatch, numbers))]


def _form(parts: Sequence[re.Match[str]], mark: str, *, guessed: bool) -> NumberForm:
    """Return the form of a column: its mark, and the thousands separator and units as most of its cells write them."""
    other = "," if mark == "." else "."
    separators = Counter(sign for part in parts for sign in re.findall(rf"{_GAP}|{re.escape(other)}", part["number"]))
    has_mark = any(mark in part["number"] for part in parts)
    before, after = (Counter(part[at] or "" for part in parts).most_common(1)[0][0] for at in ("before", "after"))
    thousands = separators.most_common(1)[0][0] if separators else ""
    decimal = mark if has_mark or thousands == "." else "."
    return NumberForm(decimal, thousands, before, after, guessed)
