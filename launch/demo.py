"""Four methods on handwritten digits in one process, and one report: the program of launch/demo.sh.

python -m launch.demo workdir/digits
"""

import argparse

from arada.experiment import STAGES, Experiment
from arada.runtime import console, preemption
from configs import digits

METHODS = ("vanilla", "label_smoothing", "adals", "ar_adals")


def demo(workdir: str) -> None:
    """Runs all stages of each method, which skip what the workdir has, and writes the report once, at the end."""
    for method in METHODS:
        print(f"\n== python -m arada.main --config=configs/digits.py:{method} --workdir={workdir}", flush=True)
        experiment = Experiment(digits.get_config(method), workdir)
        for stage in STAGES[:-1]:
            experiment.run(stage)
    experiment.run("report")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="launch.demo", description="Four methods on handwritten digits.")
    parser.add_argument("workdir", help="made if missing, resumed if not")
    arguments = parser.parse_args()
    console.start_logging()
    with console.ending_in_one_line():
        preemption.listen()
        demo(arguments.workdir)


if __name__ == "__main__":
    main()
