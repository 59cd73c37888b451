"""Tables as commands print them: for people who read them, and who copy an id out of them into the next command."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["add_id_column", "print_table"]

_ANY_WIDTH = 100_000
"""Characters; wider than any table."""


def add_id_column(table: Table, heading: str) -> None:
    """Add a column of ids, which `print_table` neither cuts nor breaks in two."""
    table.add_column(heading, no_wrap=True)


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or wider where ids do not fit into that; into a pipe, a line for each row.

    Nothing is cut: cells go on in the next line, and a terminal that is too narrow for the ids breaks the lines by itself.
    """
    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table)
    Console(width=max(console.width, needed.minimum if console.is_terminal else needed.maximum)).print(table)
