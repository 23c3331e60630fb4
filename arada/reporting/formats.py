"""A table as CSV, Markdown and LaTeX. Names come from data: all three formats escape them, so that they stay text."""

import csv
import io
import math
import re
from typing import Any

import tabulate

from arada.reporting.tables import Table

FIRST = "Method"
# Fields that a cell may have besides its mean, and their headings in CSV.
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
    """The value that a column sorts by: a number, None for a missing one, or the text of a cell without a number."""
    value = getattr(cell, "mean", str(cell))
    return value if isinstance(value, str) or math.isfinite(value) else None


def to_csv(table: Table) -> str:
    """Numbers in the column's unit, empty if not run; deviations and interval ends have their own columns."""
    lines = [[FIRST], *([_not_a_formula(label)] for label, _ in table.rows)]
    for i, heading in enumerate(map(_not_a_formula, table.columns)):
        column = [cells[i] for _, cells in table.rows]
        spread = [field for field in _SPREAD if any(_digits(getattr(cell, field, math.nan)) for cell in column)]
        lines[0] += [heading, *(f"{heading}, {_SPREAD[field]}" for field in spread)]
        for line, cell in zip(lines[1:], column, strict=True):
            value = number(cell)
            line.append(_not_a_formula(value) if isinstance(value, str) else _digits(value))
            line.extend(_digits(getattr(cell, field, math.nan)) for field in spread)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _not_a_formula(text: str) -> str:
    """The text, with a quote in front if a spreadsheet would run it as a formula."""
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
    """Text for a table's cell, without links, HTML, emphasis and line breaks."""
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
    """Text without LaTeX commands."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


# By the ending of the file's name.
BY_ENDING = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
