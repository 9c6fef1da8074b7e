from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs", reason="ROS 2 is not here: make setup installs it, or source one")

from world_model_ros.camera.images import ImageRejectedError
from world_model_ros.nodes.latents import latent_array, latent_message

DIM = 8


def message(**changes):
    fields = {
        "width": DIM,
        "height": 1,
        "encoding": "32FC1",
        "is_bigendian": 0,
        "step": 4 * DIM,
        "data": np.arange(DIM, dtype="<f4").tobytes(),
    }
    return SimpleNamespace(**(fields | changes))


def test_a_latent_comes_back_as_it_went():
    from std_msgs.msg import Header

    latent = np.random.default_rng(0).normal(size=DIM).astype(np.float32)
    sent = latent_message(latent, Header(frame_id="camera"))
    np.testing.assert_array_equal(latent_array(sent, DIM), latent)
    assert sent.header.frame_id == "camera"


@pytest.mark.fault
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_fault_13_latents_that_are_not_finite_are_rejected(broken):
    values = np.zeros(DIM, "<f4")
    values[3] = broken
    with pytest.raises(ImageRejectedError, match="not finite"):
        latent_array(message(data=values.tobytes()), DIM)
    values[4] = -broken
    with pytest.raises(ImageRejectedError, match="not finite"):
        latent_array(message(data=values.tobytes()), DIM)


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes", [{"width": 64}, {"height": 2}, {"encoding": "rgb8"}, {"is_bigendian": 1}, {"data": b"1234"}]
)
def test_fault_25_latents_of_another_checkpoint_are_rejected(changes):
    with pytest.raises(ImageRejectedError):
        latent_array(message(**changes), DIM)


wild = st.integers(0, 2**32 - 1)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "width": st.one_of(wild, st.integers(0, 16)),
            "height": st.one_of(wild, st.integers(0, 3)),
            "encoding": st.one_of(st.sampled_from(["32FC1", "32FC2", "rgb8"]), st.text(max_size=8)),
            "is_bigendian": st.integers(0, 255),
            "step": wild,
            "data": st.one_of(st.binary(max_size=80), st.binary(min_size=4 * DIM, max_size=4 * DIM)),
        },
    )
)
def test_whatever_comes_is_a_finite_latent_or_rejected(changes):
    try:
        latent = latent_array(message(**changes), DIM)
    except ImageRejectedError:
        return
    assert (latent.shape, latent.dtype) == ((DIM,), np.float32)
    assert np.isfinite(latent).all()
    latent[:] = 0  # it is the reader's own
