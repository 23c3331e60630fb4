"""A study: several arms and seeds, with outcomes, comparisons and rules that are fixed before the first run.

    python -m arada.study --study=configs/studies/ranking.py --workdir=DIR
    python -m arada.study --study=configs/studies/ranking.py --workdir=DIR --seeds=0,1 --arms=adals,ar_adals --status

Runs what is missing, a seed at a time, until it is done or the study's hours are spent; killed at any moment, the same
command continues. The result of each run and the page, index.md, are in the study's results folder (`study.results`,
else DIR/study), which is all that another machine needs to continue. `--cluster=slurm` makes the runs tasks of Slurm
arrays.
"""

import logging

from absl import app, flags
from ml_collections import config_flags

from arada import sweep
from arada.runtime import cluster as clusters
from arada.runtime import console, hosts, preemption
from arada.studies import design
from arada.studies.runner import Runner

# By name: as a command the module is called __main__.
logger = logging.getLogger("arada.study")


def main() -> None:
    """Entry point."""
    study = config_flags.DEFINE_config_file("study", None, "Path of a study, such as configs/studies/ranking.py.")
    workdir = flags.DEFINE_string("workdir", None, "Folder of the experiment; made if missing, resumed if not.")
    seeds = flags.DEFINE_list("seeds", [], "Only these of the study's seeds.")
    arms = flags.DEFINE_list("arms", [], "Only these of the study's arms, and the arms that they are ranked by.")
    status = flags.DEFINE_bool("status", False, "Runs nothing: prints what is left and writes the page.")
    cluster = flags.DEFINE_enum("cluster", "", ("", "slurm", "local"), "Where runs go; empty: here, one by one.")
    job = flags.DEFINE_multi_string("job", [], "A parameter of submitit, such as --job=timeout_min=600.")
    join_others = console.process_flags()
    flags.mark_flags_as_required(["study", "workdir"])

    def start(_) -> None:
        console.start_logging()
        with console.ending_in_one_line():
            join_others()
            preemption.listen()
            runner = Runner(study.value, workdir.value)
            tasks = design.selected(runner.study, seeds.value, arms.value)
            if status.value:
                runner.log_progress(tasks)
            else:
                parameters = clusters.parameters(job.value, sweep.value_of)
                submit = (
                    clusters.submitter(cluster.value, workdir.value, "study", parameters) if cluster.value else None
                )
                runner.run(tasks, submit)
            page = runner.write_page()
            if hosts.is_first():
                print(f"Page: {page}", flush=True)

    app.run(start, flags_parser=console.config_parser(study))


if __name__ == "__main__":
    main()
