"""Tables as commands print them: for people who read them, and who copy an id out of them into the next command."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ["add_id_column", "add_number_columns", "print_fields", "print_table"]

_SHORT = 24
"""Characters up to which a cell is no prose: a time with a space in it is one thing."""
_GAP = "  "
_INDENT = "  "
"""So narrow that the name of a bundle, 77 characters, fits behind it."""


def add_id_column(table: Table, heading: str) -> None:
    """Add a column of ids, which `print_table` neither cuts nor breaks in two."""
    table.add_column(heading, no_wrap=True)


def add_number_columns(table: Table, *headings: str) -> None:
    """Add columns of numbers, which stand one below the other by their last digit."""
    for heading in headings:
        table.add_column(heading, justify="right")


def print_table(table: Table) -> None:
    """Print a table whose cells are words and ids as they are; into a pipe, a line for each row.

    Nothing is cut: on a terminal prose goes on in the next line, between words. Where even that is too wide the box is left
    out, and what still does not fit beside the rest follows in an indented line below it.
    """
    console = Console()
    shapes = [_Shape.of(console, table, number) for number in range(len(table.columns))]
    frame = 3 * len(shapes) + 1
    wide = sum(shape.natural for shape in shapes) + frame
    least = sum(shape.least for shape in shapes) + frame
    width = min(console.width, wide) if console.is_terminal else wide
    if least > width:
        _print_without_box(table, shapes, console)
        return
    spare = width - least
    for column, shape in zip(table.columns, shapes, strict=True):
        more = min(spare, shape.natural - shape.least)
        column.width, column.overflow = shape.least + more, "fold"
        spare -= more
    Console(width=max(console.width, width)).print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print what something is called and what it is, a line for each.

    On a terminal prose goes on below itself, between words, and an id that does not fit beside its name stands below that.
    """
    rows = list(fields)
    console = Console()
    beside = max((cell_len(name) for name, _ in rows), default=0) + len(_GAP)
    for name, value in rows:
        if console.is_terminal and beside + _longest_word([value]) > console.width:
            print(name)
            _print_line(_INDENT + value, console, more_indent=_INDENT)
        else:
            _print_line(_padded(name, beside) + value, console, more_indent=" " * beside)


@dataclass(frozen=True)
class _Shape:
    """A column's texts, its heading first, and the characters that it takes."""

    texts: Sequence[str]
    natural: int
    """Each cell on one line."""
    least: int
    """Its prose broken between words."""
    is_right: bool

    @classmethod
    def of(cls, console: Console, table: Table, number: int) -> "_Shape":
        column = table.columns[number]
        cells = [*([column.header] if table.show_header else []), *column.cells]
        texts = [console.render_str(cell).plain if isinstance(cell, str) else str(cell) for cell in cells]
        natural = max(map(cell_len, texts), default=0)
        least = natural if column.no_wrap or natural <= _SHORT else _longest_word(texts)
        return cls(texts, natural, least, column.justify == "right")


def _print_without_box(table: Table, shapes: Sequence[_Shape], console: Console) -> None:
    lines: list[list[_Shape]] = []
    used = 0
    for shape in shapes:
        if lines and used + len(_GAP) + shape.natural <= console.width:
            lines[-1].append(shape)
            used += len(_GAP) + shape.natural
        else:
            used = (len(_INDENT) if lines else 0) + shape.natural
            lines.append([shape])
    if table.title:
        print(table.title)
    for row in range(len(shapes[0].texts)):
        for number, line in enumerate(lines):
            cells = (_padded(shape.texts[row], shape.natural, is_right=shape.is_right) for shape in line)
            if text := _GAP.join(cells).rstrip():
                indent = _INDENT if number else ""
                _print_line(indent + text, console, more_indent=indent + _GAP)
    if table.caption:
        print(table.caption)


def _longest_word(texts: Iterable[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _print_line(text: str, console: Console, *, more_indent: str) -> None:
    # Words as long as a digest are left to the terminal, from which they then are copied whole.
    if console.is_terminal and cell_len(text) > console.width:
        text = fill(
            text,
            console.width,
            subsequent_indent=more_indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    print(text)


def _padded(text: str, width: int, *, is_right: bool = False) -> str:
    padding = " " * (width - cell_len(text))
    return padding + text if is_right else text + padding
