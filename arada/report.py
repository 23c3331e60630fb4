"""The report of evaluated experiments, written again without data or model; for several, one page that compares them.

python -m arada.report workdir/digits
python -m arada.report workdir/cifar10 workdir/cifar100 --output=both.html
"""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from arada.errors import UserError
from arada.runtime import console, files


def report(workdirs: Sequence[str], output: str = "") -> epath.Path:
    """Writes the report of one workdir into it, or a page on several to `output`; returns the page's path.

    Raises UserError.
    """
    from arada.reporting import page  # matplotlib: a second that a mistake in the command need not wait

    named = [files.absolute(workdir) for workdir in workdirs]
    if len(set(named)) < len(named):
        raise UserError(f"DIR: {', '.join(workdirs)} names one folder twice; name each experiment once")
    page_file = epath.Path(output or "report.html").expanduser()
    if output and page_file.is_dir():
        raise UserError(f"--output={output} is a folder; name a file")
    try:
        if len(named) > 1:
            return page.write_comparison(named, page_file)
        written = page.write_report(named[0])
        return written.copy(page_file, overwrite=True) if output else written
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{error.filename or output}: {reason}; fix that, or choose another --output") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m arada.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="folder of an experiment that has been evaluated")
    parser.add_argument(
        "--output", default="", metavar="FILE", help="the page; DIR/report/index.html of one DIR, else report.html"
    )
    parsed = parser.parse_args(arguments)
    console.show_any_text()
    try:
        print(f"Report: {report(parsed.workdirs, parsed.output)}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
