"""How well cheap attacks rank a trained network's images: a study that no paper has, for any run.

    python -m arada.agreement --run=workdir/cifar10_laptop/runs/vanilla/seed_0 --examples=500

Attacks --examples training and as many validation images with every candidate below. It compares their ranks with the
ranks of Carlini-Wagner at the paper's settings and of the smallest distance that any attack found. Everything
goes into part files in RUN/agreement, where a killed study continues; agreement.json and table.md are written there.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import tabulate

from arada import attacks, data, metrics
from arada.errors import UserError
from arada.runs import ranking as rankings
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.ranks import Ranking
from arada.runtime import console, files, provenance
from arada.training.replication import Replicas

NUM_SUBSETS = 10
SPLITS = ("train", "validation")


class Candidate(NamedTuple):
    """A way to rank: `ranking.by` (or "estimate"), `ranking.attack`, its settings, and gradients per image without
    refining."""

    name: str
    by: str
    attack: str
    settings: Mapping[str, Any]
    gradients: float


def _attack(name: str, attack: str, gradients: float, **settings) -> Candidate:
    return Candidate(name, "attack", attack, settings, gradients)


REFERENCE = _attack("CW 3x500", "cw", 1500, binary_search_steps=3, max_iterations=500)
# The reference is last: all others can be inspected while it runs.
CANDIDATES = (
    Candidate("random", "random", "", {}, 0),
    Candidate("confidence", "confidence", "", {}, 0),
    Candidate("estimate alone", "estimate", "estimate", {"candidates": 1}, 1),
    _attack("first order, 1 class", "first_order", 1, candidates=1, refine_steps=0),
    _attack("first order, 3 classes", "first_order", 3, candidates=3, refine_steps=0),
    _attack("first order, refined", "first_order", 1, candidates=1, refine_steps=20),
    _attack("FMN 5", "fmn", 5, steps=5),
    _attack("FMN 10", "fmn", 10, steps=10),
    _attack("FMN 20", "fmn", 20, steps=20),
    _attack("FMN 50", "fmn", 50, steps=50),
    _attack("FMN 200", "fmn", 200, steps=200),
    _attack("SDF 2x(2+1)", "sdf", 6, rounds=2, steps=2, candidates=1),
    _attack("SDF 3x(3+1)", "sdf", 12, rounds=3, steps=3, candidates=1),
    _attack("SDF 3x(3x3+1)", "sdf", 30, rounds=3, steps=3, candidates=3),
    _attack("CW 1x100", "cw", 100, binary_search_steps=1, max_iterations=100),
    REFERENCE,
)


class Study:
    """The candidates' rankings of some images of one run."""

    def __init__(self, run: str, examples: int, batch_size: int, data_dir: str = ""):
        run_dir = files.absolute(run)
        config = self._config = workdirs.stored_config(run_dir)
        trained.check_single(run_dir)
        if not trained.is_finished(run_dir, config):
            raise UserError(f"{run_dir} has not finished training; run --stage=train first")
        if not NUM_SUBSETS <= examples <= min(config.data.num_train, config.data.num_validation):
            raise UserError(
                f"--examples is {examples}; it must lie between {NUM_SUBSETS} and the smaller of data.num_train="
                f"{config.data.num_train} and data.num_validation={config.data.num_validation}"
            )
        self.directory = run_dir / "agreement"
        identity = {"run": workdirs.stored(run_dir)["identity"], "examples": examples}
        workdirs.check_claim(self.directory, identity)
        self._replicas = Replicas(jax.local_devices())
        if batch_size % len(self._replicas):
            raise UserError(
                f"--batch_size is {batch_size}, which cannot be divided among {len(self._replicas)} devices"
            )
        self._batch_size = batch_size
        self._rankers: dict[str, rankings.Ranker] = {}
        self._model = trained.build_ranked(config)
        variables = trained.final_variables(run_dir)
        splits = data.load_splits(data.build(config.data, data_dir or config.run.data_dir), config.data)
        self._splits = {
            name: splits[name].take(np.random.default_rng(0).choice(len(splits[name]), examples, replace=False))
            for name in SPLITS
        }
        rankings.check(self._model, variables, self._splits)
        workdirs.claim(self.directory, identity, config)
        self._variables = self._replicas.replicate(variables)

    def rank(self, candidate: Candidate) -> dict[str, Ranking]:
        """The candidate's ranking of each split, from its files if they exist."""
        directory = self.directory / candidate.name.lower().replace(" ", "_").replace(",", "")
        workdirs.claim(directory, {"settings": dict(candidate.settings)}, self._config)
        if candidate.by == "random":
            rank = functools.partial(rankings.rank_at_random, num_subsets=NUM_SUBSETS)
        else:
            rank = functools.partial(self._ranker(candidate).rank, variables=self._variables)
        return {
            name: rank(name=name, split=split, directory=directory / "ranking") for name, split in self._splits.items()
        }

    def images_per_second(self, candidate: Candidate) -> float:
        """Best of two on one batch of training images, compiled; Carlini-Wagner at a 25th of its iterations."""
        share = 1
        if candidate.attack == "cw":
            share = 25
            fewer = {**candidate.settings, "max_iterations": candidate.settings["max_iterations"] // share}
            candidate = candidate._replace(name=f"{candidate.name} / {share}", settings=fewer)
        ranker = self._ranker(candidate)
        seconds = self._seconds(ranker.mapped) * share
        if ranker.refine:
            seconds += self._refined_fraction(candidate) * self._seconds(ranker.refine)
        return self._batch_size / seconds

    def gradients(self, candidate: Candidate) -> float:
        """Gradients an image."""
        steps = candidate.settings.get("refine_steps", 0)
        return candidate.gradients + (steps * self._refined_fraction(candidate) if steps else 0)

    def _refined_fraction(self, candidate: Candidate) -> float:
        return float(np.mean([np.mean(np.asarray(ranking.refined)) for ranking in self.rank(candidate).values()]))

    def _ranker(self, candidate: Candidate) -> rankings.Ranker:
        if candidate.name not in self._rankers:
            ranking = ml_collections.ConfigDict({"by": "attack" if candidate.attack else candidate.by})
            if candidate.attack:
                ranking[candidate.attack] = dict(candidate.settings)
            self._rankers[candidate.name] = rankings.Ranker(
                self._model,
                ranking,
                attack=candidate.attack,
                num_subsets=NUM_SUBSETS,
                batch_size=self._batch_size,
                replicas=self._replicas,
            )
        return self._rankers[candidate.name]

    def _seconds(self, mapped) -> float:
        batch = next(self._splits["train"].in_order(self._batch_size))
        found = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(mapped(self._variables, batch))
            found.append(time.perf_counter() - start)
        return min(found[1:])


def compare(ranking: Ranking, reference: Ranking, best: np.ndarray, log_odds: np.ndarray) -> dict[str, float | None]:
    """One candidate on one split against the reference's ranking and against the best distances known.

    log_odds float[N]: the network's log-odds of its predicted class. `gap_difference` is the largest difference, over
    the subsets, between the candidate's and the reference's (confidence - accuracy): what AR-AdaLS learns from.
    """
    confidence = 1 / (1 + np.exp(-log_odds.astype(np.float64)))

    def gaps(ranking: Ranking) -> np.ndarray:
        return metrics.subset_means(confidence - reference.correct, ranking.subsets(NUM_SUBSETS), NUM_SUBSETS)

    found = attacks.agreement(ranking.score, reference.score, NUM_SUBSETS)
    against_best = attacks.agreement(ranking.score, best, NUM_SUBSETS)
    found |= {f"{key}_of_best": against_best[key] for key in ("spearman", "same_subset", "median_ratio")}
    found["gap_difference"] = float(np.abs(gaps(ranking) - gaps(reference)).max())
    if ranking.kind == "distance":
        found["success_rate"] = ranking.success_rate
        found["median_distance"] = float(np.median(ranking.score))
    else:
        del found["median_ratio"], found["median_ratio_of_best"]
    # A short attack may fail everywhere: JSON knows neither infinity nor NaN.
    return {key: value if math.isfinite(value) else None for key, value in found.items()}


def best_distance(rankings: Iterable[Ranking]) -> np.ndarray:
    """The smallest distance [N] that an attack really found; distances that refining only predicts do not count."""
    found = [
        ranking.score if ranking.refined is None else np.where(ranking.refined, ranking.score, np.inf)
        for ranking in rankings
        if ranking.kind == "distance"
    ]
    return functools.reduce(np.minimum, found)


def table(study: dict[str, Any]) -> str:
    """The study as a Markdown table; the two numbers in a cell are for training and validation images."""
    columns = (
        ("success, %", "success_rate", 100, ".1f"),
        ("median L2", "median_distance", 1, ".4f"),
        ("Spearman", "spearman", 1, ".4f"),
        ("same subset, %", "same_subset", 100, ".1f"),
        ("±1, %", "adjacent_subset", 100, ".1f"),
        ("same as best, %", "same_subset_of_best", 100, ".1f"),
        ("gap off by, %", "gap_difference", 100, ".1f"),
    )
    names = ["ranking", "gradients", *(column[0] for column in columns), "images/s"]
    lines = []
    for row in study["candidates"]:
        cells = [row["name"], f"{row['gradients']:.4g}" if row["attack"] else "-"]
        for _, key, scale, spec in columns:
            values = [row[split].get(key) for split in SPLITS]
            cells.append("-" if None in values else " / ".join(format(scale * value, spec) for value in values))
        speed = row["images_per_second"]
        cells.append("-" if not speed else f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}")
        lines.append(cells)
    note = f"Two numbers in a cell: {study['examples']} training and {study['examples']} validation images."
    return f"{tabulate.tabulate(lines, names, 'pipe', disable_numparse=True)}\n\n{note}\n"


def run(study: Study, examples: int) -> dict[str, Any]:
    """Every candidate against the reference, as agreement.json holds it."""
    rankings = {candidate.name: study.rank(candidate) for candidate in CANDIDATES}
    rows = []
    for candidate in CANDIDATES:
        row: dict[str, Any] = {key: getattr(candidate, key) for key in ("name", "by", "attack", "settings")}
        row["gradients"] = study.gradients(candidate)
        row["images_per_second"] = None if candidate.by == "random" else study.images_per_second(candidate)
        for split in SPLITS:
            row[split] = compare(
                rankings[candidate.name][split],
                rankings[REFERENCE.name][split],
                best_distance(by_split[split] for by_split in rankings.values()),
                rankings["confidence"][split].score,
            )
        rows.append(row)
    return {
        "reference": REFERENCE.name,
        "examples": examples,
        "num_subsets": NUM_SUBSETS,
        "candidates": rows,
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
    }


def main(argv: list[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="arada.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of a trained run: WORKDIR/runs/NAME/seed_S")
    parser.add_argument("--examples", type=int, default=500, help="number of training images, and of validation images")
    parser.add_argument("--batch_size", type=int, default=50, help="images of a part file")
    parser.add_argument("--data_dir", default="", help="folder of TFDS data, if not the run's run.data_dir")
    arguments = parser.parse_args(argv)
    console.start_logging()
    with console.ending_in_one_line():
        study = Study(arguments.run, arguments.examples, arguments.batch_size, arguments.data_dir)
        found = run(study, arguments.examples)
        files.write_text(study.directory / "table.md", table(found))
        files.write_json(study.directory / "agreement.json", found)
        print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
