"""Kills an experiment at random moments in every stage, goes on by the same command, and compares what comes of it with
an experiment that was left alone: every logged row, ranking, prediction and metric must be the same number.

    python tests/campaigns/kill.py --workdir=/tmp/kills --kills=40

Three of four kills are SIGKILL, the others SIGTERM, after which the exit code must be 0. Digits, in the `testing` size:
what is tried is the order of writes, not the numbers. Prints a Markdown table; goes on where it was stopped itself.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

STAGES = ("vanilla", "rank", "train", "evaluate", "report")
# Small batches and cadences make many moments; the method ranks on the fly, so that its training has rankings in it.
COMMAND = (
    *(sys.executable, "-m", "arada.main", "--config=configs/digits.py:ar_adals_on_the_fly,testing"),
    *("--config.seeds=(0,)", "--config.training.epochs=4", "--config.run.ranking_batch_size=16"),
    *("--config.run.log_every_steps=3", "--config.run.checkpoint_every_steps=2"),
)
KILLS_A_STAGE = 2
# What of a file is not a result.
TIMES = ("images_per_second", "time")


class Process:
    """One start of a stage; `begun` says that the imports are done and its work begins."""

    def __init__(self, workdir: pathlib.Path, stage: str):
        self._log = workdir.with_name(f"{workdir.name}.log")
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*COMMAND, f"--workdir={workdir}", f"--stage={stage}"],
                stderr=log,
                stdout=subprocess.DEVNULL,
                env=environment,
            )

    def wait_until_begun(self) -> None:
        while self._process.poll() is None and "mapped by" not in self.log():
            time.sleep(0.01)

    def log(self) -> str:
        return self._log.read_text()

    def kill(self, number: signal.Signals, after: float) -> bool:
        """False if it ended before; raises if SIGTERM is not obeyed."""
        try:
            self._process.wait(after)
            return self.finish() is None
        except subprocess.TimeoutExpired:
            heard = "mapped by" in self.log()
        self._process.send_signal(number)
        code = self._process.wait(120)
        # Before its work begins a process does not listen yet; it may also end by itself in this very moment.
        allowed = (0, -number) if number == signal.SIGKILL or not heard else (0,)
        if code not in allowed or "Traceback" in self.log():
            raise RuntimeError(f"exit code {code} after {number.name}:\n{self.log()}")
        return code == -number or "asked to stop" in self.log()

    def finish(self) -> None:
        if self._process.wait():
            raise RuntimeError(f"exit code {self._process.returncode}:\n{self.log()}")


def alone(workdir: pathlib.Path) -> dict[str, float]:
    """Runs all stages undisturbed; the seconds that the work of each takes."""
    seconds = {}
    for stage in STAGES:
        process = Process(workdir, stage)
        process.wait_until_begun()
        begin = time.monotonic()
        process.finish()
        seconds[stage] = time.monotonic() - begin
    return seconds


def disturbed(workdir: pathlib.Path, seconds: dict[str, float], rng: random.Random) -> list[dict]:
    """Runs all stages with kills in each; what was killed where."""
    kills = []
    for stage in STAGES:
        for _ in range(KILLS_A_STAGE):
            number = signal.SIGTERM if rng.random() < 0.25 else signal.SIGKILL
            process = Process(workdir, stage)
            process.wait_until_begun()
            if not process.kill(number, rng.uniform(0, seconds[stage])):
                break
            lines = process.log().strip().splitlines()
            kills.append({"stage": stage, "signal": number.name, "last_line": lines[-1] if lines else ""})
            print(f"{workdir.name} {stage:9} {number.name} after: {kills[-1]['last_line']}", flush=True)
        Process(workdir, stage).finish()
    return kills


def results(workdir: pathlib.Path) -> dict[str, object]:
    """All numbers of an experiment by file and name, and the names of the files that should not be there."""
    found = {}
    for path in sorted(workdir.glob("runs/*/*/metrics.jsonl")):
        found[str(path.relative_to(workdir))] = [timeless(json.loads(row)) for row in path.read_text().splitlines()]
    for path in sorted([*workdir.glob("robustness/**/*.npz"), *workdir.glob("predictions/**/*.npz")]):
        with np.load(path, allow_pickle=False) as arrays:
            found |= {f"{path.relative_to(workdir)}:{key}": arrays[key].tobytes() for key in arrays.files}
    found["evaluation.json"] = timeless(json.loads((workdir / "evaluation.json").read_text()))
    found["tables.md"] = (workdir / "report" / "tables.md").exists()
    leftovers = (path for pattern in ("**/*.new", "**/owner.json") for path in workdir.glob(pattern))
    # The folder of all methods belongs to no one who could tidy it.
    found["leftovers"] = [str(path.relative_to(workdir)) for path in leftovers if path.parent != workdir]
    return found


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(of) for key, of in value.items() if key not in TIMES}
    return [timeless(of) for of in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=40, help="campaigns are begun until there are so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root = options.workdir.absolute()
    root.mkdir(parents=True, exist_ok=True)
    of_alone = root / "alone.json"
    if not of_alone.exists():
        of_alone.write_text(json.dumps(alone(root / "alone")))
    seconds, expected = json.loads(of_alone.read_text()), results(root / "alone")
    kills, unequal, campaigns = [], {}, 0
    while len(kills) < options.kills:
        name = f"seed_{options.seed}_campaign_{campaigns}"
        done = root / f"{name}.json"
        if not done.exists():
            rng = random.Random(f"{options.seed} {campaigns}")
            done.write_text(json.dumps(disturbed(root / name, seconds, rng)))
        kills += json.loads(done.read_text())
        found = results(root / name)
        if differing := [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]:
            unequal[name] = sorted(differing)
        campaigns += 1
    by_stage = collections.Counter((kill["stage"], kill["signal"]) for kill in kills)
    print("\n| stage | SIGKILL | SIGTERM |\n|---|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {by_stage[stage, 'SIGKILL']} | {by_stage[stage, 'SIGTERM']} |")
    print(f"\n{len(kills)} kills in {campaigns} campaigns; {len(expected)} results compared in each;", end=" ")
    print(f"equal: {'no' if unequal else 'yes'}")
    for name, differing in unequal.items():
        print(f"{name} differs in {', '.join(differing[:10])}")
    sys.exit(bool(unequal))


if __name__ == "__main__":
    main()
