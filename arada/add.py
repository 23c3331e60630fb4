"""Predictions of any framework, in the tables and figures of an experiment or in a report of their own.

    python -m arada.add --workdir=DIR --name=my_resnet --seed=0 --test=test.npz --validation=validation.npz

A file holds `logits` or `probabilities` [N, Z] and `label` [N]; `example_id` [N] where it is joined with an
experiment's images. Instead of .npz, LOGITS.npy,LABEL.npy[,ID.npy] works too. No data, no network and no training is
needed.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from etils import epath

from arada.errors import UserError


def add(arguments: argparse.Namespace) -> epath.Path | None:
    """Reads, checks and stores the predictions, and writes the report, whose path it returns. Raises UserError."""
    # Late: a mistake in the command need not wait for JAX.
    from arada.evaluation import added
    from arada.runs.workdir import Workdir

    workdir = Workdir(arguments.workdir)
    if arguments.reference and not (arguments.name or arguments.test):
        return _report(workdir, added.compared_with(workdir, arguments.reference))
    if not (arguments.name and arguments.test):
        raise UserError(
            "adding predictions needs --name and --test; --reference alone only changes the method that others are "
            "compared with"
        )
    clean = {
        name: added.read(f"--{name}", value, arguments.kind)
        for name, value in (("test", arguments.test), ("validation", arguments.validation))
        if value
    }
    shifted, ood = {}, {}
    for given in arguments.shifted:
        named, _, value = given.partition("=")
        name, at, severity = named.partition("@")
        if not (at and severity.isdigit() and value):
            raise UserError(f"--shifted {given}: it takes NAME@SEVERITY=FILE, such as noise@3=noise_3.npz")
        if (name, int(severity)) in shifted:
            raise UserError(f"--shifted {named} is given twice")
        shifted[name, int(severity)] = added.read(f"--shifted {named}", value, arguments.kind)
    for given in arguments.ood:
        name, _, value = given.partition("=")
        if not value or name in ood:
            raise UserError(f"--ood {given}: it takes NAME=FILE, each name once, such as svhn=svhn.npz")
        ood[name] = added.read(f"--ood {name}", value, arguments.kind, labelled=False)
    config = added.add(
        workdir,
        arguments.name,
        arguments.seed,
        clean,
        shifted,
        ood,
        dataset=arguments.dataset,
        reference=arguments.reference,
    )
    stored = [*clean, *(f"{name}@{severity}" for name, severity in shifted), *ood]
    print(f"Added: {arguments.name}/seed_{arguments.seed} with {', '.join(stored)}")
    return None if arguments.more_to_come else _report(workdir, config)


def _report(workdir, config) -> epath.Path:
    from arada import reporting
    from arada.evaluation import added

    evaluation = added.summarize(workdir, config)
    page = reporting.write_report(workdir.path)
    print(reporting.terminal_table(evaluation))
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m arada.add", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="an evaluated experiment, or a new folder")
    parser.add_argument("--name", default="", help="what tables call the method")
    parser.add_argument("--seed", type=int, default=0, help="of several runs of one name; 0")
    parser.add_argument("--test", default="", metavar="FILE", help="predictions of the test images")
    parser.add_argument("--validation", default="", metavar="FILE", help="of validation images, for calibrators")
    parser.add_argument("--shifted", nargs="+", action="extend", default=[], metavar="NAME@SEVERITY=FILE")
    parser.add_argument("--ood", nargs="+", action="extend", default=[], metavar="NAME=FILE", help="of other images")
    parser.add_argument("--kind", choices=("logits", "probabilities"), default="", help="what the files hold")
    parser.add_argument("--dataset", default="", help="what a new report calls the data; DIR's last part")
    parser.add_argument("--reference", default="", metavar="NAME", help="the method that others are compared with")
    parser.add_argument(
        "--more_to_come", action="store_true", help="only store; the last of several commands writes the report"
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        page = add(parser.parse_args(arguments))
        if page:
            print(f"Report: {page}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
