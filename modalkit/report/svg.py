"""Charts as inline SVG: lines, bars, dots and shaded cells, in colours of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 248, 150, 46, 6, 24, 20
_SQUARE = 226
_POINTS = 240  # of a line; more would lie on the same pixels
COLOURS = 8
Point = tuple[float, float]


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return round numbers in an interval.

    >>> ticks(-3300, -900), ticks(0, 1)
    ([-3000.0, -2000.0, -1000.0], [0.0, 0.5, 1.0])
    """
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def lines(title: str, series: Mapping[str, Sequence[Point]], *, faint: str = "") -> Markup:
    """Return a chart of lines.

    Args:
        title: the text above it.
        series: the points of each line by its name, in the order of steps.
        faint: the name of a line to show faintly.
    """
    kept = {name: _thin(points) for name, points in series.items()}
    every = [point for points in kept.values() for point in points]
    if not every:
        return Markup("<p>{}: nothing was logged.</p>").format(title)
    low, high = min(p[0] for p in every), max(p[0] for p in every)
    # The first steps of a training are far below all others, so the axis covers the others only.
    later = [p[1] for p in every if p[0] >= low + 0.08 * (high - low)]
    margin = 0.04 * (max(later) - min(later))
    axes = _Axes((low, high), (min(later) - margin, max(later) + margin), title)
    shapes = Markup("")
    for i, (name, points) in enumerate(kept.items()):
        if not points:
            continue
        path = "M" + "L".join(f"{axes.x(a):.1f} {axes.y(b):.1f}" for a, b in points)
        shapes += Markup('<path class="line s{}{}" d="{}"/>').format(
            i % COLOURS, " faint" if name == faint else "", path if len(points) > 1 else f"{path}h.1"
        )
    ends = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in kept.items() if points)
    return axes.chart(shapes, f"{title} by step: {ends}")


def dots(title: str, points: Sequence[Point], groups: Sequence[float], names: Sequence[str], *, shaded: bool) -> Markup:
    """Return a scatter chart with equal units on both axes.

    Args:
        title: the text above it.
        points: the positions of the dots.
        groups: of each dot the index of its group; if shaded, a number from 0 to 1.
        names: of the groups; if shaded, of the two ends of the scale.
        shaded: whether colour shows a number instead of a group.
    """
    axes = _Axes((0, 1), (0, 1), title, height=_SQUARE, ticks="")
    across, up = zip(*points, strict=True)
    middle = [(max(one) + min(one)) / 2 for one in (across, up)]
    width, height = axes.x(1) - axes.x(0), axes.y(0) - axes.y(1)
    unit = max((max(across) - min(across)) / width, (max(up) - min(up)) / height, 1e-9) / 2
    axes.across = (middle[0] - unit * width, middle[0] + unit * width)
    axes.up = (middle[1] - unit * height, middle[1] + unit * height)
    shapes = Markup("")
    for (a, b), group in zip(points, groups, strict=True):
        look = f'class="blend" style="--v:{group:.2f}"' if shaded else f'class="dot f{int(group) % COLOURS}"'
        shapes += Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.6" {}/>').format(axes.x(a), axes.y(b), Markup(look))
    return axes.chart(shapes, f"{title}: {len(points)} dots") + legend(names)


def reliability(title: str, bins: Sequence[tuple[float, float, int]]) -> Markup:
    """Return a reliability diagram: observed against predicted frequency; a dot's size shows how many cases it has."""
    axes = _Axes((-0.06, 1.06), (-0.06, 1.06), title, height=_SQUARE)
    total = max(1, sum(count for *_, count in bins))
    shapes = Markup('<path class="axis" stroke-dasharray="4 3" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
        axes.x(0), axes.y(0), axes.x(1), axes.y(1)
    )
    for predicted, observed, count in bins:
        radius = 2 + 7 * math.sqrt(count / total)
        shapes += Markup('<circle class="dot f0" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
            axes.x(predicted),
            axes.y(observed),
            radius,
            f"{count} cases: {predicted:.2f} predicted, {observed:.2f} seen",
        )
    return axes.chart(shapes, f"{title}: observed frequency, upwards, against predicted probability")


def bars(title: str, values: Sequence[float], names: Sequence[str]) -> Markup:
    """Return upright bars from 0; a pointer on a bar shows its name."""
    axes = _Axes((0, len(values)), (0, max(*values, 1e-9) * 1.04), title, ticks="y")
    width, shapes = (axes.x(1) - axes.x(0)) * 0.78, Markup("")
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        top = axes.y(max(0.0, value))
        shapes += Markup(
            '<rect class="f0" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}</title></rect>'
        ).format(axes.x(i + 0.11), top, width, axes.y(0) - top, f"{name}: {value:.3g}")
    return axes.chart(shapes, f"{title}: highest {max(values):.3g} ({names[values.index(max(values))]})")


