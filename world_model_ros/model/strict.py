"""Strict JSON: objects to dataclasses, and plain data to standard JSON, which has no infinity and no NaN."""

import dataclasses
import json
import math
import reprlib

from world_model_ros.errors import UserError


def build(cls, values, where: str):
    """Return dataclass ``cls`` built from a JSON object, strict about names and types.

    Raises UserError naming ``where``, and OverflowError for a number that no float holds.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must be an object, it is {type(values).__name__}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise UserError(
            f"{where} does not fit this version: missing {missing or 'nothing'}, "
            f"unknown {reprlib.repr(unknown) if unknown else 'nothing'}."
        )
    built = {}
    for name, value in values.items():
        expected = fields[name].type
        if dataclasses.is_dataclass(expected):
            value = build(expected, value, f"{where}: {name}")
        elif isinstance(value, list):
            value = tuple(value)
        _check_type(expected, value, f"{where}: {name}")
        if expected in (float, float | None) and value is not None:
            value = float(value)
        elif isinstance(value, tuple) and "float" in str(expected):
            value = tuple(map(float, value))
        built[name] = value
    return cls(**built)


def _check_type(expected, value, where: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        str: isinstance(value, str),
        int: number and isinstance(value, int),
        float: number,
        float | None: number or value is None,
        dict: isinstance(value, dict),
    }.get(expected)
    if fits is None and str(expected).startswith("tuple["):
        wanted = str if "str" in str(expected) else int if "int" in str(expected) else (int, float)
        fits = isinstance(value, tuple) and all(
            isinstance(v, wanted) and not isinstance(v, bool) for v in value
        )
    if fits is False:
        raise UserError(f"{where} has the wrong type: {reprlib.repr(value)}.")


def json_text(values, indent: int | None = None) -> str:
    """Return plain data as JSON; infinite numbers and NaN become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values):
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
