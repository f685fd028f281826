"""Groups of plain settings, checked where they enter."""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def suggest(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'X'?"`` for the nearest known word, else the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def check_choice(field: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises ValueError unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{field}: expected one of {listed}, got {value!r}")


def check_range(field: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises ValueError unless ``low <= value <= high``; NaN and infinity are refused."""
    if not isinstance(value, numbers.Real) or not low <= value <= high or abs(value) == math.inf:
        upper = f" and <= {high}" if high != float("inf") else ""
        raise ValueError(f"{field}: expected a number >= {low}{upper}, got {value!r}")


def check_above_zero(field: str, value: float) -> None:
    """Raises ValueError unless ``value > 0``; NaN and infinity are refused."""
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"{field}: expected a number > 0, got {value!r}")


def check_positive(field: str, value: int) -> None:
    """Raises ValueError unless ``value`` is an integer of at least 1."""
    _check_integer(field, value, 1)


def check_count(field: str, value: int) -> None:
    """Raises ValueError unless ``value`` is an integer of at least 0."""
    _check_integer(field, value, 0)


def check_sizes(field: str, values: Sequence[int]) -> None:
    """Raises ValueError unless ``values`` is a sequence of integers of at least 1."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{field}: expected several integers, such as (4, 4), got {values!r}")
    for value in values:
        check_positive(field, value)


def _check_integer(field: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{field}: expected an integer >= {low}, got {value!r}")


def from_mapping(options: type[T], mapping: Mapping[str, Any], field: str) -> T:
    """Builds a dataclass of settings from a mapping.

    Args:
      options: the dataclass.
      mapping: values by field name; fields that are absent keep their defaults. An empty word is
        None where that may stand, since a command line has no other.
      field: where the mapping stands, for messages.

    Returns:
      The dataclass.

    Raises:
      ValueError: for an unknown key, with a suggestion, or a value of a wrong type.
    """
    fields = {item.name: item for item in dataclasses.fields(options)}  # type: ignore[arg-type]
    prefix = f"{field}." if field else ""
    values = dict(mapping)
    for key, value in mapping.items():
        if key not in fields:
            raise ValueError(f"{prefix}{key}: no such setting; {suggest(key, fields)}")
        expected = fields[key].type
        if not _fits(value, expected):
            name = getattr(expected, "__name__", str(expected))
            raise ValueError(f"{prefix}{key}: expected {name}, got {value!r}")
        if value == "" and expected == str | None:
            values[key] = None
    missing = [
        item.name
        for item in fields.values()
        if item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
        and item.name not in mapping
    ]
    if missing:
        raise ValueError(f"{prefix}{missing[0]}: expected a value, got none")
    return options(**values)


def _fits(value: Any, expected: Any) -> bool:
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    for kind in (int, float, bool, str):
        if expected == kind | None:
            return value is None or _fits(value, kind)
    if expected in (str, bool):
        return isinstance(value, expected)
    if expected == dict[str, Any]:
        return isinstance(value, Mapping)
    return True
