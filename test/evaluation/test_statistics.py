import numpy as np
import pytest

from world_model_ros.evaluation.statistics import percentile, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # figures of Newcombe 1998, table I, to four places
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_agrees_with_published_figures(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_at_the_ends():
    assert wilson_interval(100, 100)[1] == 1.0
    assert wilson_interval(0, 100)[0] == 0.0
    assert wilson_interval(97, 100)[0] < 0.97 < wilson_interval(97, 100)[1]


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_no_proportion(successes, n):
    with pytest.raises(ValueError, match="proportion"):
        wilson_interval(successes, n)


def test_percentile_is_numpys():
    values = np.random.default_rng(0).normal(size=31).tolist()
    for q in (0, 5, 50, 95, 100):
        assert percentile(values, q) == pytest.approx(np.percentile(values, q))
    assert percentile([], 50) is None
