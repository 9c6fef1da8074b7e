"""A checkpoint is a folder: config.json, model.safetensors, card.md. It contains no code.

Whether its actions and limits fit a task, a data file or a robot is decided by ``interface_differences`` in
model/config.py, called by sim/tasks (check_world), training/train.py and evaluation/recordings.py;
safety/limits.py narrows the limits to the robot's. At the end: the device that a model computes on.
"""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.model.config import (
    CARD_NAME,
    CONFIG_NAME,
    WEIGHTS_NAME,
    CheckpointSpec,
    ModelConfig,
    read_spec,
)
from world_model_ros.model.lewm import LeWorldModel

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm, kept as they are
_READ = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
_PREFIXES = ("module.", "model.")  # of DistributedDataParallel, of Lightning and others
DEVICES = ("auto", "cpu", "cuda")
_STORED = {"float32": torch.float32, "float16": torch.float16}


def save_checkpoint(
    folder: str | Path,
    model: LeWorldModel,
    spec: CheckpointSpec,
    card: str | None = None,
    dtype: str = "float32",
) -> Path:
    """Write a checkpoint folder and return its path; the folder is complete or untouched.

    ``dtype`` is "float32" or "float16" (half the size, no measurable loss) for the weights; BatchNorm's
    statistics stay fp32. A checkpoint that was there is replaced; other files in the folder stay.
    Raises UserError where ``folder`` is something else than a checkpoint, or a weight is not finite or
    does not fit into fp16.
    """
    folder = Path(folder)
    spec.validate()
    if folder.exists() and not _replaceable(folder):
        raise UserError(f"{folder} exists and is no checkpoint folder: choose another place.")
    tensors = round_weights(model.state_dict(), dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staged.chmod(0o755)
        if folder.exists():
            ours = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
            shutil.copytree(folder, staged, dirs_exist_ok=True, ignore=lambda *_: ours)
        save_file({k: v.contiguous() for k, v in tensors.items()}, staged / WEIGHTS_NAME)
        (staged / WEIGHTS_NAME).chmod(0o644)
        (staged / CONFIG_NAME).write_text(spec.to_json())
        if card is not None:
            (staged / CARD_NAME).write_text(card)
        for path in staged.iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _swap(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def check_place(option: str, folder: Path) -> None:
    """Raise UserError, naming ``option``, where ``save_checkpoint`` could not write ``folder``."""
    if folder.exists() and not _replaceable(folder):
        what = "is no checkpoint folder" if folder.is_dir() else "is a file"
        raise UserError(f"{option} {folder} exists and {what}: choose another place.")
    there = folder.absolute().parent
    while not there.exists():
        there = there.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=there))
    except OSError as error:
        raise UserError(
            f"{option} {folder}: nothing can be written in {there} ({error.strerror}): choose another place."
        ) from None


def load_checkpoint(folder: str | Path, device: str = "cpu") -> tuple[LeWorldModel, CheckpointSpec]:
    """Read a checkpoint folder: the model in fp32 and evaluation mode, and what config.json says.

    Strict both ways: UserError naming the file when it is missing, cut short or corrupt, when a tensor
    is missing, unexpected, wrongly shaped, of another type or not finite.
    """
    spec = read_spec(folder)
    path = Path(folder) / WEIGHTS_NAME
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe or a device can be read for ever
            raise UserError(f"{path} is no file: copy the whole checkpoint folder.")
        if size > _largest_file(spec.model):
            raise UserError(f"{path} does not fit its config: {size} bytes are too many; copy both again.")
        # load_file maps the file: copying another over it would change the model of a running robot.
        tensors = load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy the whole checkpoint folder.") from None
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{path} cannot be read ({error}): copy the checkpoint again.") from None
    model = build_model(spec.model, strip_prefixes(tensors), path)
    return model.to(device).eval(), spec


