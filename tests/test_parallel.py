"""Several host devices against one: the same rows, the same noise, the same losses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scnf_jax.parallel import usable_cores

PROGRAM = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from scnf_jax import parallel
from scnf_jax.data import load_dataset, mask_labels
from scnf_jax.models import glow
from scnf_jax.training import *

dataset = load_dataset("digits")
labels = mask_labels(dataset.train_y, 100, 0, 10)
model = glow((8, 8, 1), 10, steps=(1,), width=8, head_steps=1, head_width=8, linear="lu")
losses, text = {}, {}
for count in (1, 8):
    mesh = parallel.data_mesh(jax.devices()[:count])
    trainer = make_trainer(
        model, steps=20, batch_size=32, num_levels=17, mesh=mesh, steps_per_call=20,
        objective=ObjectiveOptions(
            classification_weight=1.0, consistency_weight=1.0, view_every=2),
        augment=AugmentOptions(shift=1.0), labelled_fraction=0.3,
        optimizer=OptimizerOptions(learning_rate=1e-4), eval_batch_size=64)
    data = make_data(dataset.train_x, labels, mesh)
    state = trainer.init(data)
    compiled = trainer.run_chunk.lower(state, data).compile()
    text[count] = compiled.as_text()
    state, metrics = compiled(state, data)
    losses[count] = np.asarray(metrics["loss"])
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    scores = trainer.evaluate(state.params, dataset.test_x)
    assert scores[0].shape == (500,) and scores[1].shape == (500, 10)
np.testing.assert_allclose(losses[8], losses[1], rtol=1e-5)
assert "all-reduce" in text[8] and "all-reduce" not in text[1]
# Of the gradients together with the batch's means; no rows move.
assert text[8].count(" all-reduce(") == 1
assert not any(kind in text[8] for kind in ("all-gather", "all-to-all", "collective-permute"))
try:
    make_trainer(model, steps=1, batch_size=12, num_levels=17, mesh=mesh)
except ValueError as error:
    assert "multiple of the 8 devices, got 12" in str(error)
else:
    raise SystemExit("a batch that cannot be split was accepted")
print("same")
"""

# In a program of others: objects split by shard_map, or over explicit axes of a mesh, as make_mesh
# gives them, or models, one and its objects a device.
COMPOSED = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from scnf_jax import bijectors as bj, semi_conditional_flow
from scnf_jax.conditioners import MLP

def repeated(coupling):
    return bj.repeat(bj.chain(bj.actnorm(), bj.invertible_linear("householder"), coupling), 2)

body = repeated(bj.affine_coupling(MLP(4, (4,))))
model = semi_conditional_flow(body, repeated(bj.spline_coupling(MLP(46, (4,)))), 3)
x, label = jax.random.normal(jax.random.key(0), (8, 4)), jnp.array([0, 1, 2, -1] * 2)
params = model.init(jax.random.key(1), x)
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

def gradient(params, x, label):
    return jax.grad(lambda x: model.log_prob(params, x, label).sum())(x)

for function in (model.log_prob, gradient):
    split = jax.shard_map(
        function, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"))
    same(jax.jit(split)(params, x, label), jax.jit(function)(params, x, label))

rows = NamedSharding(jax.make_mesh((2,), ("data",)), P("data"))
log_prob = jax.sharding.auto_axes(model.log_prob, axes="data", out_sharding=rows)
loss = lambda function: jax.jit(jax.grad(lambda p, x, label: function(p, x, label).mean()))
jax.tree.map(
    same,
    loss(log_prob)(params, *jax.device_put((x, label), rows)),
    loss(model.log_prob)(params, x, label))

x, label = jnp.stack([x, x + 1]), jnp.stack([label, label])
both = jax.vmap(model.init)(jax.random.split(jax.random.key(2)), x)
each = jax.vmap(model.log_prob)
split = jax.shard_map(each, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
same(jax.jit(split)(both, x, label), jax.jit(each)(both, x, label))
print("same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [PROGRAM, COMPOSED], ids=["trainer", "composed"])
def test_several_devices_do_as_one(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "same", done.stderr[-3000:]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not pinned here")
def test_cores_are_those_that_the_process_may_run_on() -> None:
    before = os.sched_getaffinity(0)
    assert usable_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
