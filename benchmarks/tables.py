"""Tables in Markdown, and the numbers in them."""

import math
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned for reading as text: the first column to the left, the others to the right."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        return f"| {' | '.join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))])} |"

    rule = f"|{'|'.join(['-' * (widths[0] + 2), *('-' * (w + 1) + ':' for w in widths[1:])])}|"
    return "\n".join([line(lines[0]), rule, *map(line, lines[1:])])


def milliseconds(seconds: float | None) -> str:
    """Three digits; "-" for None."""
    return "-" if seconds is None else digits(1e3 * seconds)


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{digits(value)}x"


def digits(value: float) -> str:
    """Three significant ones, without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))
