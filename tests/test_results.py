"""The table of results and the verb that writes it."""

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from scnf_jax.__main__ import main
from scnf_jax.baselines import BaselineOptions
from scnf_jax.models import build_model
from scnf_jax.options import from_mapping
from scnf_jax.reporting import results
from scnf_jax.settings import parse_config


def make_run(folder: Path, command: str, seed: int, **summary: Any) -> Path:
    folder.mkdir()
    config = {
        "dataset": "digits",
        "seed": seed,
        "steps": 100,
        "num_labelled": 100,
        "objective": {"name": "em", "refresh_every": 7},
    }
    content = {"config": config, "data": {}, "command": command}
    (folder / "config.json").write_text(json.dumps(content))
    if summary:
        record = {
            "dataset": "digits",
            "config": config,
            "seed": seed,
            "steps": 100,
            "train_seconds": 90.0,
            "device": "1 x cpu",
            "cpu_count": 2,
            "evaluated_on": "test",
            "bits_per_dim": None,
            "test_error_percent": None,
        }
        (folder / "summary.json").write_text(json.dumps(record | summary))
    return folder


COMMAND = "python train.py --config=configs/digits_table.py:glow_em"


def line_of(page: str, start: str) -> list[str]:
    row = next(line for line in page.split("\n") if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_row_is_mean_and_deviation_over_seeds_and_counts_failures(tmp_path: Path) -> None:
    runs = [
        make_run(
            tmp_path / "a", COMMAND, 0, status="finished", test_error_percent=4.0, bits_per_dim=2.0
        ),
        make_run(
            tmp_path / "b",
            f"{COMMAND} --config.seed=1",
            1,
            status="finished",
            test_error_percent=6.0,
            bits_per_dim=2.2,
        ),
        make_run(tmp_path / "c", f"{COMMAND} --config.seed=2", 2, status="diverged"),
        make_run(tmp_path / "d", f"{COMMAND} --config.seed=3", 3),
    ]
    (tmp_path / "d" / "metrics.jsonl").write_text(
        json.dumps({"step": 40, "split": "test", "error_percent": 12.5, "bits_per_dim": 3.0}) + "\n"
    )
    page_path = tmp_path / "docs" / "RESULTS.md"
    arguments = [
        "table",
        *map(str, runs),
        "--records",
        str(tmp_path / "records"),
        "--output",
        str(page_path),
    ]
    assert main(arguments) == 0
    digits = page_path.read_text().split("## Digits")[1]
    cells = line_of(digits, "SCNF-GLOW, EM-SGD")
    # deviations by hand: |6 - 4| / sqrt(2), |2.2 - 2.0| / sqrt(2)
    assert cells[1:3] == ["5.00 ± 1.41", "2.100 ± 0.141"]
    assert cells[5:8] == ["2 (0, 1)", "1", "1.5 min"]
    assert "E-step every 7 steps" in cells[9]
    assert "seed 3 stopped at step 40 of 100, 12.50% so far" in cells[9]
    assert cells[10] == f"`{COMMAND}`"
    assert line_of(digits, "M1+M2")[1] == "not run"


def test_a_baseline_that_was_stopped_is_in_the_table(tmp_path: Path) -> None:
    command = "python train.py --config=configs/baselines.py:label_spreading"
    run = make_run(tmp_path / "a", command, 0)
    settings = json.loads((run / "config.json").read_text())
    del settings["config"]["steps"]
    (run / "config.json").write_text(json.dumps(settings))
    results.save_records([run], tmp_path / "records")
    results.write_table(tmp_path / "records", tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "seed 0 stopped, not evaluated yet" in page


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"pseudo_labels": "{workdir}/first"}, "those that `:first` gives 90% of the others"),
        ({"pseudo_label_spreading": 0.99}, "those that spreading gives 90% of the others"),
        (
            {"pseudo_labels": "runs/a", "pseudo_label_spreading": 0.8},
            "those that `runs/a` gives 90% of the others, spread over neighbours",
        ),
    ],
)
def test_the_table_says_where_labels_come_from(
    settings: dict[str, Any], note: str, tmp_path: Path
) -> None:
    config = {"num_labelled": 10, "pseudo_label_share": 0.9} | settings
    result = {"status": "finished", "test_error_percent": 4.0, "config": config}
    run = make_run(tmp_path / "a", COMMAND, 0, **result)
    results.save_records([run], tmp_path / "records")
    results.write_table(tmp_path / "records", tmp_path / "RESULTS.md")
    assert f"10 labels, and {note} |" in (tmp_path / "RESULTS.md").read_text()


