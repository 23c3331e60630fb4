"""The page of a study, in Markdown: the verdicts, the rules, the outcomes, and all runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from arada import metrics
from arada.evaluation import verdict
from arada.evaluation.intervals import LEVEL, Interval
from arada.studies import design, outcomes
from arada.studies.design import Task

Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]


def page(
    study: ml_collections.ConfigDict,
    finished: Mapping[Task, Mapping[str, Any]],
    left: Mapping[Task, float | None],
    probabilities: Callable[[Task], tuple[np.ndarray, np.ndarray] | None],
) -> str:
    """The page on the `finished` runs; `left` holds the expected hours of the other runs."""
    runs = by_arm(study, finished)
    parts = [
        f"# {study.question}",
        f"Study `{study.name}`, stated {study.stated}, before its first run. Runs finished: "
        f"{len(finished)}; left: {len(left)}. This page is written by `python -m arada.study`.",
        "## Verdict",
        *_verdicts(study, runs),
        "## Rules",
        *_rules(study),
        "## Differences",
        f"Paired within each seed: mean [{LEVEL:.0%} interval over seeds, Student's t]. {_UNITS}",
        _differences(study, runs),
        "## Arms",
        "Mean ± standard deviation over seeds. The variance over seeds is the variance of the predicted class's "
        "probability on the test images, times 1000.",
        _arms(study, runs, finished, probabilities),
        *_choices(study, finished),
        "## Finished runs",
        _run(finished),
        "## Runs that are left",
        _not_run(left),
    ]
    return "\n\n".join(parts) + "\n"


_UNITS = "Calibration errors, accuracy, Brier scores and AUROC times 100, NLL in nats."


def by_arm(study: ml_collections.ConfigDict, finished: Mapping[Task, Mapping[str, Any]]) -> Runs:
    """The finished runs of each arm by seed, without candidates of choices."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {arm: {} for arm in study.arms}
    for task, run in finished.items():
        if not task.is_candidate:
            runs[task.arm][task.seed] = run
    return runs


def verdicts(study: ml_collections.ConfigDict, runs: Runs) -> dict[str, verdict.Verdict]:
    """The verdict on every claim, by its rules."""
    decided = {}
    for name, claim in study.claims.items():
        claimed = [_loss(study, runs, *pair) for pair in claim.upheld_by]
        against = _loss(study, runs, *claim.refuted_by)
        decided[name] = verdict.decide(claimed, against, smallest_effect(study, claim, runs))
    return decided


def _difference(study, runs, comparison: str, outcome: str) -> Interval | None:
    compared = study.comparisons[comparison]
    return outcomes.difference(runs[compared.arm], runs[compared.reference], study.outcomes[outcome].of)


def _loss(study, runs, comparison: str, outcome: str) -> Interval | None:
    """The difference with the sign of a loss: below 0 where the arm is better."""
    found = _difference(study, runs, comparison, outcome)
    if found is None or study.outcomes[outcome].better != "higher":
        return found
    return Interval(-found.estimate, -found.high, -found.low, found.seeds)


def smallest_effect(study: ml_collections.ConfigDict, claim: ml_collections.ConfigDict, runs: Runs) -> float | None:
    """The smallest effect that matters: the claim's share of an arm's outcome; None before the arm's first run."""
    effect = claim.smallest_effect
    values = outcomes.by_seed(runs[effect.arm], study.outcomes[effect.outcome].of).values()
    return effect.share * float(np.mean(list(values))) if values else None


def _verdicts(study, runs) -> Iterable[str]:
    for name, decided in verdicts(study, runs).items():
        claim = study.claims[name]
        decisive = "; ".join(_in_words(study, *pair) for pair in claim.upheld_by)
        pairs = (study.comparisons[comparison] for comparison, _ in (*claim.upheld_by, claim.refuted_by))
        done, planned = min(len(_common(runs, pair)) for pair in pairs), len(study.seeds)
        so_far = f" Provisional: {done} of {planned} seeds are done." if done < planned else ""
        reasons = f"Reason: {decided.reason}. It depends on {decisive}."
        yield f"**{decided.kind.capitalize()}**: {claim.says} {reasons}{so_far}{_costs(study, runs, claim)}"


def _costs(study, runs, claim) -> str:
    """The outcomes in which an arm of the claim is worse: rules on calibration alone do not see them."""
    text = ""
    for name in dict.fromkeys(name for name, _ in claim.upheld_by):
        comparison = study.comparisons[name]
        worse = [
            f"{study.outcomes[outcome].says} {_in_brackets(_difference(study, runs, name, outcome), outcome, study)}"
            for outcome in study.outcomes
            if (loss := _loss(study, runs, name, outcome)) and loss.low > 0
        ]
        if worse:
            text += f" {_label(comparison.arm)} is measurably worse than {_label(comparison.reference)} in "
            text += "; ".join(worse) + "."
    return text


def _common(runs: Runs, comparison) -> set[int]:
    """The seeds that both sides of a comparison have."""
    return runs[comparison.arm].keys() & runs[comparison.reference].keys()


