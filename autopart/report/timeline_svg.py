"""A timeline as a picture: a row a rank, a box an action, in SVG."""

from html import escape

from autopart.ir.action import Kind
from autopart.report.quantity import percent, seconds
from autopart.schedules.timeline import Span, Timeline

COLOURS = {Kind.FORWARD: "#6ea8dc", Kind.BACKWARD: "#f2b263", Kind.WEIGHT: "#8cc084"}
NAMES = {Kind.FORWARD: "forward", Kind.BACKWARD: "backward", Kind.WEIGHT: "gradients of weights"}
_WIDTH, _ROW, _LEFT, _TOP, _BELOW = 1200, 26, 70, 44, 34
_LEAST_LABEL = 7.0  # pixels a character of a label needs


def timeline_svg(timeline: Timeline, title: str) -> str:
    """The picture of `timeline` under `title`: ranks from top to bottom, time from left to right.

    A box says which micro-batch it is for where there is room; stages of one rank differ in shade. A pointer that rests
    on a box is told its action, start and length.
    """
    height = _TOP + _ROW * len(timeline.ranks) + _BELOW
    scale = (_WIDTH - _LEFT - 10) / (timeline.step_s or 1.0)
    virtual = max((len({span.action.stage for span in spans}) for spans in timeline.ranks), default=1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="16" font-size="13">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="33">{seconds(timeline.step_s)}, bubble {percent(timeline.bubble_fraction)}</text>',
        *_legend(timeline),
    ]
    for rank, spans in enumerate(timeline.ranks):
        top = _TOP + _ROW * rank
        lines.append(f'<text x="{_LEFT - 8}" y="{top + 16}" text-anchor="end">rank {rank}</text>')
        width = scale * timeline.step_s
        lines.append(f'<rect x="{_LEFT}" y="{top + 2}" width="{width:.2f}" height="{_ROW - 4}" fill="#eeeeee"/>')
        own = {stage: place for place, stage in enumerate(sorted({span.action.stage for span in spans}))}
        for span in spans:
            shade = 1.0 - 0.5 * own[span.action.stage] / max(1, virtual)
            lines.append(_box(span, top, scale, shade, virtual > 1))
    lines += _scale(timeline.step_s, scale, height - _BELOW + 6)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _box(span: Span, top: int, scale: float, shade: float, several: bool) -> str:
    action, width = span.action, scale * (span.end_s - span.start_s)
    name = f"{action}.s{action.stage}" if several else str(action)
    left = _LEFT + scale * span.start_s
    told = f"{name}: from {seconds(span.start_s)}, {seconds(span.end_s - span.start_s)}"
    box = (
        f'<rect x="{left:.2f}" y="{top + 2}" width="{width:.2f}" height="{_ROW - 4}" fill="{COLOURS[action.kind]}" '
        f'fill-opacity="{shade:.2f}" stroke="white" stroke-width="0.5"><title>{told}</title></rect>'
    )
    label = str(action.micro_batch)
    if width < _LEAST_LABEL * len(label):
        return box
    return f'{box}<text x="{left + width / 2:.2f}" y="{top + 17}" text-anchor="middle">{label}</text>'


def _legend(timeline: Timeline) -> list[str]:
    present = {span.action.kind for spans in timeline.ranks for span in spans}
    lines, left = [], _WIDTH - 150 * len(present)
    for kind in Kind:
        if kind in present:
            lines.append(f'<rect x="{left}" y="24" width="10" height="10" fill="{COLOURS[kind]}"/>')
            lines.append(f'<text x="{left + 15}" y="33">{NAMES[kind]}</text>')
            left += 150
    return lines


def _scale(step_s: float, scale: float, top: int) -> list[str]:
    """Five marks along the time."""
    lines = []
    for part in range(6):
        at_s = step_s * part / 5
        left = _LEFT + scale * at_s
        lines.append(f'<line x1="{left:.2f}" y1="{top - 4}" x2="{left:.2f}" y2="{top}" stroke="black"/>')
        anchor = "end" if part == 5 else "middle"
        told = seconds(at_s) if part else "0"
        lines.append(f'<text x="{left:.2f}" y="{top + 12}" text-anchor="{anchor}">{told}</text>')
    return lines
