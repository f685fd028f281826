"""The notebook's cells, on a tiny run in the place of the one that it trains."""

import json
import os
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from scnf_jax import runs

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"
TINY: dict[str, Any] = {
    "dataset": "digits",
    "num_labelled": 100,
    "steps": 2,
    "eval_every": 2,
    "checkpoint_every": 2,
    "batch_size": 32,
    "model": {"name": "glow", "steps": (1, 1), "width": 8, "head_steps": 1, "head_width": 8},
}


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    runs.train(runs.prepare(TINY, tmp_path / "runs" / "quickstart"))
    names: dict[str, Any] = {}
    os.symlink(NOTEBOOK.parents[1] / "train.py", tmp_path / "train.py")
    for cell in code_cells():
        lines = [line for line in cell["source"] if not line.startswith(("%", "!"))]
        exec(compile("".join(lines), "quickstart.ipynb", "exec"), names)  # noqa: S102
    assert names["posterior"].shape == (500, 10)


def test_cells_were_run_in_order_and_none_failed() -> None:
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