def _rules(study) -> Iterable[str]:
    for claim in study.claims.values():
        upheld = " and the interval of ".join(_in_words(study, *pair) for pair in claim.upheld_by)
        effect = claim.smallest_effect
        yield (
            f"*{claim.says}* Upheld if the interval of {upheld} lies on the better side of 0. Refuted if the interval "
            f"of {_in_words(study, *claim.refuted_by)} excludes a gain of {100 * effect.share:.3g} % of the "
            f"{study.outcomes[effect.outcome].says} of {_label(effect.arm)}. Otherwise open."
        )
    yield f"Only the budget of {study.budget_hours:g} hours stops the runs, never their results."
    yield _table(
        ("outcome", "meaning", "path", "better"),
        ((name, outcome.says, f"`{outcome.of}`", outcome.better) for name, outcome in study.outcomes.items()),
    )


def _in_words(study, comparison: str, outcome: str) -> str:
    """A difference, such as "*AR-AdaLS minus AdaLS* in ECE under shift"."""
    arm, reference = study.comparisons[comparison].arm, study.comparisons[comparison].reference
    return f"*{_label(arm)} minus {_label(reference)}* in {study.outcomes[outcome].says}"


def _label(arm: str) -> str:
    from arada.reporting import names  # brings matplotlib, which takes a second that a study's start need not wait

    return names.style(arm).label


def _differences(study, runs) -> str:
    rows = (
        (
            name,
            f"{comparison.arm} - {comparison.reference}",
            len(_common(runs, comparison)),
            *(_in_brackets(_difference(study, runs, name, outcome), outcome, study) for outcome in study.outcomes),
        )
        for name, comparison in study.comparisons.items()
    )
    return _table(("comparison", "difference", "seeds", *study.outcomes), rows)


def _in_brackets(found: Interval | None, outcome: str, study) -> str:
    if not found:
        return "not run"
    of = study.outcomes[outcome]
    estimate, low, high = (f"{_factor(of) * number:+.{_digits(of)}f}" for number in found[:3])
    return f"{estimate} [{low}, {high}]"


def _arms(study, runs, finished, probabilities) -> str:
    def cell(arm, outcome) -> str:
        values = [_factor(outcome) * number for number in outcomes.by_seed(runs[arm], outcome.of).values()]
        spread = f" ± {np.std(values, ddof=1):.{_digits(outcome)}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{_digits(outcome)}f}{spread}" if values else "not run"

    def variance(arm) -> str:
        stored = [probabilities(task) for task in finished if task.arm == arm and not task.is_candidate]
        stored = [arrays for arrays in stored if arrays]
        if len(stored) < 2:
            return "not run"
        kind = study.arms[arm].evaluation.variance_of
        found = metrics.prediction_variance(np.stack([predicted for predicted, _ in stored]), stored[0][1], kind)
        return f"{1000 * float(np.mean(found)):.2f}"

    rows = (
        (arm, len(runs[arm]), *(cell(arm, outcome) for outcome in study.outcomes.values()), variance(arm))
        for arm in study.arms
    )
    return _table(("arm", "seeds", *study.outcomes, "variance over seeds"), rows)


def _choices(study, finished) -> Iterable[str]:
    chosen = design.chosen(study, finished)
    for name, choice in study.choices.items():
        found = chosen.get(name)
        by_value = found and ", ".join(f"{value}: {100 * ece:.2f}" for value, ece in found["validation_ece"].items())
        text = f"{found['value']} (validation ECE in percent by value: {by_value})" if found else "not run"
        yield f"Chosen on the validation set by {choice.arm}, seed {choice.seed}, for {', '.join(choice.arms)}:"
        yield f"- {name} = {text}"


def _run(finished) -> str:
    if not finished:
        return "Nothing yet."
    rows = []
    for name, by_seed in _by_name(finished).items():
        runs = by_seed.values()
        accuracies = [run["metrics"].get("train_accuracy") for run in runs]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        rows.append(
            (
                name,
                _seeds(by_seed),
                f"{sum(run['hours'] for run in runs):.2f}",
                _distinct(f"`{run['commit']}`" for run in runs),
                _distinct(run["hardware"] for run in runs),
                f"{100 * float(np.mean(known)):.1f}" if known else "not known",
                _distinct(missing for run in runs for missing in _absent(run.get("absent", {}))) or "none",
            )
        )
    total = sum(run["hours"] for run in finished.values())
    header = ("runs", "seeds", "hours", "commits", "hardware", "mean training accuracy", "missing data")
    return _table(header, rows) + f"\n\n{len(finished)} runs, {total:.2f} hours."


def _absent(absent: Mapping[str, Any]) -> Iterable[str]:
    return (name for part in absent.values() for missing in part.values() for name in missing)


def _not_run(left) -> str:
    if not left:
        return "None: all planned runs are done."
    rows = []
    for name, by_seed in _by_name(left).items():
        hours = list(by_seed.values())
        rows.append((name, _seeds(by_seed), "unknown" if None in hours else f"{sum(hours):.2f}"))
    return _table(("runs", "seeds", "expected hours"), rows)


def _by_name(of_tasks: Mapping[Task, Any]) -> dict[str, dict[int, Any]]:
    """The values by the name of the runs and their seed, in the order of the tasks."""
    found: dict[str, dict[int, Any]] = {}
    for task, value in of_tasks.items():
        found.setdefault(task.name, {})[task.seed] = value
    return found


def _seeds(seeds: Iterable[int]) -> str:
    """Such as "0 to 19" or "0, 2, 5"."""
    seeds = sorted(seeds)
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _distinct(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _factor(outcome) -> float:
    return 1.0 if outcome.of.endswith(".nll") else 100.0


def _digits(outcome) -> int:
    return 3 if outcome.of.endswith(".nll") else 2


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
