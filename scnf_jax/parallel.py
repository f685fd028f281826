"""Data parallelism: one mesh axis over all devices of all hosts.

Every process of a job runs the same program on the same data, and draws the same rows and the
same noise; the devices share the rows of a batch. What is not an array of the mesh, such as files
and the terminal, belongs to the first process alone.
"""

import json
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
_LOST_AFTER_SECONDS = 30
T = TypeVar("T")


class Disagreement(ValueError):
    """The processes of a job do not have the same settings or the same folder."""


def join_processes(setting: str) -> None:
    """Joins the processes of a job, before JAX is used for anything else.

    Args:
      setting: ``auto`` takes addresses and numbers from the environment, as on TPU slices,
        under Slurm and under Open MPI; ``HOST:PORT,PROCESSES,NUMBER`` gives the address of
        the first process, how many there are, and which one this is, from 0.

    Raises:
      ValueError: for another setting, or where the processes do not come together.
    """
    try:
        given = setting.split(",") if setting != "auto" else None
        address, processes, number = given or (None, None, None)
        jax.distributed.initialize(
            address,
            int(processes) if processes else None,
            int(number) if number else None,
            # Else JAX gives each process of a Slurm job one device of its host.
            local_device_ids=[],
            heartbeat_timeout_seconds=_LOST_AFTER_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "distributed: expected auto inside a job that JAX knows, or HOST:PORT,PROCESSES,NUMBER "
            f"such as 10.0.0.1:1234,2,0, got {setting!r} ({str(error).splitlines()[0]})"
        ) from None


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """The largest of the processes' values: what all of them go by."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def check_same(what: str, value: Any) -> None:
    """Makes sure that all processes have the same plain value, before they rely on it.

    Raises:
      Disagreement: on every process, where they differ.
    """
    if jax.process_count() == 1:
        return
    digest = zlib.crc32(json.dumps(value, sort_keys=True).encode())
    if len(set(multihost_utils.process_allgather(np.uint32(digest)).tolist())) > 1:
        raise Disagreement(
            f"distributed: expected the same {what} in every process of the job; start all of them "
            "with the same command, and a --workdir that all of them see"
        )


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A 1-D mesh named ``data`` over the given devices; default: all of all hosts."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def usable_cores() -> int:
    """CPU cores that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def mean_over_devices(
    mesh: Mesh, by_row: Sequence[bool]
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """A decorator: every device calls the function on its own rows, and the results are averaged.

    The average is one all-reduce of all results together. Left to the compiler, the gradient of
    every loop over layers would be one of its own, in every round of the loop.

    Args:
      mesh: of the devices.
      by_row: of each argument, whether the devices share its rows, the leading axis of its arrays,
        or have all of it.

    Returns:
      The decorator; the function's results are float arrays, and no axis of theirs is the rows'.
      On one device it changes nothing.
    """
    if mesh.size == 1:
        return lambda function: function
    specs = tuple(PartitionSpec(AXIS) if rows else PartitionSpec() for rows in by_row)

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        def on_one(*arguments: Any) -> T:
            return jax.lax.pmean(function(*arguments), AXIS)

        return jax.shard_map(
            on_one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )

    return decorate


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree of host arrays on every device of the mesh; each process has all of it."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), np.shape(leaf)
        ),
        tree,
    )


def split_rows(array: np.ndarray, mesh: Mesh, axis: int = 0) -> jax.Array:
    """Puts a host array on the mesh, with its rows, which that axis counts, over the devices."""
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXIS))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless every device gets the same number of rows."""
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size: expected a multiple of the {mesh.size} devices, got {batch_size}"
        )
