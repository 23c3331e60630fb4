"""Tables, figures and the HTML page of an experiment, from the files that evaluation wrote into its workdir."""

from arada.reporting.page import newest, write_report
from arada.reporting.tables import terminal_table

__all__ = ["newest", "terminal_table", "write_report"]
