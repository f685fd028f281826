"""How much of a run the host's side takes."""

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.models import config_of
from scnf_jax import runs

TITLE = "Time outside of compiled calls"
ABOUT = """\
The first 400 steps of the digits config as a run, with evaluations as often as it asks for and
checkpoints twice as often. From the end of the first call on, the share of the time in which no
compiled function of the trainer ran, and the seconds between two moves of the progress bar."""
STEPS = 400


def run() -> list[dict[str, Any]]:
    """Runs the config with every compiled call timed."""
    config = {**config_of("digits"), "steps": STEPS, "checkpoint_every": 200}
    spans: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        experiment = runs.prepare(config, folder)
        trainer = experiment.trainer
        experiment.trainer = trainer._replace(
            run_chunk=_timed("train", trainer.run_chunk, spans),
            evaluate=_timed("evaluate", trainer.evaluate, spans),
        )
        with contextlib.redirect_stderr(io.StringIO()):
            runs.train(experiment)
    _, _, begin = spans[0]
    end = spans[-1][2]
    inside = sum(stop - start for _, start, stop in spans[1:])
    moves = [start for kind, start, _ in spans if kind == "train"][1:]
    gaps = [after - before for before, after in itertools.pairwise(moves)]
    return [
        {
            "config": "digits",
            "steps": STEPS,
            "steps a call": experiment.options.chunk,
            "seconds": end - begin,
            "share outside": 1.0 - inside / (end - begin),
            "seconds between moves, median": sorted(gaps)[len(gaps) // 2],
        }
    ]


def _timed(
    kind: str, function: Callable[..., Any], spans: list[tuple[str, float, float]]
) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        spans.append((kind, start, time.perf_counter()))
        return result

    return call
