"""The form of a picture, and places of text in it: numbers beside their points, and lines of a list.

No two texts overlap. Positions are in pixels of the figure's own canvas. A number for which no free place beside its
point exists is left out; the list names its experiment all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast


@contextmanager
def beside_the_defaults() -> Iterator[None]:
    """Stay in matplotlib's data folder, because the first settings that an import reads are the current folder's.

    So it reads its own defaults, and neither a file of the user's folder nor one below the home, which may be no text.
    """
    found = find_spec("matplotlib")
    assert found is not None, "the picture needs matplotlib"
    before = os.open(".", os.O_PATH)
    try:
        os.chdir(Path(str(found.origin)).with_name("mpl-data"))
        yield
    finally:
        os.fchdir(before)
        os.close(before)


with beside_the_defaults():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

GAP_PX = 2.0  # between a label and its point, and between two labels
REACH = 3  # places are tried at up to this many label heights from the point
ELLIPSIS = "…"


@dataclass(frozen=True)
class Palette:
    """The colors of a picture."""

    paper: str
    ink: str
    faint: str
    keep: str
    claim: str
    lost: str


LIGHT = Palette("#ffffff", "#1f2933", "#9aa5b1", "#0b7a5c", "#b45309", "#c2410c")
DARK = Palette("#12181f", "#e4e7eb", "#7b8794", "#3ecf9b", "#f0a43a", "#ff7a59")


@dataclass(frozen=True)
class Look:
    """The form of a picture: its colors, its file format (png or svg), and portrait for a phone."""

    palette: Palette = LIGHT
    form: str = "png"
    portrait: bool = False
    dpi: int = 130

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height in inches."""
        return (6.2, 10.6) if self.portrait else (13.0, 6.8)

    @property
    def plot(self) -> tuple[float, float, float, float]:
        """The plot's left, bottom, width and height, as parts of the figure."""
        return (0.13, 0.49, 0.75, 0.43) if self.portrait else (0.06, 0.2, 0.58, 0.7)

    @property
    def listing(self) -> tuple[float, float, float, float]:
        """The list's left, bottom, width and height, as parts of the figure."""
        return (0.04, 0.02, 0.92, 0.3) if self.portrait else (0.715, 0.04, 0.275, 0.86)


# The pictures of an export, by file name.
LOOKS = {
    "progress.png": Look(),
    "progress.svg": Look(form="svg"),
    "progress-dark.png": Look(DARK),
    "progress-portrait.png": Look(portrait=True),
}


@dataclass(frozen=True)
class Mark:
    """A point with its label, in the units of the axes. `radius_px` is the size of its marker in pixels."""

    x: float
    y: float
    label: str
    color: str
    radius_px: float


def place_labels(axes: Axes, marks: Sequence[Mark], taken: Iterable[Bbox], size: float) -> None:
    """Write each label beside its point, in order of importance. `taken` are boxes in pixels that no label may
    cover."""
    figure = cast("Figure", axes.figure)
    frame = axes.get_window_extent()
    boxes = [*taken]
    for mark in marks:
        text = axes.text(mark.x, mark.y, mark.label, fontsize=size, color=mark.color, zorder=6)
        width, height = size_px(figure, text)
        text.remove()
        place = next((box for box in _places(axes, mark, width, height) if _is_free(box, frame, boxes)), None)
        if place is None:
            continue
        boxes.append(place)
        left, bottom = axes.transData.inverted().transform((place.x0 + GAP_PX, place.y0 + GAP_PX))
        style: dict[str, Any] = {"fontsize": size, "color": mark.color, "zorder": 6}
        axes.text(left, bottom, mark.label, ha="left", va="bottom", **style)


def boxes_of_points(axes: Axes, points: Iterable[tuple[float, float]], radius_px: float) -> list[Bbox]:
    """Return the boxes in pixels that the markers at `points` cover."""
    found = [axes.transData.transform(point) for point in points]
    return [Bbox.from_extents(x - radius_px, y - radius_px, x + radius_px, y + radius_px) for x, y in found]


def boxes_of_line(axes: Axes, corners: Sequence[tuple[float, float]]) -> list[Bbox]:
    """Return the boxes in pixels that a line of horizontal and vertical pieces covers."""
    found = [axes.transData.transform(corner) for corner in corners]
    return [
        Bbox.from_extents(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1)
        for (x0, y0), (x1, y1) in pairwise(found)
    ]


def size_px(figure: Figure, text: Text) -> tuple[float, float]:
    """Return width and height of a text in pixels."""
    extent = text.get_window_extent(_renderer(figure))
    return float(extent.width), float(extent.height)


def fitted(figure: Figure, words: str, width_px: float, size: float, weight: str = "normal") -> str:
    """Return `words`, cut with an ellipsis so that they are at most `width_px` pixels wide."""
    flat = " ".join(words.split())
    if _width(figure, flat, size, weight) <= width_px:
        return flat
    low, high = 0, len(flat)
    while low < high:
        middle = (low + high + 1) // 2
        if _width(figure, flat[:middle].rstrip() + ELLIPSIS, size, weight) <= width_px:
            low = middle
        else:
            high = middle - 1
    return flat[:low].rstrip() + ELLIPSIS


def _width(figure: Figure, words: str, size: float, weight: str) -> float:
    text = figure.text(0, 0, words, fontsize=size, fontweight=weight)
    width, _ = size_px(figure, text)
    text.remove()
    return width


def _renderer(figure: Figure) -> Any:
    return cast("Any", figure.canvas).get_renderer()


def _places(axes: Axes, mark: Mark, width: float, height: float) -> Iterable[Bbox]:
    """Yield the places of a label, nearest first: below, above, right, left of its point, then further away."""
    x, y = axes.transData.transform((mark.x, mark.y))
    wide, high = width + 2 * GAP_PX, height + 2 * GAP_PX
    for far, (side, up) in product(
        range(REACH), ((0, -1), (0, 1), (1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1))
    ):
        reach = mark.radius_px + far * height / 2
        center_x, center_y = x + side * (reach + wide / 2), y + up * (reach + high / 2)
        yield Bbox.from_bounds(center_x - wide / 2, center_y - high / 2, wide, high)


def _is_free(box: Bbox, frame: Bbox, boxes: Sequence[Bbox]) -> bool:
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return bool(inside) and not any(_overlap(box, other) for other in boxes)


def _overlap(one: Bbox, other: Bbox) -> bool:
    return bool(one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1)
