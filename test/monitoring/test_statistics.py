from world_model_ros.monitoring.statistics import Percentiles, Rate


def test_percentiles_of_the_newest_values():
    values = Percentiles(kept=100)
    assert values.metrics("ms") == {}
    for value in [10_000.0] * 50 + list(range(100)):
        values.add(float(value))
    assert values.metrics("ms") == {"ms_p50": "49.5", "ms_p99": "98.0", "ms_last": "99.0"}


def test_one_value_is_all_of_them():
    values = Percentiles()
    values.add(3.14)
    assert values.metrics("x") == {"x_p50": "3.1", "x_p99": "3.1", "x_last": "3.1"}


def test_a_latency_spike_shows_in_the_highest_percentile():
    values = Percentiles(kept=200)
    for i in range(200):
        values.add(500.0 if i % 50 == 0 else 10.0)
    metrics = values.metrics("ms")
    assert (metrics["ms_p50"], metrics["ms_p99"]) == ("10.0", "500.0")


def test_rate_and_age():
    rate = Rate()
    assert rate.metrics("camera", 1.0) == {}
    rate.heard(1.0)
    assert rate.metrics("camera", 1.5) == {"camera_age_s": "0.50"}
    for i in range(1, 100):
        rate.heard(1.0 + 0.05 * i)
    assert rate.metrics("camera", 6.0) == {"camera_age_s": "0.05", "camera_hz": "20.0"}


def test_a_clock_set_back_begins_anew():
    rate = Rate()
    rate.heard(100.0)
    rate.heard(1.0)
    rate.heard(1.5)
    assert rate.metrics("camera", 1.5) == {"camera_age_s": "0.00", "camera_hz": "2.0"}
