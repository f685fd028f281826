"""The verbs and the quickstart on a tiny run: what they write, and what they say of bad input."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import scnf_jax
from scnf_jax import inference, runs
from scnf_jax.__main__ import main
from scnf_jax.data import load_dataset
from scnf_jax.data.files import read_png, write_png
from scnf_jax.inference import Engine, Scores
from scnf_jax.losses import make_scores
from scnf_jax.models import vector
from scnf_jax.reporting.card import describe
from scnf_jax.verbs import VERBS, scoring
from scnf_jax.verbs.labelling import _candidates
from tests.test_notebooks import NOTEBOOKS, run_cells

CONFIG: dict[str, Any] = {
    "dataset": "digits",
    "num_labelled": 100,
    "steps": 20,
    "batch_size": 32,
    "eval_every": 20,
    "checkpoint_every": 20,
    "model": {"name": "glow", "steps": (1, 1), "width": 8, "head_steps": 1, "head_width": 8},
    "optimizer": {"ema_decay": 0.9},
    "objective": {"classification_weight": 60.0, "temperature": 32.0},
}
DIGITS = load_dataset("digits")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    runs.train(runs.prepare(CONFIG, folder, "python train.py --config=configs/digits.py"))
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scans.npz"
    np.savez(path, x=DIGITS.test_x[:37], y=DIGITS.test_y[:37])
    return path


def say(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def complain(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 2, out
    assert len(err.strip().splitlines()) == 1, err
    return err


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_evaluate_agrees_with_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = say(capsys, "evaluate", run, f"--output={tmp_path}/evaluation.json")
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert f"error {result['error_percent']:.2f}%" in said
    summary = json.loads((run / "summary.json").read_text())
    # The same noise in batches of another size; one scan may stand on the boundary.
    assert result["error_percent"] == pytest.approx(summary["test_error_percent"], abs=0.21)
    assert result["bits_per_dim"] == pytest.approx(summary["bits_per_dim"], abs=1e-4)
    confusion = np.array(result["confusion"])
    assert confusion.sum() == 500
    assert 100 - 100 * np.trace(confusion) / 500 == pytest.approx(result["error_percent"])
    sizes = [row["num_objects"] for row in result["by_class"].values()]
    assert sizes == confusion.sum(1).tolist()
    assert result["error_percent_at_coverage"]["100"] == pytest.approx(result["error_percent"])
    for name in ("reliability.png", "confusion.png", "coverage.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_predict_and_score_by_any_batch(
    run: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CSV and npz, from npy and npz, in batches of 5 and of 250, agree to the last digit."""
    array = tmp_path / "scans.npy"
    np.save(array, DIGITS.test_x[:37])
    say(capsys, "predict", run, f"--input={scans}", f"--output={tmp_path}/a.csv")
    say(capsys, "predict", run, f"--input={array}", f"--output={tmp_path}/b.npz", "--batch-size=5")
    rows = read_csv(tmp_path / "a.csv")
    probs = np.array([[float(row[f"p_{k}"]) for k in range(10)] for row in rows])
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-6)
    assert [int(row["label"]) for row in rows] == np.argmax(probs, -1).tolist()
    with np.load(tmp_path / "b.npz") as other:
        np.testing.assert_allclose(probs[:, 3], other["p_3"], rtol=2e-4)
        assert other["label"].tolist() == [int(row["label"]) for row in rows]

    loaded = scnf_jax.load_run(run)
    say(capsys, "score", run, f"--input={scans}", f"--output={tmp_path}/s.csv", "--quantile=0.2")
    scored = read_csv(tmp_path / "s.csv")
    x = (DIGITS.test_x[:37] + 0.5) / 17  # the middle of each grey level's noise
    near = jax.jit(loaded.model.log_prob)(loaded.params, x.astype(np.float32))
    measured = np.array([float(row["log_prob_nats"]) for row in scored])
    assert abs(measured - near).mean() < 5
    bits = [float(row["bits_per_dim"]) for row in scored]
    np.testing.assert_allclose(bits, np.log2(17) - measured / (64 * np.log(2)), rtol=1e-6)
    flagged = np.array([row["outlier"] == "1" for row in scored])
    assert 0 < flagged.mean() < 0.6
    assert measured[flagged].max() < measured[~flagged].min()


