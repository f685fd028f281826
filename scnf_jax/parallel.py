"""Data parallelism: one mesh axis over all devices of all hosts."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A 1-D mesh named ``data`` over the given devices; default: all of all hosts."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree of host arrays on every device of the mesh; each process has all of it."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), np.shape(leaf)
        ),
        tree,
    )


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless every device gets the same number of rows."""
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size: expected a multiple of the {mesh.size} devices, got {batch_size}"
        )
