import pytest
import torch

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import choose_device, lost_device


@pytest.mark.fault
@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: device-side assert triggered",
    ],
)
def test_fault_19_a_lost_gpu_is_known_by_its_error(text):
    assert lost_device(RuntimeError(text))


@pytest.mark.fault
@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="torch is older")
def test_fault_19_torchs_own_error_is_known():
    assert lost_device(torch.AcceleratorError("unspecified launch failure"))


@pytest.mark.fault
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error"),
        MemoryError(),
    ],
)
def test_fault_19_other_errors_leave_the_gpu_where_it_is(error):
    assert not lost_device(error)


def test_a_device_is_chosen_by_name():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="the parameter device 'tpu' is unknown"):
        choose_device("tpu", "the parameter device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no GPU here"):
        choose_device("cuda")
