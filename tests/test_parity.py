"""The paper's model against latents and densities that the authors' own network gives."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scnf_jax.models import paper

FILES = Path(__file__).parent / "parity"


def _stack(layers: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


class Weights:
    """The authors' tensors, handed out in their order."""

    def __init__(self) -> None:
        content = json.loads((FILES / "paper_model.json").read_text())
        self.seed = content["seed"]
        self.rows = content["parameters"]
        self.next = 0

    def take(self, suffix: str) -> np.ndarray:
        row = self.rows[self.next]
        assert row["name"].endswith(suffix), (row["name"], suffix)
        self.next += 1
        state = np.random.RandomState(self.seed * 100000 + row["index"])
        shape = row["shape"]
        base = np.eye(*shape) if row["base"] == "eye" else np.zeros(shape)
        return (base + row["scale"] * state.standard_normal(shape)).astype(np.float32)

    def linear(self) -> dict[str, Any]:
        return {"weight": self.take(".W").T}

    def actnorm(self) -> dict[str, Any]:
        log_scale = self.take(".logs")
        return {"log_scale": log_scale, "bias": self.take(".bias")}

    def conv(self) -> dict[str, Any]:
        kernel = self.take(".weight").transpose(2, 3, 1, 0)
        return {"kernel": kernel, "bias": self.take(".bias")}

    def dense(self) -> dict[str, Any]:
        conv = self.conv()
        return {"kernel": conv["kernel"][0, 0], "bias": conv["bias"]}

    def conv_net(self) -> dict[str, Any]:
        layers = {"input": self.conv()}
        layers |= {f"Conv3x3_{i}": self.conv() for i in range(8)}
        return {"params": layers | {"ActNorm_0": self.actnorm(), "output": self.conv()}}

    def dense_net(self, seen: int) -> dict[str, Any]:
        first = self.dense()
        layers = {
            "input": {"kernel": first["kernel"][:seen], "bias": first["bias"]},
            "context": {"kernel": first["kernel"][seen:]},
        }
        layers |= {f"Dense_{i}": self.dense() for i in range(8)}
        return {"params": layers | {"ActNorm_0": self.actnorm(), "output": self.dense()}}

    def scale(self, squeezes: bool) -> tuple[Any, ...]:
        masked = [(self.linear(), self.conv_net(), self.actnorm()) for _ in range(3)]
        channel = _stack(
            [(self.linear(), (self.conv_net(), self.conv_net()), self.actnorm()) for _ in range(2)]
        )
        return (*masked, *([{}, {}] if squeezes else []), channel)

    def half_head(self, size: int) -> Any:
        def step() -> Any:
            nets = lambda: (self.dense_net(size // 2), self.dense_net(size // 2))  # noqa: E731
            return (self.actnorm(), self.linear(), nets())

        return _stack([step() for _ in range(4)])

    def params(self) -> dict[str, Any]:
        body = ({}, tuple(self.scale(squeezes) for squeezes in (True, True, False)))
        head = ({}, {}, (self.half_head(196), self.half_head(98)))
        embedding = self.take("embeddings.weight")
        aux = self.take("shallow_prior.logsigma")
        deep = self.take("deep_prior.logsigma")
        assert self.next == len(self.rows)
        z_aux = (
            aux[:392].reshape(2, 14, 14).transpose(1, 2, 0),
            aux[392:].reshape(4, 7, 7).transpose(1, 2, 0),
        )
        base = {"aux": {"raw_scale": z_aux}, "head": {"raw_scale": (deep[:98], deep[98:])}}
        return {"body": body, "head": head, "label_embedding": embedding, "base": base}


class Parity(NamedTuple):
    params: Any
    shapes: Any
    expected: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def parity() -> Parity:
    with np.load(FILES / "paper_model.npz") as arrays:
        expected = dict(arrays)
    shapes = jax.eval_shape(paper().init, jax.random.key(0), expected["x"])
    return Parity(Weights().params(), shapes, expected)


def relative(actual: Any, expected: np.ndarray) -> float:
    """Largest difference, as a share of the largest magnitude."""
    return float(np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected)))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float32", 1e-3)])
def test_the_authors_network(parity: Parity, dtype: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        model = paper()
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), parity.params)
        x = jnp.asarray(parity.expected["x"], dtype)
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, parity.shapes)

        @jax.jit
        def measure(params: Any) -> dict[str, jax.Array]:
            def under_label(label: jax.Array) -> jax.Array:
                latents = model.encode(params, x, jnp.broadcast_to(label, x.shape[:1]))
                return jnp.concatenate(latents.z_h, -1)

            (z_1, z_2, z_f), log_det = model.body.forward(params["body"], x)
            return {
                "z_aux_1": z_1,
                "z_aux_2": z_2,
                "z_f": z_f,
                "log_det": log_det,
                "z_h": jax.vmap(under_label, out_axes=1)(jnp.arange(10)),
                "log_joint": model.log_joint(params, x),
                "log_prob": model.log_prob(params, x),
            }

        measured = measure(params)
        assert set(measured) == set(parity.expected) - {"x"}
        for name, value in measured.items():
            assert value.dtype == dtype, name
            assert relative(value, parity.expected[name]) < tolerance, name


def test_parameter_counts(parity: Parity) -> None:
    def count(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    params = parity.shapes
    assert count(params["body"]) == 6_299_987
    assert count(params["head"]) + count(params["label_embedding"]) == 9_574_676
