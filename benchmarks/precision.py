"""Conditioners in bfloat16, against float32."""

from collections.abc import Callable
from typing import Any

from benchmarks import measure
from benchmarks.models import config_of
from scnf_jax import parallel
from scnf_jax.data import Dataset, load_dataset
from scnf_jax.runs import build, summarize_scores
from scnf_jax.settings import parse_config
from scnf_jax.training import make_data, usable_params

TITLE = "Conditioners in bfloat16"
ABOUT = """\
`configs/digits.py:alone`, shortened, with its conditioners' products in float32 and in bfloat16
(`--config.model.dtype=bfloat16`); x, log-dets, parameters and the optimiser stay in float32. Same
rows, same noise. Bits/dim and error are of 500 scans held out of the train set."""
STEPS = 400
CALL = 20


def run() -> list[dict[str, Any]]:
    """Trains both, and lets single calls take turns for their times."""
    dataset = load_dataset("digits", 500)
    trained = {dtype: _train(dtype, dataset) for dtype in ("float32", "bfloat16")}
    seconds = measure.seconds({dtype: call for dtype, (call, _) in trained.items()}, rounds=5)
    return [
        {
            "conditioners": dtype,
            "steps": STEPS,
            **scores,
            "time": seconds[dtype] / seconds["float32"],
        }
        for dtype, (_, scores) in trained.items()
    ]


def _train(dtype: str, dataset: Dataset) -> tuple[Callable[[], Any], dict[str, Any]]:
    config = config_of("digits:alone")
    options = parse_config(
        {
            **config,
            "steps": STEPS,
            "steps_per_call": CALL,
            "model": {**config["model"], "dtype": dtype},
        }
    )
    mesh = parallel.data_mesh()
    _, trainer = build(options, dataset, mesh)
    data = make_data(dataset.train_x, dataset.draw_labels(100, 0), mesh)
    state = trainer.init(data)

    def call() -> Any:
        nonlocal state
        state, values = trainer.run_chunk(state, data)
        return values

    for _ in range(STEPS // CALL):
        call()
    scores = trainer.evaluate(usable_params(state), dataset.test_x)
    measured = summarize_scores(*scores, dataset)
    return call, {
        "bits/dim": f"{measured['bits_per_dim']:.4f}",
        "error, %": measured["error_percent"],
    }
