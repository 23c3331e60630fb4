"""Two processes rank one split as one process does: disjoint batches, distances exchanged, one global order."""

import os
import socket
import subprocess
import sys

import numpy as np

from arada.runtime import files

HOST = """
import sys
import jax, jax.numpy as jnp, numpy as np
from etils import epath

address, count, number, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), epath.Path(sys.argv[4])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, number)
from arada.runs import ranking as rankings
from arada.data.splits import Split
from arada.training.replication import Replicas

replicas = Replicas(jax.local_devices())
seen = []

def step(variables, batch):
    distance = variables * batch["image"][:, 0, 0, 0]
    return {"distance": jnp.where(distance < 1.5, distance, jnp.inf), "predicted": batch["label"] * 0 + 7}

mapped = replicas.map(step, in_axes=(None, 0), out_axes=0)

def counted(variables, batch):
    seen.append(int(batch["example_id"][0]))
    return mapped(variables, batch)

image = np.random.default_rng(0).choice(np.linspace(0.1, 0.9, 9), (26, 2, 2, 1)).astype(np.float32)
split = Split(image, np.arange(26, dtype=np.int32) % 3, np.arange(100, 126, dtype=np.int32))
settings = dict(num_subsets=3, batch_size=4, replicas=replicas, directory=folder)
def arrays(ranking):
    fields = {"example_id": "example_id", "score": "distance", "predicted": "predicted", "label": "label"}
    return {name: getattr(ranking, field) for field, name in fields.items()} | {"subset": ranking.subsets(3)}

whole = rankings.rank("train", counted, np.float32(2), split, **settings)
np.savez(folder / f"host_{number}.npz", attacked=seen, **arrays(whole))
# One batch for two hosts.
few = rankings.rank("few", counted, np.float32(2), split.take(np.arange(3)), **settings)
np.savez(folder / f"few_{number}.npz", **arrays(few))
"""


def rank(folder, count):
    """What each of `count` processes has of a ranking, with the batches it attacked, and of one of a single batch."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": os.getcwd()}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(count), str(number), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for host in hosts:
        _, errors = host.communicate(timeout=120)
        assert host.returncode == 0, errors
    return [[files.read_npz(folder / f"{name}_{number}.npz") for number in range(count)] for name in ("host", "few")]


def test_hosts_share_the_work_and_agree(tmp_path):
    (alone,), (few,) = rank(tmp_path / "alone", 1)
    together, few_together = rank(tmp_path / "together", 2)
    # Seven batches: four and three neighbours, on two devices each.
    assert [list(host["attacked"]) for host in together] == [[100, 108], [116, 124]]
    written = files.read_npz(tmp_path / "together" / "train.npz")
    for host in (*together, written):
        for key in ("example_id", "distance", "predicted", "label", "subset"):
            np.testing.assert_array_equal(host[key], alone[key], err_msg=key)
            assert host[key].dtype == alone[key].dtype
    assert np.isinf(alone["distance"]).any()
    assert list((tmp_path / "together").rglob("train_*.npz*")) == []
    for host in few_together:
        assert len(host["distance"]) == 3
        np.testing.assert_array_equal(host["distance"], few["distance"])
