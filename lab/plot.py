# SPDX-License-Identifier: GPL-2.0-only
"""A bar chart as SVG."""

from xml.sax.saxutils import escape

COLOURS = ("#3b6ea5", "#c9c9c9")
BAR, GAP, HEIGHT, TOP, BOTTOM, LEFT = 48, 40, 300, 70, 60, 20


def text(x, y, words, size=13, anchor="middle"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}">'
            f'{escape(words)}</text>')


def bars(title, series, groups, unit, limit):
    """groups: [(name, [value of each series])]; a value is written above its bar.

    The bar of a value above limit is cut off, and torn where it is.
    """
    highest = min(max(value for _, values in groups for value in values), limit)
    step = BAR * len(series) + GAP
    width = LEFT + step * len(groups) + LEFT
    base = TOP + HEIGHT
    parts = [text(width / 2, 22, title, 15)]

    x = width / 2 - 100 * len(series)
    for name, colour in zip(series, COLOURS):
        parts.append(f'<rect x="{x:.0f}" y="34" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 18, 45, name, 13, "start"))
        x += 200

    for i, (name, values) in enumerate(groups):
        left = LEFT + GAP / 2 + i * step
        for n, value in enumerate(values):
            height = max(HEIGHT * min(value, limit) / highest, 0)
            x = left + n * BAR
            parts.append(f'<rect x="{x:.0f}" y="{base - height:.1f}" width="{BAR - 4}" '
                         f'height="{height:.1f}" fill="{COLOURS[n]}"/>')
            if value > limit:
                parts.append(f'<path d="M{x - 4:.0f} {base - 0.9 * height:.1f} l{BAR + 4} -14" '
                             'stroke="white" stroke-width="6"/>')
            parts.append(text(x + BAR / 2 - 2, base - height - 5, f"{value:.1f}{unit}", 12))
        for line, words in enumerate(name.split("\n")):
            parts.append(text(left + BAR * len(values) / 2, base + 20 + 16 * line, words))
    parts.append(f'<line x1="{LEFT}" y1="{base}" x2="{width - LEFT}" y2="{base}" stroke="black"/>')

    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{base + BOTTOM}" '
            'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(parts) + "\n</svg>\n")
