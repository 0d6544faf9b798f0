"""Rows in aligned columns under headings."""

from collections.abc import Sequence

from tabulate import tabulate


def grid(rows: Sequence[Sequence[object]], headers: Sequence[str], alignment: str) -> list[str]:
    """The lines of a table; cells and headings may have several lines.

    Args:
        rows: the cells, printed as they are.
        headers: one for each column.
        alignment: a letter for each column, "l" or "r".
    """
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    sides = ["left" if letter == "l" else "right" for letter in alignment]
    # Headings as a row, since tabulate pads columns that have one by two characters.
    lines = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=sides).splitlines()
    return [line.rstrip() for line in lines]
