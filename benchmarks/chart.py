"""Results as an SVG file: a panel for each figure, a bar for each peer, shorter is better."""

from html import escape

from figures import FIGURES
from rounds import Results

COLUMNS, PANEL, LABEL, BAR, GAP = 2, 560, 190, 16, 6
HEAD, MARGIN, NUMBER = 34, 16, 60
OURS, THEIRS, INK = "#c2410c", "#94a3b8", "#1f2937"


def chart(results: Results, ours: set[str], footer: str) -> str:
    """The SVG document.

    Args:
        results: of a run; cells without a median have no bar, and say why.
        ours: the peers to highlight.
        footer: one line under the panels.
    """
    height = HEAD + len(results.peers) * (BAR + GAP) + MARGIN
    rows = -(-len(results.figures) // COLUMNS)
    width, total = COLUMNS * PANEL, rows * height + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{total}" fill="white"/>',
    ]
    for number, figure in enumerate(results.figures):
        x, y = number % COLUMNS * PANEL, number // COLUMNS * height
        parts.append(f'<g transform="translate({x + MARGIN} {y + MARGIN})">')
        parts += [*_panel(results, figure, ours), "</g>"]
    parts += [_text(MARGIN, total - MARGIN, footer), "</svg>"]
    return "\n".join(parts) + "\n"


def _panel(results: Results, figure: str, ours: set[str]) -> list[str]:
    parts = [_text(0, 12, FIGURES[figure].title, ' font-weight="bold" font-size="14"')]
    medians = {peer: results.median(figure, peer) for peer in results.peers}
    longest = max((value for value in medians.values() if value is not None), default=0)
    room = PANEL - 2 * MARGIN - LABEL - NUMBER
    for row, (peer, value) in enumerate(medians.items()):
        y = HEAD - 8 + row * (BAR + GAP)
        parts.append(_text(0, y + BAR - 4, peer))
        if value is None:
            failed = peer in results.failed.get(figure, {})
            parts.append(_text(LABEL, y + BAR - 4, "failed" if failed else "not measured", ' font-style="italic"'))
            continue
        bar = room * value / longest if longest else 0
        color = OURS if peer in ours else THEIRS
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{bar:.1f}" height="{BAR}" fill="{color}"/>')
        parts.append(_text(LABEL + bar + 5, y + BAR - 4, f"{value:.{FIGURES[figure].decimals}f}"))
    return parts


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}"{attributes}>{escape(text)}</text>'
