import json
import math

import pytest

from world_model_ros.model.strict import json_text


def strict(text):
    """Read JSON as a parser does that knows the standard only."""

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_does_not_know_become_null_at_any_depth(value):
    values = {"a": value, "b": [1.5, (value, {"c": value})], "d": None, "e": "Infinity", "f": True, "g": 3}
    assert strict(json_text(values)) == {
        "a": None,
        "b": [1.5, [None, {"c": None}]],
        "d": None,
        "e": "Infinity",
        "f": True,
        "g": 3,
    }


def test_indentation_is_jsons():
    assert json_text({"a": [1]}, indent=2) == json.dumps({"a": [1]}, indent=2)