def test_objects_are_classified_where_the_run_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At noise or in the middle of grey levels, in training and after it. The density is the same."""
    x, middle = DIGITS.test_x[:50], ((DIGITS.test_x[:50] + 0.5) / 17).astype(np.float32)
    shutil.copytree(run, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["posterior_at"] = "middle"
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    loaded = scnf_jax.load_run(tmp_path / "run")
    scores, noisy = Engine(loaded).scores(x), Engine(scnf_jax.load_run(run)).scores(x)
    expected = jax.jit(loaded.model.log_posterior)(loaded.params, middle)
    np.testing.assert_allclose(scores.log_posterior, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(noisy.log_posterior - expected).max() > 0.01
    np.testing.assert_array_equal(scores.log_prob, noisy.log_prob)
    alone = Engine(loaded).scores(x, density=False)
    assert alone.log_prob is None
    np.testing.assert_array_equal(alone.log_posterior, scores.log_posterior)
    trained = jax.jit(make_scores(loaded.model, 17, "middle"))(loaded.params, np.arange(50), x)
    np.testing.assert_allclose(trained[0], scores.log_prob, rtol=1e-5)
    np.testing.assert_allclose(trained[1], expected, rtol=1e-3, atol=1e-3)
    other = Engine(scnf_jax.load_run(run), posterior_at="middle").scores(x)
    np.testing.assert_array_equal(other.log_posterior, scores.log_posterior)
    output = f"--output={tmp_path}/at-noise.json"
    say(capsys, "evaluate", tmp_path / "run", "--posterior-at=noise", output)
    say(capsys, "evaluate", run, f"--output={tmp_path}/as-run.json")
    at_noise, as_run = (tmp_path / f"{name}.json" for name in ("at-noise", "as-run"))
    assert at_noise.read_text() == as_run.read_text()
    summary = runs.train(runs.prepare(loaded.config, tmp_path / "run"))  # whole: it is evaluated
    error = 100 * np.mean(Engine(loaded).scores(DIGITS.test_x).label != DIGITS.test_y)
    assert summary["test_error_percent"] == pytest.approx(error)


def test_the_quantile_is_of_train_objects(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = tmp_path / "train.npy"
    np.save(array, DIGITS.train_x)
    say(capsys, "score", run, f"--input={array}", f"--output={tmp_path}/s.csv", "--quantile=0.1")
    flagged = [row["outlier"] == "1" for row in read_csv(tmp_path / "s.csv")]
    assert np.mean(flagged) == pytest.approx(0.1, abs=0.002)


def test_outliers_are_flagged_by_the_score_that_is_named(
    run: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(scnf_jax.load_run(run))
    asked = []

    def opened(arguments: Any, posterior_at: str | None) -> Engine:
        del arguments
        asked.append(posterior_at)
        return engine  # compiles once

    monkeypatch.setattr(scoring, "open_engine", opened)
    train, test = engine.scores(DIGITS.train_x), engine.scores(DIGITS.test_x[:37])

    def unusual(scores: Scores) -> dict[str, np.ndarray]:
        entropy = -np.sum(np.exp(scores.log_posterior) * scores.log_posterior, -1)
        return {"typicality": np.abs(scores.log_prob - train.log_prob.mean()), "entropy": entropy}

    flagged = {}
    for by in ("typicality", "entropy"):
        words = f"--input={scans}", f"--output={tmp_path}/s.npz", f"--by={by}", "--quantile=0.3"
        say(capsys, "score", run, *words)
        with np.load(tmp_path / "s.npz") as scored:
            flagged[by] = scored["outlier"] == 1
        expected = unusual(test)[by] > np.quantile(unusual(train)[by], 0.7)
        np.testing.assert_array_equal(flagged[by], expected)
        assert 0 < flagged[by].mean() < 1
    assert (flagged["typicality"] != flagged["entropy"]).any()
    assert asked == ["noise", None]  # a pass for p(y|x) is saved where it does not count


@pytest.mark.parametrize(
    ("verb", "start"),
    [("evaluate", "Error, bits"), ("predict", "p(y|x) and"), ("figures", "t-SNE ")],
)
def test_help_begins_like_a_sentence(
    verb: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert f"\n\n{start}" in capsys.readouterr().out


def test_pictures_go_in_and_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = say(capsys, "sample", run, "--label=7", "--count=5", f"--output={tmp_path}/sevens")
    assert "5 pictures" in said
    with np.load(tmp_path / "sevens" / "samples.npz") as samples:
        assert samples["x"].shape == (5, 8, 8, 1)
        assert samples["y"].tolist() == [7] * 5
        first = tmp_path / "sevens" / "png" / "class7-0000.png"
        np.testing.assert_array_equal(read_png(first, (8, 8, 1), 17), samples["x"][0])
        sevens = samples["x"]
    again = ("sample", run, "--label=7", "--count=3", "--seed=1", f"--output={tmp_path}/sevens")
    photo = tmp_path / "sevens" / "png" / "class_photo-20240101.png"
    photo.touch()
    say(capsys, *again)
    assert photo.exists()
    photo.unlink()
    assert len(list(first.parent.iterdir())) == 3  # none of the earlier call
    with np.load(tmp_path / "sevens" / "samples.npz") as samples:
        assert (samples["x"] != sevens[:3]).any((1, 2, 3)).all()
    say(capsys, "predict", run, f"--input={first.parent}", f"--output={tmp_path}/p.csv")
    assert read_csv(tmp_path / "p.csv")[0]["id"] == "class7-0000.png"


def test_every_grey_level_survives_a_picture(tmp_path: Path) -> None:
    for levels, channels in ((17, 1), (256, 3)):
        image = np.resize(np.arange(levels, dtype=np.uint8), (16, 16, channels))
        write_png(tmp_path / "x.png", image, levels)
        np.testing.assert_array_equal(read_png(tmp_path / "x.png", image.shape, levels), image)


def test_obfuscated_objects_come_back(
    run: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden, link = tmp_path / "hidden.npz", tmp_path / "a run"
    link.symlink_to(run)
    words = ("obfuscate", link, f"--input={scans}", "--labels=given", f"--output={hidden}")
    assert f"python -m scnf_jax leak '{link}'" in say(capsys, *words)
    with np.load(hidden) as archive:
        assert set(archive.files) == {"z_h", "z_aux"}
    np.save(tmp_path / "y.npy", DIGITS.test_y[:37])
    restore = ("restore", run, f"--input={hidden}", f"--output={tmp_path}/back.npz")
    say(capsys, *restore, f"--label-file={tmp_path}/y.npy")
    with np.load(tmp_path / "back.npz") as back:
        assert np.mean(back["x"] == DIGITS.test_x[:37]) >= 0.999
    say(capsys, *restore, "--label=3")
    with np.load(tmp_path / "back.npz") as back:
        other = DIGITS.test_y[:37] != 3
        assert np.mean(back["x"][other] == DIGITS.test_x[:37][other]) < 0.999


def test_without_aux_nothing_but_z_h_is_published(
    run: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = tmp_path / "hidden.npz"
    words = ("obfuscate", run, f"--input={scans}", f"--output={hidden}", "--without-aux")
    assert "z_aux [37, 0]" in say(capsys, *words)
    said = say(
        capsys, "restore", run, f"--input={hidden}", "--label=1", f"--output={tmp_path}/b.npz"
    )
    assert "drawn anew" in said


def test_labels_to_encode_under(run: Path) -> None:
    engine = Engine(scnf_jax.load_run(run), batch_size=16)
    x = DIGITS.test_x[:40]
    likely = engine.labels(x, "likely")
    np.testing.assert_array_equal(likely, engine.scores(x).label)
    others = (likely + 1) % 10
    np.testing.assert_array_equal(engine.labels(x, "likely", others), likely)
    given = np.where(np.arange(40) < 20, DIGITS.test_y[:40], -1)
    mixed = engine.labels(x, "given", given)
    np.testing.assert_array_equal(mixed[:20], DIGITS.test_y[:20])
    np.testing.assert_array_equal(mixed[20:], likely[20:])
    sampled = engine.labels(x, "sampled")
    assert sampled.shape == (40,)
    assert (sampled != likely).any()  # an untrained posterior is far from certain


def test_a_run_loads_and_trains_where_float64_is_on(run: Path, tmp_path: Path) -> None:
    views = {"augment": {"shift": 1.0, "elastic": 1.0}}
    weights = {"objective": CONFIG["objective"] | {"consistency_weight": 1.0}}
    with jax.enable_x64(True):
        assert scnf_jax.load_run(run).step == 20
        summary = runs.train(runs.prepare(CONFIG | views | weights, tmp_path / "run"))
        saved = scnf_jax.load_run(tmp_path / "run")
    assert summary["status"] == "finished"
    again = scnf_jax.load_run(tmp_path / "run")
    assert jax.tree.leaves(again.params)[0].dtype == jax.tree.leaves(saved.params)[0].dtype


def test_a_long_pass_shows_a_bar_on_a_terminal_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inference, "_BAR_AFTER", 0.0)
    engine = Engine(scnf_jax.load_run(run), batch_size=16)
    whole = [slice(0, 16), slice(16, 32), slice(32, 40)]
    assert list(engine.batches(40)) == whole
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(engine.batches(40)) == whole
    assert "/40 " in capsys.readouterr().err


def test_an_overflow_of_the_inverse_is_said(run: Path) -> None:
    engine = Engine(scnf_jax.load_run(run), batch_size=16)
    x = np.full((3, 8, 8, 1), 0.5)
    x[1, 0, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="1 of 3 objects are not finite"):
        levels = engine.to_levels(x)
    assert levels.dtype == np.uint8
    assert levels[1, 0, 0] == 0
    assert np.sum(levels == 8) == 3 * 64 - 1  # 0.5 of 17 levels


def test_relabel_keeps_the_object_under_its_own_label(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = say(capsys, "relabel", run, "--count=6", "--check", f"--output={tmp_path}/grid.png")
    assert "6 objects under 10 labels, own: given" in said
    assert "of relabelled test objects for their new class" in said
    with np.load(tmp_path / "grid.npz") as grid:
        own = grid["relabelled"][grid["y"], np.arange(6)]
        assert np.mean(own == grid["x"]) >= 0.999
    assert (tmp_path / "grid.png").stat().st_size > 5000


def test_a_report_holds_everything(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "digits"
    shutil.copytree(run, folder)
    baseline = {
        **json.loads((folder / "summary.json").read_text()),
        "config": {"baseline": {"name": "label_spreading"}, "validation_size": 0},
        "test_error_percent": 12.25,
    }
    for number, text in enumerate(("", "[]", '{"config": null}', '{"config": {"baseline": 1}}')):
        (tmp_path / "runs" / f"a stranger's {number}").mkdir()
        (tmp_path / "runs" / f"a stranger's {number}" / "summary.json").write_text(text)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "summary.json").write_text(json.dumps(baseline))
    (tmp_path / "runs" / "another").mkdir()
    baseline["config"] |= {"features": "gradients"}
    (tmp_path / "runs" / "another" / "summary.json").write_text(json.dumps(baseline))
    said = say(capsys, "report", folder, "--max-objects=120")
    page = (folder / "report.html").read_text()
    assert "report.html" in said
    assert "label spreading<" in page
    assert "label spreading, histograms of gradients<" in page
    assert "12.25%" in page
    assert page.count("data:image/png;base64,") >= 10
    assert "http" not in page.replace("https://arxiv.org", "")
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert f"{evaluation['error_percent']:.2f}%" in page
    assert (evaluation["objects"], evaluation["posterior_at"]) == ("test", "noise")
    leak = json.loads((folder / "leak.json").read_text())
    assert set(leak["probes"]) == set(leak["meaning"])
    assert all(len(probes) == 4 for probes in leak["probes"].values())
    outliers = json.loads((folder / "outliers.json").read_text())
    assert outliers["auroc"]["test set, inversion"]["log_prob"] > 0.9


def test_one_class_has_nothing_to_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = tmp_path / "zeros.npz", tmp_path / "run"
    x, y = DIGITS.train_x[DIGITS.train_y == 0][:60], np.zeros(60, np.int32)
    np.savez(path, x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    runs.train(runs.prepare(CONFIG | {"dataset": str(path), "num_labelled": 0}, folder))
    say(capsys, "report", folder)
    page = (folder / "report.html").read_text()
    assert "Not measured: the probes need two classes" in page
    assert 'id="Outliers"' in page
    assert 'id="Relabelling"' not in page
    for words in (("leak", folder), ("relabel", folder, "--check", f"--output={tmp_path}/r.png")):
        assert "expected a model of at least two classes" in complain(capsys, *words)
    assert not (tmp_path / "r.png").exists()


def test_outliers_of_a_users_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.RandomState(0).randint(0, 17, (30, 8, 8), np.uint8)
    np.savez(tmp_path / "noise.npz", x=noise, y=np.arange(30))  # of classes of their own
    words = ("outliers", run, f"--other={tmp_path}/noise.npz", "--max-test=50")
    said = say(capsys, *words, f"--output={tmp_path}/outliers.json")
    assert "| noise.npz | " in said
    record = json.loads((tmp_path / "outliers.json").read_text())
    assert record["auroc"]["noise.npz"]["log_prob"] > 0.95
    assert record["num_objects"]["noise.npz"] == 30
    given = f"--input={tmp_path}/noise.npz"
    say(capsys, "predict", run, given, f"--output={tmp_path}/p.csv")
    say(capsys, "obfuscate", run, given, f"--output={tmp_path}/hidden.npz")
    assert "expected labels -1..9, got 10" in complain(capsys, "evaluate", run, given)


def test_a_run_may_have_the_name_of_its_dataset(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    say(capsys, "relabel", "digits", "--count=2")
    assert (tmp_path / "digits" / "relabelled.png").exists()


def test_labels_by_hand_are_not_written_over(
    tmp_path: Path, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = tmp_path / "hand.csv"
    by_hand.write_text("row,label\n0,3\n")
    config = {**CONFIG, "label_file": str(by_hand), "steps": 1, "eval_every": 1}
    runs.train(runs.prepare(config, tmp_path / "run"))
    capsys.readouterr()  # what training said
    words = ("predict", tmp_path / "run", f"--input={scans}", f"--output={by_hand}")
    assert "hand.csv is read by this command or by others" in complain(capsys, *words)


def test_what_is_not_a_number_has_no_label_and_is_valid_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**CONFIG, "dataset": "moons", "num_labelled": 10, "steps": 1, "eval_every": 1}
    runs.train(runs.prepare(config | {"model": {"name": "vector", "steps": 1}}, tmp_path / "run"))
    far = np.array([[1e20, 0.0], [0.5, 0.5]], np.float32)
    np.savez(tmp_path / "far.npz", x=far, y=[0, 0])
    run = (tmp_path / "run", f"--input={tmp_path}/far.npz")
    say(capsys, "predict", *run, f"--output={tmp_path}/labels.csv")
    rows = read_csv(tmp_path / "labels.csv")
    assert rows[0]["label"] == "-1"
    assert rows[0]["p_0"] == "nan"
    assert rows[1]["label"] in ("0", "1")
    say(capsys, "evaluate", *run, f"--output={tmp_path}/evaluation.json")
    text = (tmp_path / "evaluation.json").read_text()
    record = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity
    assert record["bits_per_dim"] is None
    assert np.sum(record["confusion"]) == 1


def test_export_and_back_bit_for_bit(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    say(capsys, "export", run, f"--output={folder}")
    before, after = scnf_jax.load_run(run), scnf_jax.load_run(folder)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert before.config == after.config
    assert before.step == after.step == 20
    card = (folder / "README.md").read_text()
    assert "test error" in card
    assert "x float32 (grey level + uniform noise) / 17, ['N', 8, 8, 1]" in card
    assert "python train.py --config=configs/digits.py" in card
    say(capsys, "evaluate", folder)
    with pytest.raises(ValueError, match="holds an exported model; give another --workdir"):
        runs.prepare(CONFIG, folder)

    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "damaged file" in complain(capsys, "evaluate", folder)
    weights.write_bytes(whole)
    settings = json.loads((folder / "config.json").read_text())
    settings["config"]["model"]["width"] = 16
    (folder / "config.json").write_text(json.dumps(settings))
    assert "another model" in complain(capsys, "evaluate", folder)
    del settings["data"]["event_shape"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert "a damaged file ('event_shape')" in complain(capsys, "evaluate", folder)


def test_the_card_says_how_frequent_classes_are_unless_equally(run: Path) -> None:
    loaded = scnf_jax.load_run(run)
    assert "p(y)" not in describe(loaded, {})
    for probs, said in ((0.75, 0.25), "0.750, 0.250"), ([1 / 32] * 30 + [1 / 16], "0.031, ..."):
        model = vector((2,), len(probs), class_probs=probs)
        assert describe(loaded._replace(model=model), {})["p(y)"].endswith(said)


def test_another_packages_model_is_not_replaced_by_an_export(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"weight": np.zeros(2, np.float32)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    said = complain(capsys, "export", run, f"--output={tmp_path}")
    assert "expected a new folder, or one that export wrote" in said
    assert (tmp_path / "config.json").read_text() == "{}"


def test_other_data_than_those_of_the_run_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    settings["data"]["fingerprint"] = "of others"
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    for verb in ("evaluate", "suggest", "leak"):
        said = complain(capsys, verb, tmp_path / "run")
        assert "expected the data that" in said
        assert "fingerprint" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--input=none.npy", "--output=x.csv"], "none.npy: expected a .npy"),
        (["predict", "--input=README.md", "--output=x.csv"], "got .md"),
        (["predict", "--input={scans}", "--output=x.txt"], "ends in .csv or .npz"),
        (["predict", "--input={empty}", "--output=x.csv"], "found none in it"),
        (["predict", "--input={wide}", "--output=x.csv"], "expected objects of shape (8, 8, 1)"),
        (["predict", "--input={bright}", "--output=x.csv"], "expected grey levels 0..16, got 200"),
        (
            ["predict", "--input={late}", "--output=x.csv", "--batch-size=2"],
            "expected grey levels 0..16, got 99 at index (4, 0, 0, 0)",
        ),
        (["predict", "--input={huge}", "--output=x.csv"], "expected a PNG picture"),
        (["sample", "--seed=-1"], "seed: expected a number >= 0"),
        (["predict", "--input={floats}", "--output=x.csv"], "expected uint8 images"),
        (["predict", "--input={pickled}", "--output=x.csv"], "never loaded"),
        (["predict", "--input={torn}", "--output=x.csv"], "damaged"),
        (["evaluate", "--input={unlabelled}"], "expected a label of every object"),
        (["obfuscate", "--input={unlabelled}", "--labels=given", "--output=x.npz"], "got none"),
        (["obfuscate", "--input={scans}", "--output=x.csv"], "ends in .npz"),
        (["relabel", "--input={unlabelled}", "--labels=given"], "got none"),
        (["relabel", "--output={tmp}/t0.8"], "ends in .png"),
        (
            ["relabel", "--input={scans}", "--output={scans_png}"],
            "scans.npz is read by this command",
        ),
        (["predict", "--input={scans}", "--output={scans}"], "scans.npz is read by this command"),
        (["evaluate", "--input={scans}", "--output={scans}"], "ends in .json"),
        (["evaluate", "--output={run}/summary.json"], "summary.json is read by this command or by"),
        (["outliers", "--other={scans}", "--output={scans}"], "ends in .json"),
        (["relabel", "--input={pics}", "--output={pics}/a.png"], "a.png is read by this command"),
        (
            ["outliers", "--other={pics}", "--output={pics}/o.json"],
            "densities.png is read by this command",
        ),
        (["relabel", "--count=0"], "count: expected at least 1"),
        (["restore", "--input={scans}", "--label=1", "--output=x.npz"], "of obfuscate"),
        (["restore", "--input={foreign}", "--label=1", "--output=x.npz"], "latents of this model"),
        (["restore", "--input={foreign}", "--output=x.npz"], "either --label=K or"),
        (["restore", "--input={wordy}", "--label=1", "--output=x.npz"], "one row of numbers"),
        (["restore", "--input={nobody}", "--label=1", "--output=x.npz"], "an object, of at least"),
        (["sample", "--label=10"], "label: expected 0..9, got 10"),
        (["sample", "--count=0"], "count: expected at least 1"),
        (["sample", "--temperature=0"], "temperature: expected a number > 0"),
        (["score", "--input={scans}", "--output=x.csv", "--quantile=2"], "between 0 and 1"),
        (["evaluate", "--batch-size=0"], "batch_size: expected an integer >= 1"),
        (["leak", "--max-test=3"], "max_test: expected at least 20"),
        (["outliers", "--max-test=0"], "max_test: expected at least 1"),
        (["figures", "--max-test=1"], "max_test: expected at least 2"),
        (["report", "--max-objects=5"], "max_objects: expected at least 20"),
        (["export", "--output={run}"], "another folder than the run's own"),
        (["export", "--output={run}/../digits"], "another folder than the run's own"),
        (["export", "--output={tmp}"], "which holds other files"),
        (["export", "--output={file}/shared"], "output: expected a folder that can be written"),
        (["evaluate", "--output={file}/evaluation.json"], "a folder that can be written"),
        (
            ["restore", "--input={lost}", "--label=1", "--output=x.npz"],
            "others in 1 of 3 rows of z_aux, first in row 2",
        ),
        (["restore", "--input={torn}", "--label=1", "--output=x.npz"], "got a damaged one"),
        (["restore", "--input={wide}", "--label=1", "--output=x.npz"], "without a name"),
        (
            ["restore", "--input={foreign}", "--label-file={scans}", "--output=x.npz"],
            "got a .npz of several",
        ),
        (["predict", "--input={deep}", "--output=x.csv"], "8 bits a channel, got I;16"),
        (["predict", "--input={clear}", "--output=x.csv"], "expected a picture without transpar"),
        (
            ["score", "--input={scans}", "--output={tmp}/s.csv", "--posterior-at=middle"],
            "posterior-at: expected with --by=entropy alone",
        ),
        (["suggest", "--count=0"], "count: expected at least 1, got 0"),
        (["suggest", "--output={tmp}/next.txt"], "expected a name that ends in .csv, got next.txt"),
        (["suggest", "--output={typed}"], "line 2: expected a label in 0..9, got 'six'"),
    ],
)
def test_bad_input_is_one_line(
    run: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    arrays: dict[str, Any] = {
        "wide": np.zeros((2, 8, 9), np.uint8),
        "bright": np.full((2, 8, 8), 200, np.uint8),
        "floats": np.zeros((2, 8, 8, 1)),
        "unlabelled": np.zeros((2, 8, 8), np.uint8),
        "late": np.pad(np.zeros((4, 8, 8), np.uint8), ((0, 1), (0, 0), (0, 0)), constant_values=99),
    }
    places = {"run": run, "scans": scans, "empty": tmp_path / "empty", "tmp": tmp_path}
    places["empty"].mkdir()
    for name, array in arrays.items():
        places[name] = tmp_path / f"{name}.npy"
        np.save(places[name], array)
    places["pickled"] = tmp_path / "pickled.npy"
    np.save(places["pickled"], np.array([{"a": 1}]), allow_pickle=True)
    places["torn"] = tmp_path / "torn.npz"
    places["torn"].write_bytes(scans.read_bytes()[:200])
    places["file"] = places["torn"]
    places["typed"] = tmp_path / "typed.csv"
    places["typed"].write_text("row;label\n5;six\n")
    places["deep"] = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(places["deep"])
    places["clear"] = tmp_path / "clear.png"
    Image.new("LA", (8, 8), (0, 254)).save(places["clear"])
    places["huge"] = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(places["huge"])
    places["pics"] = tmp_path / "pics"
    places["pics"].mkdir()
    Image.new("L", (8, 8)).save(places["pics"] / "a.png")
    places["foreign"] = tmp_path / "foreign.npz"
    np.savez(places["foreign"], z_h=np.zeros((2, 5)), z_aux=np.zeros((2, 5)))
    places["scans_png"] = scans.with_suffix(".png")
    places["wordy"] = tmp_path / "wordy.npz"
    np.savez(places["wordy"], z_h=np.full((2, 5), "a"), z_aux=np.zeros((2, 5)))
    places["lost"] = tmp_path / "lost.npz"
    np.savez(places["lost"], z_h=np.zeros((3, 5)), z_aux=[[0.0], [1.0], [np.nan]])
    places["nobody"] = tmp_path / "nobody.npz"
    np.savez(places["nobody"], z_h=np.zeros((0, 5)), z_aux=np.zeros((0, 5)))
    verb, *options = [word.format(**places) for word in words]
    assert message in complain(capsys, verb, run, *options)
    assert not (tmp_path / "x.csv").exists()


def test_suggestions_are_answered_and_trained_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "the next.csv", tmp_path / "more"
    said = say(capsys, "suggest", run, "--count=6", f"--output={path}")
    assert f"'--config.label_file={path}'" in said
    assert (tmp_path / "the next.png").stat().st_size > 1000
    lines = read_csv(path)
    drawn = DIGITS.draw_labels(100, 0)
    assert len(lines) == 6
    assert all(line["label"] == "" for line in lines)
    assert (drawn[[int(line["row"]) for line in lines]] == -1).all()
    margin = [float(line["margin_nats"]) for line in lines]
    assert margin == sorted(margin)
    config = CONFIG | {"label_file": str(path)}
    with pytest.raises(ValueError, match="label_file: expected at least one label, got none"):
        runs.prepare(config, folder)
    assert not folder.exists()
    say(capsys, "suggest", run, "--count=6", "--answer", f"--output={path}")
    answered = read_csv(path)
    assert [line["row"] for line in answered] == [line["row"] for line in lines]
    experiment = runs.prepare(config, folder)
    for line in answered:
        assert experiment.labels[int(line["row"])] == int(line["label"])
        assert DIGITS.train_y[int(line["row"])] == int(line["label"])
    assert (experiment.labels >= 0).sum() == 106
    runs.train(experiment)
    for again in (["suggest", folder, "--count=6"], ["suggest", run, "--count=6"]):
        asked = path if again[1] == run else folder / "suggested.csv"
        say(capsys, *again, f"--output={asked}")
        new = read_csv(asked)
        assert not {line["row"] for line in new[:6]} & {line["row"] for line in answered}
        assert [line["label"] for line in new[:6]] == [""] * 6
        assert [(line["row"], line["label"]) for line in new[6:]] == [
            (line["row"], line["label"]) for line in answered
        ]
    runs.prepare(config, folder)
    path.write_text(f"row,label\n{answered[0]['row']},{answered[0]['label']}\n")
    with pytest.raises(ValueError, match=r"other labels than the run in .*answers.csv"):
        runs.prepare(config, folder)
    shared = tmp_path / "shared"
    say(capsys, "export", folder, f"--output={shared}")
    for asked in (folder, shared):  # what the run has seen counts, not what the file holds by now
        say(capsys, "suggest", asked, "--count=6", f"--output={asked}/new.csv")
        assert [line["row"] for line in read_csv(asked / "new.csv")[6:]] == [
            line["row"] for line in answered
        ]
    assert (shared / "answers.csv").exists()
    say(capsys, "export", run, f"--output={shared}")  # of a run without answers, over the other
    assert not (shared / "answers.csv").exists()
    path.unlink()
    np.testing.assert_array_equal(runs.prepare(config, folder).labels, experiment.labels)
    with pytest.raises(ValueError, match="label_file: expected a CSV, got .*No such file"):
        runs.prepare(config, tmp_path / "another")


def test_all_labels_count_where_objects_are_drawn() -> None:
    labels = np.where(np.arange(1000) % 10 == 0, 1, -1)
    rows = _candidates(labels, 200)
    assert len(rows) == 300
    assert (labels[rows] == 1).sum() == 100
    assert len(_candidates(labels, 50)) == 100


@pytest.mark.parametrize("verb", [v.name for v in VERBS if v.name != "table"])
def test_a_folder_without_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    extra = {
        "predict": ["--input=a.npy", "--output=b.csv"],
        "score": ["--input=a.npy", "--output=b.csv"],
        "obfuscate": ["--input=a.npy", "--output=b.npz"],
        "restore": ["--input=a.npz", "--output=b.npz"],
        "export": ["--output=b"],
    }.get(verb, [])
    assert "found no config.json" in complain(capsys, verb, tmp_path, *extra)
    runs.prepare(CONFIG, tmp_path)
    assert "no checkpoint yet" in complain(capsys, verb, tmp_path, *extra)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_shows_an_example(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb.name, "--help"])
    assert stopped.value.code == 0
    assert "example: python -m scnf_jax" in capsys.readouterr().out


def test_the_cells_of_the_quickstart_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny run stands where the notebook trains its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(run)
    assert run_cells(NOTEBOOKS / "quickstart.ipynb")["posterior"].shape == (500, 10)
