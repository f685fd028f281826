"""Saving and loading: whole, or loudly not."""

import random
import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest

from scnf_jax import checkpoints
from scnf_jax.checkpoints import CheckpointError


def state(value: float) -> Any:
    return {"params": ({"w": jnp.full((3, 2), value)}, jnp.float32(value)), "step": jnp.int32(1)}


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        checkpoints.save(folder, step, state(float(step)), {"train_seconds": step / 2})
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_round_trip_is_bit_equal_and_keeps_the_newest(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30)
    assert checkpoints.saved_steps(tmp_path) == [20, 30]
    restored, meta = checkpoints.restore_latest(tmp_path, state(0.0))
    chex.assert_trees_all_equal(restored, state(30.0))
    assert jax.tree.structure(restored) == jax.tree.structure(state(0.0))
    assert meta == {"train_seconds": 15.0}


def test_what_is_later_than_the_newest_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30)
    saved(tmp_path, 25)  # as after 30 was found to be damaged
    assert checkpoints.saved_steps(tmp_path) == [20, 25]


def test_nothing_saved(tmp_path: Path) -> None:
    assert checkpoints.restore_latest(tmp_path / "none", state(0.0)) is None


def test_group(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    target = state(0.0)
    groups, _ = checkpoints.restore_group(
        tmp_path, {"params": target["params"], "ema_params": target["params"]}
    )
    assert set(groups) == {"params"}
    chex.assert_trees_all_equal(groups["params"], state(10.0)["params"])


def test_leftovers_of_an_interrupted_save_are_ignored_and_cleared(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    leftover = tmp_path / ".incomplete-20"
    (leftover / "arrays").mkdir(parents=True)
    restored, _ = checkpoints.restore_latest(tmp_path, state(0.0))
    chex.assert_trees_all_equal(restored, state(10.0))
    saved(tmp_path, 20)
    assert not list(tmp_path.glob(".incomplete*"))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "flipped":
        place = random.Random(0).randrange(len(content))  # noqa: S311
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    else:
        keep = {"empty": 0, "byte": 1, "half": len(content) // 2, "short": len(content) - 1}[how]
        path.write_bytes(content[:keep])


@pytest.mark.parametrize("how", ["deleted", "flipped", "empty", "byte", "half", "short"])
def test_any_damaged_file_falls_back_loudly(tmp_path: Path, how: str) -> None:
    saved(tmp_path, 10)
    for index in range(len(files(tmp_path / "10"))):
        saved(tmp_path, 20)
        written = [path for path in files(tmp_path / "20") if path.stat().st_size]
        path = written[index % len(written)]
        damage(path, how)
        with pytest.warns(RuntimeWarning, match="passed over: .*20"):
            restored, _ = checkpoints.restore_latest(tmp_path, state(0.0))
        chex.assert_trees_all_equal(restored, state(10.0))


@pytest.mark.parametrize("content", ["[]", "[1, 2]", "null", "{}"])
def test_a_manifest_that_is_none_falls_back(tmp_path: Path, content: str) -> None:
    saved(tmp_path, 10, 20)
    (tmp_path / "20" / "manifest.json").write_text(content)
    with pytest.warns(RuntimeWarning, match="passed over: .*20/manifest.json"):
        restored, _ = checkpoints.restore_latest(tmp_path, state(0.0))
    chex.assert_trees_all_equal(restored, state(10.0))


def test_all_damaged_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    damage(tmp_path / "10" / "manifest.json", "half")
    with (
        pytest.warns(RuntimeWarning, match="passed over"),
        pytest.raises(CheckpointError, match=r"10/manifest.json: damaged .* no other checkpoint"),
    ):
        checkpoints.restore_latest(tmp_path, state(0.0))


def test_of_another_model(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    other = state(0.0)
    other["params"][0]["w"] = jnp.zeros((3, 3))
    with pytest.raises(
        CheckpointError, match=r"float32\[3, 3\] at params/0/w, got float32\[3, 2\]"
    ):
        checkpoints.restore_latest(tmp_path, other)
    other = state(0.0)
    other["more"] = jnp.zeros(1)
    with pytest.raises(CheckpointError, match=r"at more, got nothing"):
        checkpoints.restore_latest(tmp_path, other)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    saved(tmp_path / "a", 10)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckpointError, match=r"file/.*could not be written .* resume"):
        checkpoints.save(blocked, 20, state(1.0), {})


def test_disk_too_full_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10)
    left = shutil.disk_usage(tmp_path)._replace(free=31)
    monkeypatch.setattr("shutil.disk_usage", lambda path: left)
    with pytest.raises(CheckpointError, match="32 bytes needed, 31 free"):
        checkpoints.save(tmp_path, 20, state(1.0), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["10"]