def load_pickled(path: str | Path, device: str | torch.device = "cpu", mmap: bool = False):
    """Return what torch.save wrote, tensors and plain data: nothing that the file says is run.

    Raises ValueError for an archive with compressed parts, which torch.save never writes and of which a few
    MB can stand for gigabytes, and whatever torch.load raises.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it has compressed parts")
    return torch.load(path, map_location=device, weights_only=True, mmap=mmap)


def strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without what torch.compile, data parallelism or a trainer put before the names.

    Raises UserError where a tensor is there with and without it.
    """
    stripped = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    if len(stripped) != len(tensors):
        raise UserError("the weights hold tensors both with and without _orig_mod.: save the model once.")
    while stripped and (prefix := _common_prefix(stripped)):
        stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}
    return stripped


def _common_prefix(tensors: dict[str, Tensor]) -> str | None:
    return next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)


def build_model(config: ModelConfig, tensors: dict[str, Tensor], path: Path) -> LeWorldModel:
    """Return a model of ``config`` with exactly ``tensors`` as its state; UserError naming ``path``.

    Shapes are compared before any memory is taken.
    """
    model = _empty(config)
    expected = model.state_dict()
    problems = [f"{k} is missing" for k in expected if k not in tensors]
    problems += [f"{k} is unexpected" for k in tensors if k not in expected]
    for name, wanted in expected.items():
        given = tensors.get(name)
        if given is None:
            continue
        if given.shape != wanted.shape:
            problems.append(f"{name} has shape {list(given.shape)}, the config asks for {list(wanted.shape)}")
        elif given.is_floating_point() != wanted.is_floating_point() or given.dtype not in _READ:
            problems.append(f"{name} has type {given.dtype}")
        elif not torch.isfinite(given).all():
            problems.append(f"{name} is not finite")
        elif name == "landmarks.edges" and (given < 0).any():
            problems.append(f"{name} has negative lengths")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{path} does not fit its config: {'; '.join(problems[:3])}{more}: "
            "copy the checkpoint again, config and weights together."
        )
    state = {k: v.to(expected[k].dtype).contiguous() for k, v in tensors.items()}
    model.load_state_dict(state, assign=True)
    return model


def _empty(config: ModelConfig) -> LeWorldModel:
    """Return a model of ``config`` that takes no memory."""
    with torch.device("meta"):
        return LeWorldModel(config)


def _largest_file(config: ModelConfig) -> int:
    """Return how many bytes the weights of such a model can have, whatever their type."""
    tensors = _empty(config).state_dict().values()
    return (1 << 20) + sum(8 * t.numel() + 1024 for t in tensors)


def round_weights(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return copies of a state dict on the CPU with the weights in ``dtype``, buffers as they are.

    Raises UserError for a value that is not finite or does not fit.
    """
    if dtype not in _STORED:
        raise UserError(f"weights cannot be stored as {dtype!r}: choose one of {', '.join(_STORED)}.")
    rounded = {}
    for name, value in state.items():
        value = value.detach().cpu()
        if not name.endswith(_BUFFERS):
            value = value.to(_STORED[dtype])
        if not torch.isfinite(value).all():
            raise UserError(
                f"{name} is not finite as {dtype}: nothing was saved; train again, or store as float32."
            )
        rounded[name] = value.clone()
    return rounded


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or (folder / CONFIG_NAME).is_file())


def _swap(staged: Path, folder: Path) -> None:
    """Put ``staged`` in the place of ``folder`` by renames; what was there comes back if that fails."""
    if not folder.exists():
        staged.rename(folder)
        return
    retired = staged.with_name(staged.name + "-old")
    folder.rename(retired)
    try:
        staged.rename(folder)
    except OSError:
        retired.rename(folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def lost_device(error: BaseException) -> bool:
    """Return whether the GPU's context is gone with this error, so that only a new process helps."""
    accelerator = getattr(torch, "AcceleratorError", None)
    if accelerator is not None and isinstance(error, accelerator):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def choose_device(name: str, option: str = "--device") -> torch.device:
    """Return a device by its name, ``auto`` being the GPU where torch sees one.

    Raises UserError, naming ``option``, for an unknown one and for a GPU that is not there.
    """
    if name not in DEVICES:
        raise UserError(f"{option} {name!r} is unknown: choose {', '.join(DEVICES)}.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{option} cuda: torch sees no GPU here; use {option} cpu.")
    return torch.device(name)


def multiplies_in_bf16() -> bool:
    """Return whether this CPU has instructions for products in bf16."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
