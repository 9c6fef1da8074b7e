import pytest

from world_model_ros.camera.frames import FrameGate
from world_model_ros.camera.images import ImageRejectedError, check_frame_size, decode_image
from world_model_ros.errors import UserError
from world_model_ros.safety.joints import match_joints
from world_model_ros.sim.faults import KINDS, Faults, Frame, parse

MS = 1_000_000
GAP = 50 * MS
SIZE = 4


def taken(number):
    return Frame(number * GAP, SIZE, SIZE, "rgb8", bytes([number]) * (SIZE * SIZE * 3))


def film(faults, count, start=1):
    """Let the camera run; return the frames that leave it, each with the moment it does."""
    return [
        (frame, n * GAP)
        for n in range(start, start + count)
        for frame in faults.frames(taken(n), (n + 1) * GAP)
    ]


def decode(frame):
    return decode_image(frame.width, frame.height, frame.encoding, 3 * frame.width, False, frame.data)


def test_without_faults_everything_passes_as_it_is():
    faults = Faults()
    assert film(faults, 5) == [(taken(n), n * GAP) for n in range(1, 6)]
    assert faults.joints(["a", "b"], [1.0, 2.0]) == (["a", "b"], [1.0, 2.0])


@pytest.mark.fault
def test_fault_02_a_dropped_camera_is_silent_and_comes_back():
    faults = Faults("drop")
    assert film(faults, 5) == []
    faults.set("", 0)
    assert len(film(faults, 5)) == 5


@pytest.mark.fault
def test_fault_03_a_frozen_camera_is_found_by_the_gate():
    faults, gate = Faults("freeze"), FrameGate()
    said = [gate.judge(frame.stamp, at, frame.data) for frame, at in film(faults, 40)]
    assert said[:20] == [""] * 20
    assert all("frozen" in reason for reason in said[20:])
    faults.set("", 0)
    assert [gate.judge(f.stamp, at, f.data) for f, at in film(faults, 3, 41)] == [""] * 3


@pytest.mark.fault
def test_fault_05_a_wrong_encoding_is_rejected():
    with pytest.raises(ImageRejectedError, match="16UC1"):
        decode(film(Faults("encoding"), 1)[0][0])


@pytest.mark.fault
def test_fault_06_a_picture_of_another_shape_is_rejected():
    first, cut = decode(taken(1)), decode(film(Faults("size"), 1)[0][0])
    assert cut.shape == (SIZE // 2, SIZE, 3)
    big = [(10 * shape[0], 10 * shape[1], 3) for shape in (cut.shape, first.shape)]
    with pytest.raises(ImageRejectedError, match="began with"):
        check_frame_size(*big)


@pytest.mark.fault
def test_fault_08_a_black_picture_is_warned_of():
    assert "black" in FrameGate.look(decode(film(Faults("black"), 1)[0][0]))
    assert FrameGate.look(decode(taken(100))) == ""


@pytest.mark.fault
@pytest.mark.parametrize(("delay", "kind"), [(500 * MS, "used"), (1500 * MS, "late")])
def test_fault_09_late_pictures_keep_their_stamps(delay, kind):
    faults, gate = Faults("delay", delay), FrameGate()
    frames = film(faults, 60)
    assert len(frames) == 60 - delay // GAP
    assert {at - frame.stamp for frame, at in frames} == {delay}
    for frame, at in frames:
        gate.judge(frame.stamp, at, frame.data)
    assert gate.counts[kind] == len(frames)


def test_pictures_under_latency_have_the_stamps_of_when_they_are_sent():
    on_time, late = film(Faults(), 20), film(Faults("latency", 2 * GAP), 20)
    assert [frame.stamp for frame, _ in late] == [at for _, at in late]
    assert [frame.data for frame, _ in late] == [frame.data for frame, _ in on_time[:-2]]
    assert [frame.stamp for frame, _ in late] == [frame.stamp for frame, _ in on_time[2:]]


@pytest.mark.fault
def test_fault_10_permuted_joints_say_the_same():
    names, positions = Faults("permute_joints").joints(["a", "b", "c"], [1.0, 2.0, 3.0])
    assert names == ["c", "b", "a"]
    assert match_joints(("a", "b", "c"), names, positions).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.fault
def test_fault_12_joints_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        match_joints(("a",), *Faults("nan_joints").joints(["a", "b"], [1.0, 2.0]))


@pytest.mark.fault
def test_fault_30_a_flood_is_a_picture_every_millisecond_and_the_gate_thins_it_out():
    gate = FrameGate()
    frames = film(Faults("flood"), 20)
    stamps = [frame.stamp for frame, _ in frames]
    assert stamps == list(range(GAP, 21 * GAP, MS))
    for frame, _ in frames:
        gate.judge(frame.stamp, frame.stamp, bytes([frame.stamp // MS % 251]))
    assert gate.counts["used"] == 100


def test_faults_add_up():
    frame, _ = film(Faults("black, encoding,size"), 1)[0]
    assert (frame.encoding, frame.height, set(frame.data)) == ("16UC1", SIZE // 2, {0})


def test_late_pictures_are_let_go_with_their_fault():
    faults = Faults("delay", 10 * GAP)
    film(faults, 5)
    faults.set("", 0)
    assert [frame for frame, _ in film(faults, 1, 6)] == [taken(6)]


def test_unknown_faults_are_refused_and_the_known_ones_named():
    assert parse(" drop , freeze,") == {"drop", "freeze"}
    with pytest.raises(UserError, match="there is no fault ghost, gremlins") as error:
        parse("gremlins, drop, ghost")
    assert all(kind in str(error.value) for kind in KINDS)
