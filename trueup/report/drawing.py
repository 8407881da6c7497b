"""A small drawing board over matplotlib: pixels in, themed inline SVG with real text out."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon
from matplotlib.ticker import MaxNLocator

from trueup.report.wording import printable

Tone = Literal["ink", "muted", "hairline", "accent", "before", "bad", "page"]
Anchor = Literal["start", "middle", "end"]

# Stand-ins that matplotlib writes and the page's own variables replace, so that one picture serves
# light, dark and paper.
STAND_INS: dict[Tone, str] = {
    "ink": "#0a0a01",
    "muted": "#0a0a02",
    "hairline": "#0a0a03",
    "accent": "#0a0a04",
    "before": "#0a0a05",
    "bad": "#0a0a06",
    "page": "#0a0a07",
}
ALIGNED: dict[Anchor, str] = {"start": "left", "middle": "center", "end": "right"}
LARGEST = 1e12  # what lies beyond is drawn at the edge


@dataclass(frozen=True)
class Dots:
    """Many discs or rings of one look; titles are told on hover, one for each or none."""

    points: Sequence[tuple[float, float]]
    titles: Sequence[str]
    tone: Tone
    radius: float
    hollow: bool


class Drawing:
    """A board of `width` x `height` pixels, the origin at the top left; drawn on, then `svg()`.

    Texts never pass through matplotlib, which gets a number in their place: no formula in a name
    is set, no missing letter warned of, and the browser lays them out in the page's own font.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._texts: list[tuple[str, float, str]] = []
        self._dots: list[Dots] = []
        self._depth = 0.0  # what is drawn later lies above
        self._figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(self._figure)
        self._axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        anchor: Anchor = "start",
        tone: Tone = "ink",
        kind: str = "",
    ) -> None:
        """Write a text whose middle lies at height `y`; `kind` is a class for the style sheet."""
        self._texts.append((printable(text), size, kind))
        self._axes.text(
            x,
            y + 0.36 * size,  # from the middle of a line of figures to its base line
            f"@{len(self._texts) - 1}",
            ha=ALIGNED[anchor],
            va="baseline",
            zorder=self._above(),
            color=STAND_INS[tone],
            clip_on=False,
        )

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        tone: Tone = "ink",
        width: float = 1,
        dashed: bool = False,
    ) -> None:
        """Draw a line through points; a NaN breaks it."""
        line = Line2D(xs, ys, color=STAND_INS[tone], linewidth=width, clip_on=False)
        line.set_zorder(self._above())
        line.set_solid_capstyle("round")
        if dashed:
            line.set_dashes((3 / width, 3 / width))
        self._axes.add_line(line)

    def dot(self, x: float, y: float, *, tone: Tone, radius: float = 4.5, hollow: bool) -> None:
        """Draw a disc, or a ring that hides the line below it."""
        face = STAND_INS["page" if hollow else tone]
        self._add(Circle((x, y), radius, fc=face, ec=STAND_INS[tone], lw=1.8, clip_on=False))

    def dots(
        self,
        points: Sequence[tuple[float, float]],
        titles: Sequence[str] = (),
        *,
        tone: Tone,
        radius: float = 3,
        hollow: bool,
    ) -> None:
        """Draw many discs or rings, each perhaps with a title; short to write, like texts."""
        self._dots.append(Dots(points, titles, tone, radius, hollow))
        self._axes.text(0, 0, f"@dots{len(self._dots) - 1}", zorder=self._above(), clip_on=False)

    def shape(self, points: Sequence[tuple[float, float]], *, tone: Tone, hollow: bool) -> None:
        """Draw a closed polygon."""
        face = STAND_INS["page" if hollow else tone]
        edge = STAND_INS[tone]
        self._add(Polygon(points, closed=True, fc=face, ec=edge, lw=1, clip_on=False))

    def svg(self, label: str) -> str:
        """The picture as an <svg> element whose spoken description is `label`."""
        buffer = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "trueup"}):
            self._figure.savefig(buffer, format="svg", metadata={"Date": None})
        source = ElementTree.fromstring(buffer.getvalue())
        root = ElementTree.Element("svg")
        root.attrib = {
            "viewBox": f"0 0 {self.width:g} {self.height:g}",
            "width": f"{self.width:g}",
            "height": f"{self.height:g}",
            "role": "img",
            "aria-label": printable(label),
        }
        for element in source.iter():
            tag = element.tag.rpartition("}")[2]
            if tag == "path" and element.get("style") != "fill: none":
                path = ElementTree.SubElement(root, "path")
                path.attrib = {
                    "d": _short_path(element),
                    "style": _themed(element.get("style", "")),
                }
            elif tag == "text" and (element.text or "").startswith("@dots"):
                _add_dots(root, self._dots[int((element.text or "").removeprefix("@dots"))])
            elif tag == "text":
                self._add_text(root, element)
        return ElementTree.tostring(root, encoding="unicode")

    def _above(self) -> float:
        """The next depth."""
        self._depth += 1.0
        return self._depth

    def _add(self, patch: Patch) -> None:
        """Put a patch on top."""
        patch.set_zorder(self._above())
        self._axes.add_patch(patch)

    def _add_text(self, root: ElementTree.Element, element: ElementTree.Element) -> None:
        """Put the real text where matplotlib put its number."""
        text, size, kind = self._texts[int((element.text or "@0").removeprefix("@"))]
        style = element.get("style", "")
        anchor = re.search(r"text-anchor: (\w+)", style)
        colour = re.search(r"fill: (#\w+)", style)
        written = ElementTree.SubElement(root, "text")
        written.attrib = {
            "x": f"{float(element.get('x', 0)):.1f}",
            "y": f"{float(element.get('y', 0)):.1f}",
            "font-size": f"{size:g}",
            "text-anchor": anchor[1] if anchor else "start",
            "style": _themed(f"fill: {colour[1]}" if colour else ""),
        }
        if kind:
            written.set("class", kind)
        written.text = text


