"""The notebooks: their cells run, and were run."""

import json
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_cells(notebook: Path, **values: str) -> dict[str, Any]:
    """Runs a notebook, without the lines for the shell and with other values of names; its names.

    The cell that looks for the repository finds it by a link in the working directory.
    """
    plt.switch_backend("Agg")
    Path("train.py").symlink_to(NOTEBOOKS.parent / "train.py")
    names: dict[str, Any] = {}
    for cell in code_cells(notebook):
        lines = [line for line in cell["source"] if not line.startswith(("%", "!"))]
        for name, value in values.items():
            lines = [f"{name} = {value}\n" if x.startswith(f"{name} = ") else x for x in lines]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
            exec(compile("".join(lines), notebook.name, "exec"), names)  # noqa: S102
    plt.close("all")
    return names


@pytest.mark.slow
def test_the_cells_on_composing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_cells(NOTEBOOKS / "compose.ipynb", STEPS="2")
    assert names["losses"].shape == (2,)
    assert names["mixture"].shape == (1000, 2)
    assert names["after"] < names["before"]


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_cells_were_run_in_order_and_none_failed(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
