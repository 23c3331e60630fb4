"""The only file that maps a function over devices.

A per-device function is written once, with collectives over the axis `BATCH_AXIS`, and mapped by `jax.pmap` or by
`jax.jit(jax.shard_map)`. Arguments with axis None are replicated, those with axis 0 are batches whose leading axis is
divided among the devices; callers see no device axis.

Where several processes map one function together, each calls it with its share of the batch, and holds arrays on its
own devices only: both mappings combine them into arrays over all devices and back, without a copy.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arada.data.splits import Share
from arada.models import BATCH_AXIS, cpu
from arada.runtime import backend

MAPPINGS = ("pmap", "shard_map")


@dataclasses.dataclass(frozen=True)
class DeviceBatch:
    """A batch on the devices, divided among them: `Replicas.place` makes it, a mapped function takes it."""

    arrays: Any


class Replicas:
    """Devices and the way to map over them; those of one process are neighbours, equally many for each process.

    `share` is the part of every batch that this process holds. Mapped functions use `cpu_kernels` on CPUs.
    """

    def __init__(self, devices: Sequence[jax.Device], mapping: str = "pmap", cpu_kernels: str = "stock"):
        if mapping not in MAPPINGS:
            raise ValueError(f"mapping must be one of {MAPPINGS}, not {mapping!r}")
        self.devices = tuple(devices)
        self.mapping = mapping
        self.cpu_kernels = cpu_kernels
        self._mesh = Mesh(np.asarray(self.devices), (BATCH_AXIS,))
        processes = sorted({device.process_index for device in self.devices})
        self.share = Share(processes.index(jax.process_index()), len(processes))

    def __len__(self) -> int:
        return len(self.devices)

    @functools.cached_property
    def own(self) -> "Replicas":
        """The devices of this process only, for passes over batches that differ by process."""
        if self.share.count == 1:
            return self
        own = [d for d in self.devices if d.process_index == jax.process_index()]
        return Replicas(own, self.mapping, self.cpu_kernels)

    def using(self, cpu_kernels: str) -> "Replicas":
        """The same devices, with these kernels."""
        return self if cpu_kernels == self.cpu_kernels else Replicas(self.devices, self.mapping, cpu_kernels)

    def replicate(self, tree):
        """`tree` on every device of this process. Placed once; a mapped function's replicated outputs stay in place.

        A JAX array that is already on a device is not copied there, so donating the result also invalidates it.
        """
        return jax.device_put(tree, NamedSharding(self._mesh.local_mesh, PartitionSpec()))

    def place(self, batch) -> DeviceBatch:
        """`batch`, this process' share, on its way to the devices.

        A GPU's copy waits for the work that was dispatched before it: place the next batch before a step's dispatch.
        """
        sharding = NamedSharding(self._mesh.local_mesh, PartitionSpec(BATCH_AXIS))
        return DeviceBatch(jax.device_put(self._cut(batch), sharding))

    def map(
        self, f: Callable, *, in_axes: tuple[int | None, ...], out_axes, donate_argnums: tuple[int, ...] = ()
    ) -> Callable:
        """`f` over all devices; `in_axes` and `out_axes` hold None (replicated) or 0 (cut along the batch).

        Outputs with axis None must be equal on all devices (by a `psum` or `pmean`): pmap does not check. Outputs
        with axis 0 are to be read by `fetch`.
        """
        if self.cpu_kernels != "stock":
            f = cpu.kernels(self.cpu_kernels)(f)
        if self.mapping == "pmap":
            mapped = jax.pmap(
                f,
                axis_name=BATCH_AXIS,
                in_axes=in_axes,
                out_axes=out_axes,
                devices=self.devices,
                donate_argnums=donate_argnums,
            )
        else:
            specs = [jax.tree.map(self._spec, axes, is_leaf=lambda axis: axis is None) for axes in (in_axes, out_axes)]
            # check_vma=True would hand back gradients of replicated parameters already summed, and the step's own
            # mean over devices would then be wrong by their number.
            sharded = jax.shard_map(f, mesh=self._mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
            mapped = jax.jit(sharded, donate_argnums=donate_argnums)
            if self.share.count > 1:
                mapped = self._over_processes(mapped, *specs)

        def cut(args):
            return (arg if axis is None else on_devices(arg) for arg, axis in zip(args, in_axes, strict=True))

        def on_devices(batch):
            return batch.arrays if isinstance(batch, DeviceBatch) else self._cut(batch)

        def call(*args):
            with contextlib.nullcontext() if self.cpu_kernels == "stock" else backend.keeping_no_programs():
                return mapped(*cut(args))

        # For tests of the compiled program, in a single process.
        call.lower = lambda *args: mapped.lower(*cut(args))  # type: ignore[attr-defined]
        return call

    def fetch(self, tree):
        """Outputs with axis 0 of a mapped function in host memory: this process' share of a batch."""
        host = jax.device_get(tree)
        if self.mapping == "pmap":
            host = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), host)
        return host

    def _over_processes(self, mapped: Callable, in_specs: tuple, out_specs) -> Callable:
        """As in pmap: host-local arrays in, host-local arrays out."""

        def call(*args):
            inputs = multihost_utils.host_local_array_to_global_array(args, self._mesh, in_specs)
            return multihost_utils.global_array_to_host_local_array(mapped(*inputs), self._mesh, out_specs)

        return call

    @staticmethod
    def _spec(axis):
        return PartitionSpec() if axis is None else PartitionSpec(BATCH_AXIS)

    def _cut(self, batch):
        own = len(self.own)
        for x in jax.tree.leaves(batch):
            if len(x) % own:
                raise ValueError(f"a batch of {len(x)} cannot be divided among {own} devices")
        if self.mapping == "pmap":
            return jax.tree.map(lambda x: x.reshape(own, -1, *x.shape[1:]), batch)
        return jax.device_put(batch, NamedSharding(self._mesh.local_mesh, PartitionSpec(BATCH_AXIS)))
