from world_model_ros.nodes.qos import REMEMBERED, Publications


def info(sent, publisher=b"a", number=None):
    fields = {"source_timestamp": sent, "received_timestamp": sent + 1, "publication_sequence_number": number}
    return fields | ({"publisher_gid": {"data": publisher}} if publisher else {})


def test_the_same_publication_is_new_once_and_the_next_one_is_new():
    known = Publications()
    assert [known.new(info(sent)) for sent in (5, 5, 5, 6, 5, 6, 7)] == [1, 0, 0, 1, 0, 0, 1]


def test_publishers_are_told_apart_by_name_or_number():
    known = Publications()
    assert known.new(info(5, b"a"))
    assert known.new(info(5, b"b"))
    assert known.new(info(5, b"", 1))
    assert known.new(info(5, b"", 2))
    assert not known.new(info(5, b"", 2))


def test_without_a_time_everything_is_new():
    known = Publications()
    assert all(known.new(message) for message in ({}, {}, info(0), info(0), {"source_timestamp": None}))


def test_what_was_overtaken_counts_unless_only_the_newest_does():
    every, newest = Publications(), Publications()
    assert every.new(info(6))
    assert every.new(info(5))
    assert newest.new(info(6), True)
    assert not newest.new(info(5), True)
    assert newest.new(info(5, b"b"), True)  # its clock may be another
    assert newest.new(info(7), True)


def test_a_wall_clock_set_back_loses_no_publication_where_they_are_numbered():
    newest = Publications()
    assert newest.new(info(100, number=1), True)
    assert newest.new(info(50, number=3), True)
    assert not newest.new(info(70, number=2), True)  # it was overtaken


def test_the_memory_is_bounded():
    known = Publications()
    for sent in range(1, 5 * REMEMBERED):
        assert known.new(info(sent, str(sent).encode()), True)
    assert max(len(known._known), len(known._newest)) <= REMEMBERED