def test_the_table_in_docs_is_that_of_the_records_there(tmp_path: Path) -> None:
    docs = Path(__file__).parents[1] / "docs"
    results.write_table(docs / "results", tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() == (docs / "RESULTS.md").read_text()


def test_records_of_long_commands_are_kept_apart(tmp_path: Path) -> None:
    long = COMMAND + "".join(f" --config.objective.weight_{k}=0" for k in range(20))
    runs = [
        make_run(
            tmp_path / f"{k}",
            f"{long} --config.last={k}",
            0,
            status="finished",
            test_error_percent=4.0,
        )
        for k in range(2)
    ]
    results.save_records(runs, tmp_path / "records")
    names = [file.name for file in (tmp_path / "records").iterdir()]
    assert len(names) == 2
    assert max(map(len, names)) < 150


def test_records_of_commands_that_differ_by_marks_alone_are_kept_apart(tmp_path: Path) -> None:
    records = tmp_path / "records"
    for turn in range(2):  # again, as after more training
        for number, data in enumerate(("a.npz", "../a.npz", "/a.npz")):
            run = make_run(
                tmp_path / f"{turn}-{number}",
                f"python train.py --config=configs/digits.py --config.dataset={data}",
                0,
                status="finished",
                test_error_percent=float(number),
            )
            results.save_records([run], records)
    errors = [json.loads(file.read_text())["test_error_percent"] for file in records.iterdir()]
    assert sorted(errors) == [0.0, 1.0, 2.0]

    name = results.record_name(results.collect(tmp_path / "0-0"))
    (records / name).write_text('{"of": "a stranger"}')
    results.save_records([tmp_path / "0-0"], records)
    assert json.loads((records / name).read_text())["test_error_percent"] == 0.0


def test_the_page_is_rebuilt_from_records_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", COMMAND, 0, status="finished", test_error_percent=4.0)
    records, page = tmp_path / "records", tmp_path / "R.md"
    arguments = ["table", "--records", str(records), "--output", str(page)]
    assert main([*arguments, str(run)]) == 0
    written = page.read_text()
    page.unlink()
    assert main(arguments) == 0
    assert page.read_text() == written
    assert [file.name for file in records.iterdir()] == ["digits_table-py-glow_em-seed0.json"]


def test_overridden_settings_are_another_row(tmp_path: Path) -> None:
    command = f"{COMMAND} --config.steps=5"
    run = make_run(tmp_path / "a", command, 0, status="finished", test_error_percent=4.0)
    page = results.render([results.collect(run)])
    assert f"`{command}`" in page.split("## Other settings")[1]


@functools.cache
def check_that_it_starts(model: str, shape: tuple[int, ...]) -> None:
    """Cached, since rows share their models."""
    init = build_model(json.loads(model), shape, 10).init
    jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), "float32"))


@pytest.mark.parametrize(
    "config", [row.config for rows in results.SECTIONS.values() for row in rows]
)
def test_every_row_has_a_config(config: str) -> None:
    file, *_ = config.split()  # behind it stand overridden settings
    path, _, argument = file.partition(":")
    module = importlib.import_module(f"configs.{Path(path).stem}")
    settings = module.get_config(*([argument] if argument else [])).to_dict()
    if "baseline" in settings:
        assert settings["baseline"]["name"] == argument
        from_mapping(BaselineOptions, settings, "")
        return
    options = parse_config(settings)
    shapes = {"mnist": (28, 28, 1), "digits": (8, 8, 1), "breast_cancer": (30,)}
    shape = shapes.get(options.dataset, (2,))
    check_that_it_starts(json.dumps(options.model), shape)
    assert f"python train.py --config={path}" in str(module.__doc__)


@pytest.mark.parametrize(
    "case",
    [
        "no run",
        "{",
        "[]",
        "{}",
        '"a"',
        '{"command": 1}',
        "nothing",
        "no command",
        "export",
        "torn",
        "bare",
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records"
    arguments = ["table", "--records", str(records), "--output", str(tmp_path / "R.md")]
    if case == "no run":
        arguments.append(str(tmp_path))
    elif case[0] in '{["':
        records.mkdir()
        (records / "a.json").write_text(case)
    elif case == "no command":
        arguments.append(str(make_run(tmp_path / "a", "", 0, status="finished")))
    elif case == "export":
        arguments.append(str(make_run(tmp_path / "a", COMMAND, 0)))
        (tmp_path / "a" / "model.safetensors").touch()
    elif case in ("torn", "bare"):
        arguments.append(str(make_run(tmp_path / "a", COMMAND, 0)))
        text = "" if case == "torn" else '{"status": "finished"}'
        (tmp_path / "a" / "summary.json").write_text(text)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("scnf_jax: ")
    assert message.count("\n") == 1
    assert "expected" in message
    assert not (tmp_path / "R.md").exists()
