from types import SimpleNamespace

from world_model_ros.nodes.qos import (
    REMEMBERED,
    SILENT,
    Publications,
    PublisherNames,
    Senders,
    other_publishers,
)


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


def senders_of(*numbers, every=50_000_000):
    senders = Senders()
    told = [senders.of(info(i * every, publisher=b"", number=number)) for i, number in enumerate(numbers)]
    return senders, told


def test_a_named_publisher_is_told_by_its_name():
    assert [Senders().of(info(5, name, 1)) for name in (b"a", b"b")] == [b"a", b"b"]
    assert Senders().of(info(5, b"")) == b""  # neither a name nor a number


def test_where_publishers_are_not_named_their_numbers_tell_them_apart():
    assert len(set(senders_of(7, 8, 9, 12, 13, 20)[1])) == 1  # some are lost
    assert len(set(senders_of(100, 3, 101, 4, 5, 102)[1])) == 2
    assert len(set(senders_of(1, 1, 2, 2, 3, 3)[1])) == 2
    assert len(set(senders_of(98, 100, 99, 100, 101, 101, 102, 103)[1])) == 2  # one overtakes the other
    assert len(set(senders_of(28, 29, 3001, 3002, 30, 31)[1])) == 2  # nobody loses 3000 in a moment
    first, second = set(senders_of(5, 6)[1]), senders_of(5, 6, 1, 2, 3, 4, 5, 6, 7)[1]  # started again
    assert set(second[:2]) == first
    assert len(set(second[2:])) == 1
    assert first.isdisjoint(second[2:])


def test_publishers_known_by_numbers_have_names_as_a_whole():
    def infos(*names):
        return [
            SimpleNamespace(node_name=name, node_namespace="/", endpoint_gid=name.encode() * 16)
            for name in names
        ]

    senders, told = senders_of(7, 1, 8, 2)
    assert set(told) & set(senders.names(infos("a"))) == set()
    assert {senders.names(infos("a", "b"))[sender] for sender in told} == {"/a", "/b"}
    senders, told = senders_of(7, 1, 2, every=SILENT)  # the first one has ended
    assert set(told) & set(senders.names(infos("a", "b"))) == set()


def test_a_program_without_ros_is_told_in_plain_words():
    bare = SimpleNamespace(
        node_name="_CREATED_BY_BARE_DDS_APP_",
        node_namespace="_CREATED_BY_BARE_DDS_APP_",
        endpoint_gid=b"x" * 16,
    )
    node = SimpleNamespace(
        get_publishers_info_by_topic=lambda _: [bare],
        get_name=lambda: "command_node",
        get_namespace=lambda: "/",
    )
    assert other_publishers(node, "topic") == ["a program without ROS"]
    names = PublisherNames(node, "topic")
    assert names.everybody() == [names.name(info(5, b"x" * 16))] == ["a program without ROS"]
