"""Tables, figures and the HTML page of an experiment, from the files that evaluation wrote into its workdir."""

from etils import epath

from arada.reporting.tables import terminal_table

__all__ = ["newest", "terminal_table", "write_report"]


def newest(workdir: epath.PathLike) -> epath.Path | None:
    """The workdir's page, if it was written after its metrics; else None."""
    page, metrics = epath.Path(workdir) / "report" / "index.html", epath.Path(workdir) / "evaluation.json"
    if not (page.exists() and metrics.exists()):
        return None
    # In whole seconds: written in the same one, either could be older.
    return page if page.stat().mtime > metrics.stat().mtime else None


def write_report(workdir: epath.PathLike) -> epath.Path:
    """`arada.reporting.page.write_report`."""
    from arada.reporting import page  # matplotlib: a second that a report which is there need not wait for

    return page.write_report(workdir)
