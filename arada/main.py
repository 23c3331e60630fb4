"""Command line: runs one config in one workdir, one stage or all.

    python -m arada.main --config=configs/digits.py:ar_adals --workdir=workdir/digits

It has no logic, so that everything else can be imported.
"""

from absl import app, flags
from ml_collections import config_flags

from arada.experiment import STAGES, Experiment
from arada.runtime import console, hosts, preemption

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment; made if missing, resumed if not.")
_STAGE = flags.DEFINE_enum("stage", "all", ("all", *STAGES), "The stage to run.")
_JOIN_OTHERS = console.process_flags()


def main(_) -> None:
    """Runs the stages; a user's mistake ends in one line and exit code 1, a stop on request in one and exit code 0."""
    console.start_logging()
    with console.ending_in_one_line():
        _JOIN_OTHERS()
        preemption.listen()
        Experiment(_CONFIG.value, _WORKDIR.value or "").run(_STAGE.value)
        if hosts.is_first():  # the last line, by which scripts distinguish a finished run from a stopped one
            print(f"Done: {_STAGE.value}", flush=True)


def run() -> None:
    """Entry point."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=console.config_parser(_CONFIG))


if __name__ == "__main__":
    run()
