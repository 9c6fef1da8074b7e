"""Standard JSON, which has neither infinite numbers nor NaN."""

import json
import math


def json_text(values, indent: int | None = None) -> str:
    """Return plain data as JSON; infinite numbers and NaN become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values):
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