class Scale:
    """A linear map from values to pixels between `left` and `right`, with round ticks.

    The span holds every finite number of `must` and as much of `may` (ends of intervals) as does
    not squeeze the former; what lies outside is drawn at the edge by `clip`.
    """

    def __init__(
        self, must: Sequence[float], may: Sequence[float], left: float, right: float, ticks: int = 5
    ) -> None:
        core = [value for value in must if abs(value) < LARGEST] or [0.0]
        low, high = min(core), max(core)
        reach = 1.5 * max(high - low, 0.25 * max(abs(low), abs(high)), 1e-9)
        ends = [value for value in may if abs(value) < LARGEST]
        low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
        pad = 0.05 * (high - low) or 0.5
        self.low, self.high = low - pad, high + pad
        self.left, self.right = left, right
        found = MaxNLocator(nbins=ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        self.ticks = [float(tick) for tick in found if self.low <= tick <= self.high]

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def clip(self, value: float) -> tuple[float, bool]:
        """The pixel, moved to the edge where the value lies outside, and whether it was moved."""
        held = min(max(value, self.low), self.high)
        return self(held), held != value

    def tick_text(self, tick: float) -> str:
        """The tick with no more decimals than the step needs."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if decimals < 6 and round(step, decimals) != round(step, 6):
            decimals += 1  # 0.25 needs two
        text = f"{abs(tick):,.{decimals}f}" if decimals <= 6 else f"{abs(tick):.1e}"
        return "\N{MINUS SIGN}" + text if tick < 0 and float(text.replace(",", "")) else text


def _add_dots(root: ElementTree.Element, dots: Dots) -> None:
    """One group of circles, what they share said once."""
    face = "page" if dots.hollow else dots.tone
    style = f"fill:var(--{face});stroke:var(--{dots.tone})"
    group = ElementTree.SubElement(root, "g", {"style": style, "stroke-width": "1.4"})
    for place, (x, y) in enumerate(dots.points):
        places = {"cx": _short_number(x), "cy": _short_number(y), "r": f"{dots.radius:g}"}
        circle = ElementTree.SubElement(group, "circle", places)
        if dots.titles:
            ElementTree.SubElement(circle, "title").text = printable(dots.titles[place])


def _short_path(element: ElementTree.Element) -> str:
    """The path's data on one line, to a tenth of a pixel."""
    data = " ".join(element.get("d", "").split())
    return re.sub(r"-?\d+\.\d+", lambda found: _short_number(float(found[0])), data)


def _short_number(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def _themed(style: str) -> str:
    """The style with the page's variables in place of the stand-ins."""
    for tone, stand_in in STAND_INS.items():
        style = style.replace(stand_in, f"var(--{tone})")
    return style
