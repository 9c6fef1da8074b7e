from world_model_ros.control.staleness import Freshness


def test_nothing_is_fresh_before_it_was_heard():
    stream = Freshness()
    assert not stream.ever
    assert not stream.fresh(0, 100)


def test_fresh_until_the_timeout_and_not_longer():
    stream = Freshness()
    stream.heard(1000)
    assert stream.ever
    assert stream.fresh(1100, 100)
    assert not stream.fresh(1101, 100)


def test_the_first_message_is_enough_at_the_beginning():
    stream = Freshness(needed=3)
    stream.heard(1000)
    assert stream.fresh(1000, 100)


def test_after_a_silence_as_many_as_needed_must_come():
    stream = Freshness(needed=3)
    stream.heard(0)
    assert not stream.fresh(1000, 100)
    found = []
    for moment in (1001, 1002, 1003):
        stream.heard(moment)
        found.append(stream.fresh(moment, 100))
    assert found == [False, False, True]


def test_the_same_message_again_is_not_another():
    stream = Freshness(needed=3)
    stream.heard(0)
    assert not stream.fresh(1000, 100)
    for moment in (1001, 1001, 1000, 1001):
        stream.heard(moment)
    assert not stream.fresh(1001, 100)


def test_a_second_silence_counts_from_the_beginning():
    stream = Freshness(needed=2)
    stream.heard(0)
    for start in (1000, 2000):
        assert not stream.fresh(start, 100)
        stream.heard(start)
        assert not stream.fresh(start, 100)
    stream.heard(2050)
    assert stream.fresh(2050, 100)
