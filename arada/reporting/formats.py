"""A table as CSV, Markdown and LaTeX. Names come from data: in none of the three can they become anything but text."""

import csv
import io
import math
import re
from typing import Any

import tabulate

from arada.reporting.tables import Table

FIRST = "Method"
# What a cell may have beside its number, and what CSV calls that.
_SPREAD = {"deviation": "standard deviation", "low": "lower end", "high": "upper end"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def number(cell: Any) -> float | str | None:
    """What a column sorts by: a number, None where there is none, or the text of a cell that is no number."""
    value = getattr(cell, "mean", str(cell))
    return value if isinstance(value, str) or math.isfinite(value) else None


def to_csv(table: Table) -> str:
    """Numbers in the column's unit, empty where nothing was run; deviations and intervals in columns of their own."""
    lines = [[FIRST], *([_unexecuted(label)] for label, _ in table.rows)]
    for i, heading in enumerate(map(_unexecuted, table.columns)):
        column = [cells[i] for _, cells in table.rows]
        spread = [field for field in _SPREAD if any(_digits(getattr(cell, field, math.nan)) for cell in column)]
        lines[0] += [heading, *(f"{heading}, {_SPREAD[field]}" for field in spread)]
        for line, cell in zip(lines[1:], column, strict=True):
            value = number(cell)
            line.append(_unexecuted(value) if isinstance(value, str) else _digits(value))
            line.extend(_digits(getattr(cell, field, math.nan)) for field in spread)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _unexecuted(text: str) -> str:
    """Text that spreadsheets do not take for a formula."""
    return f"'{text}" if re.match(r"[=+@\t\r]|-.", text) else text


def to_markdown(table: Table) -> str:
    """Heading, caption, table and definition."""
    lines = [[FIRST, *table.columns], *([label, *map(str, cells)] for label, cells in table.rows)]
    head, *rows = ([plain_markdown(text) for text in line] for line in lines)
    align = ("left", *["right"] * len(table.columns))
    body = tabulate.tabulate(rows, head, "pipe", colalign=align, disable_numparse=True)
    prose = [plain_markdown(text) for text in (table.caption, *table.definition)]
    return "\n\n".join([f"## {plain_markdown(table.title)}", prose[0], body, *prose[1:]]) + "\n"


def plain_markdown(text: str) -> str:
    """Text without links, HTML, emphasis and line breaks, and fit for a cell."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def to_latex(table: Table) -> str:
    """A `table` environment that needs no package."""
    lines = [[FIRST, *table.columns], *([label, *map(str, cells)] for label, cells in table.rows)]
    head, *body = (" & ".join(map(plain_latex, line)) + r" \\" for line in lines)
    caption = plain_latex(" ".join([f"{table.title}.", table.caption, *table.definition]))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\hline",
            head,
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def plain_latex(text: str) -> str:
    """Text in which nothing is a command."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


# By the ending of the file's name.
BY_ENDING = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