def cells(
    title: str, shades: Sequence[Sequence[float | None]], rows: Sequence[str], said: Sequence[Sequence[str]]
) -> Markup:
    """Return a matrix of shaded cells.

    Args:
        title: what it shows, for screen readers.
        shades: from 0 to 1 by row; None for an empty cell.
        rows: their names.
        said: the text that a pointer on a cell shows.
    """
    columns = max(map(len, shades), default=0)
    left, height, width = 96, 16, 640
    across = (width - left) / max(1, columns)
    shapes = Markup("")
    for i, (name, line, texts) in enumerate(zip(rows, shades, said, strict=True)):
        short = name if len(name) <= 15 else f"{name[:14]}…"
        shapes += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, i * height + 12, short)
        for j, (shade, text) in enumerate(zip(line, texts, strict=True)):
            if shade is not None:
                shapes += Markup(
                    '<rect class="shade" style="--v:{:.2f}" x="{:.1f}" y="{}" width="{:.1f}" height="{}">'
                    "<title>{}</title></rect>"
                ).format(shade, left + j * across, i * height + 1, across - 1, height - 2, text)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height * len(rows), title, shapes
    )


def legend(names: Sequence[str]) -> Markup:
    """Return the names of the colours."""
    swatch = Markup(
        '<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="f{}" width="10" height="10" rx="2"/></svg>{}</li>'
    )
    return Markup('<ul class="legend">{}</ul>').format(
        Markup("").join(swatch.format(i % COLOURS, name) for i, name in enumerate(names))
    )


class _Axes:
    """The frame of a chart, and the position of a point in it.

    Args:
        across: the range of x.
        up: the range of y.
        title: the text above it.
        height: of the whole chart.
        ticks: the axes with numbers: ``x``, ``y``, ``xy`` or empty.
    """

    def __init__(self, across: Point, up: Point, title: str, *, height: int = _HEIGHT, ticks: str = "xy") -> None:
        self.across, self.up = _wide(*across), _wide(*up)
        self.title, self.height, self.ticks = title, height, ticks
        self.left = _LEFT if "y" in ticks else _RIGHT
        self.bottom = height - (_BOTTOM if "x" in ticks else _RIGHT)

    def x(self, value: float) -> float:
        low, high = self.across
        return self.left + (value - low) / (high - low) * (_WIDTH - _RIGHT - self.left)

    def y(self, value: float) -> float:
        low, high = self.up
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)

    def chart(self, shapes: Markup, label: str) -> Markup:
        """Return the chart with these shapes in it; whatever lies beyond the axes is cut off."""
        frame = Markup('<text class="title" x="0" y="13">{}</text>').format(
            self.title if len(self.title) <= 36 else f"{self.title[:35]}…"
        )
        for value in ticks(*self.up) if "y" in self.ticks else ():
            y = self.y(value)
            frame += Markup('<path class="axis" d="M{} {:.1f}H{}"/>').format(self.left, y, _WIDTH - _RIGHT)
            frame += Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                self.left - 5, y + 4, number(value)
            )
        for value in ticks(*self.across) if "x" in self.ticks else ():
            anchor = "end" if self.x(value) > _WIDTH - 20 else "middle"
            frame += Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                self.x(value), self.height - 7, anchor, number(value)
            )
        box = (self.left - 5, _TOP - 5, _WIDTH - _RIGHT - self.left + 10, self.bottom - _TOP + 7)
        inside = Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">{4}</svg>').format(
            *box, shapes
        )
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
            _WIDTH, self.height, label, frame, inside
        )


def _thin(points: Sequence[Point]) -> list[Point]:
    """Return finite points that are few enough to be distinct, the last among them."""
    finite = [point for point in points if math.isfinite(point[1])]
    every = max(1, -(-len(finite) // _POINTS))
    return finite[::-1][::every][::-1]


def _wide(low: float, high: float) -> Point:
    """Return the interval, widened if it is a single point."""
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1))


def number(value: float, digits: int = 4) -> str:
    """Return a number as text, with a true minus sign.

    >>> number(-12000.0), number(0.25)
    ('−12,000', '0.25')
    """
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}"
    return text.replace("-", "−")
