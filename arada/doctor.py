"""Checks this machine: what is installed, whether it computes correctly, how fast, and what a config would cost here.

    python -m arada.doctor [--config=configs/cifar10.py:ar_adals] [--price=DOLLARS_AN_HOUR] [--json]

One line a finding, with its remedy; exit code 1 if something is wrong. It takes two minutes on a CPU, where the cost of
a config's large batches is extrapolated from smaller ones. It writes nothing but the outcome of the trial of oneDNN
(arada/runtime/kernels.py), which training would write. Several processes start it as they start training; each measures
its own devices and the first one prints.
"""

import json
import sys
from collections.abc import Iterator

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from arada import checks
from arada.errors import UserError
from arada.machines import cost, inputs, installed, numbers, speed
from arada.machines.findings import Finding, exit_code
from arada.runtime import backend, console, hosts, kernels
from arada.training.replication import Replicas


def examine(config: ml_collections.ConfigDict | None, price: float = 0.0) -> Iterator[Finding]:
    """All findings, those about the config last. Raises UserError for a config that cannot run anywhere."""
    yield from installed.findings()
    yield from numbers.findings()
    if config is None:
        return
    devices, processes = backend.devices()[: config.run.num_devices or None], jax.process_count()
    checks.check_config(config, len(devices), processes)
    there = inputs.Inputs(config)
    yield from there.findings()
    try:
        replicas = Replicas(devices, "shard_map").own
        speeds = speed.measure(config, replicas, processes, kernels.choose(config, devices))
    except UserError as error:
        yield Finding("train step", "wrong", str(error))
        return
    yield from cost.findings(
        config,
        speed.ceilings(),
        speeds,
        devices,
        num_test=there.num_test,
        input_seconds=there.batch_seconds(),
        price=price,
    )


def main() -> None:
    """Entry point."""
    config = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
    price = flags.DEFINE_float("price", 0.0, "Dollars an hour of this machine.", lower_bound=0.0)
    as_json = flags.DEFINE_bool("json", False, "One JSON object, for scripts.")
    join_others = console.process_flags()

    def start(_) -> None:
        console.start_logging()
        found = []
        with console.ending_in_one_line():
            join_others()
            for finding in examine(config.value, price.value):
                found.append(finding)
                if hosts.is_first() and not as_json.value:
                    print(finding.line(), flush=True)
        if hosts.is_first() and as_json.value:
            print(json.dumps({"findings": [finding.as_json() for finding in found]}, indent=1))
        sys.exit(exit_code(found))

    app.run(start, flags_parser=console.config_parser(config))


if __name__ == "__main__":
    main()
