"""What benchmarks count, against counts by hand."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import bounds, devices, measure, thresholds
from benchmarks.__main__ import DOCS, page, section
from scnf_jax.conditioners import Conv3x3


def test_operations_of_products_loops_and_convolutions() -> None:
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert measure.operations(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5

    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (c @ c, None), x, None, 7)[0]

    assert measure.operations(looped, jnp.ones((6, 6))) == 7 * 2 * 6**3
    conv, x = Conv3x3(8), jnp.ones((2, 5, 6, 3))
    params = conv.init(jax.random.key(0), x)
    forward = 2 * 2 * 5 * 6 * 9 * 3 * 8
    assert measure.operations(conv.apply, params, x) == forward
    both = jax.grad(lambda p, x: conv.apply(p, x).sum(), argnums=0)
    assert measure.operations(both, params, x) == pytest.approx(2 * forward, rel=0.01)


def test_compilations_are_counted_once() -> None:
    function = jax.jit(lambda x: x * 3)
    x = jnp.ones(11)
    with measure.compilations() as compiled:
        function(x)
        function(x)
    assert len(compiled) == 1


def test_collectives_of_a_compiled_program() -> None:
    text = """
      %a = f32[64,3]{1,0} all-reduce(%b), replica_groups={}
      %c = (f32[10]{0}, s32[2]{0}) all-reduce-start(%d, %e)
      %f = f32[8]{0} all-gather(%g), dimensions={0}
      %h = f32[8]{0} add(%i, %j)
    """
    assert devices.collectives(text) == [
        ("all-reduce", 64 * 3 * 4),
        ("all-reduce", 48),
        ("all-gather", 32),
    ]


def test_operations_that_hold_a_product() -> None:
    text = """
%inner (a: f32[3,4]) -> f32[3,3] {
  %a = f32[3,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[3,3]{1,0} dot(%a, %a), lhs_contracting_dims={1}
}

%plain (b: f32[3,3]) -> f32[3,3] {
  ROOT %exp = f32[3,3]{1,0} exponential(%b)
}

ENTRY %main (x: f32[3,4]) -> f32[3,3] {
  %x = f32[3,4]{1,0} parameter(0)
  %made = f32[3,3]{1,0} fusion(%x), kind=kOutput, calls=%inner
  %mapped = f32[3,3]{1,0} fusion(%made), kind=kLoop, calls=%plain
  ROOT %dot.2 = f32[3,3]{1,0} dot(%made, %mapped), lhs_contracting_dims={1}
}
"""
    assert bounds.products(text) == {"dot.1", "made", "dot.2"}


def test_a_section_is_a_table() -> None:
    record = {
        "title": "T",
        "about": "words",
        "command": "c",
        "machine": {"device": "d"},
        "rows": [{"a": 1234, "b": 0.12345}, {"a": None, "c": "x"}],
    }
    assert section(record).splitlines()[-4:] == [
        "| a | b | c |", "|---|---|---|", "| 1,234 | 0.123 | - |", "| - | - | x |",
    ]  # fmt: skip


def test_minutes_to_a_result(tmp_path: Path) -> None:
    config = {"batch_size": 60}
    settings = {"config": config, "data": {}, "command": "python train.py --config=configs/x.py"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "summary.json").write_text(
        json.dumps({"device": "1 x cpu", "cpu_count": 2, "steps": 200})
    )
    lines = []
    for step, error, bits in ((100, 4.0, 1.9), (200, 2.5, 1.25)):
        lines.append({"step": step, "split": "train", "images_per_second": 50.0})
        lines.append({"step": step, "split": "test", "error_percent": error, "bits_per_dim": bits})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = thresholds.run([tmp_path])
    assert (row["5%"], row["3%"], row["2%"]) == (2.0, 4.0, None)
    assert (row["2 bits/dim"], row["1.3 bits/dim"], row["1.2 bits/dim"]) == (2.0, 4.0, None)
    with pytest.raises(ValueError, match="thresholds: expected run folders"):
        thresholds.run([])


def test_the_page_in_docs_is_that_of_the_records_there() -> None:
    assert page(DOCS / "performance") == (DOCS / "PERFORMANCE.md").read_text()
