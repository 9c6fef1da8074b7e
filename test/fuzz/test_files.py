"""Damaged and hostile files: a sentence, or what is really in them; soon, and in little memory."""

import json
import pickle
import resource
import struct
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.inspect import describe_checkpoint, describe_file
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig, read_spec
from world_model_ros.model.lewm import LeWorldModel

TIMEOUT = 20.0  # seconds for one file, on a busy machine
MEMORY = 400  # MB more than before, at any time
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = ModelConfig(
        encoder="conv",
        image_size=16,
        action_dim=4,
        latent_dim=8,
        history=2,
        encoder_width=8,
        projector_hidden=8,
        action_hidden=8,
        predictor_width=8,
        predictor_depth=1,
        predictor_heads=1,
        predictor_head_dim=8,
        predictor_mlp=8,
        dropout=0.0,
        channels=(8,),
    )
    action = ActionSpec(("x", "y"), "twist", "m/s", (0.0, 0.0), (0.2, 0.2), (-0.4, -0.4), (0.4, 0.4))
    spec = CheckpointSpec(config, ImageSpec(16), action, 0.05, 2)
    return save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", LeWorldModel(config), spec, "# tiny")


@pytest.fixture(scope="module")
def original(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tried(function, path):
    """Return the function's result for a file, None where it refused it in one sentence."""
    began, before = time.monotonic(), peak()
    try:
        return function(path)
    except UserError as error:
        assert len(str(error)) < 3000  # noqa: PT017
        return None
    finally:
        assert time.monotonic() - began < TIMEOUT
        assert peak() - before < MEMORY


def check_folder(folder, original, **changed):
    """Read a checkpoint folder in every way there is."""
    for name, content in (original | {k.replace("__", "."): v for k, v in changed.items()}).items():
        (folder / name).write_bytes(content)
    spec = tried(read_spec, folder)
    described = tried(describe_checkpoint, folder)
    assert (spec is None) == (described is None)
    loaded = tried(load_checkpoint, folder)
    if loaded is None:
        return None
    model, spec = loaded
    assert all(values.isfinite().all() for values in model.state_dict().values())
    assert all(np.isfinite([*spec.action.low, *spec.action.high, *spec.action.mean, *spec.action.std]))
    assert min(spec.action.std) > 0
    return loaded


@st.composite
def damages(draw):
    """Where a file of any length is hurt, and how."""
    places = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=5))
    front = draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 7)), max_size=3))
    cut = draw(st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1)))
    tail = draw(st.one_of(st.just(b""), st.binary(max_size=20)))
    return places, front, cut, tail


def hurt(content, damage):
    places, front, cut, tail = damage
    content = bytearray(content)
    for share, bit in places:
        content[int(share * (len(content) - 1))] ^= 1 << bit
    for at, bit in front:
        content[at % len(content)] ^= 1 << bit
    return bytes(content[: int(cut * len(content))]) + tail


def test_the_file_itself_is_read(folder, original):
    assert check_folder(folder, original) is not None


@given(damages())
def test_damaged_weights_are_refused_or_finite(folder, original, damage):
    check_folder(folder, original, model__safetensors=hurt(original[WEIGHTS], damage))


@given(damages())
def test_a_damaged_configuration_is_refused_or_valid(folder, original, damage):
    check_folder(folder, original, config__json=hurt(original[CONFIG], damage))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**30, 10**400]),
    st.floats(),
    st.text(max_size=5),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=4),
    st.lists(st.floats(0.01, 2.0), min_size=2, max_size=3),
    st.dictionaries(st.text(max_size=4), scalars, max_size=3),
)


def paths_of(tree, at=()):
    for key, value in tree.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*at, key))


@given(st.data())
def test_any_value_anywhere_in_a_configuration_is_refused_or_valid(folder, original, data):
    tree = json.loads(original[CONFIG])
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(sorted(paths_of(tree))))
        part = tree
        for key in path[:-1]:
            part = part[key]
        if data.draw(st.integers(0, 9)):
            part[path[-1]] = data.draw(values)
        else:
            part.pop(path[-1])
            part[data.draw(st.sampled_from(["_target_", "__class__", "extra"]))] = "os.system"
    check_folder(folder, original, config__json=json.dumps(tree).encode())


headers = st.dictionaries(
    st.sampled_from(["encoder.stem.weight", "__metadata__", "a", ""]),
    st.one_of(
        scalars,
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(
                    ["F32", "F16", "I64", "F64", "BOOL", "F8_E5M2", "U8", "C64", "F4", "?"]
                ),
                "shape": st.lists(st.integers(0, 2**63), max_size=4),
                "data_offsets": st.lists(st.integers(0, 2**63), min_size=2, max_size=2),
            }
        ),
    ),
    max_size=3,
)


@given(st.one_of(headers.map(lambda h: json.dumps(h).encode()), st.binary(max_size=60)), st.data())
def test_hostile_headers_of_weights_are_refused(folder, original, header, data):
    length = data.draw(st.one_of(st.just(len(header)), st.integers(0, 2**64 - 1)))
    body = data.draw(st.binary(max_size=40))
    weights = struct.pack("<Q", length) + header + body
    assert check_folder(folder, original, model__safetensors=weights) is None


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@given(st.sampled_from([CONFIG, WEIGHTS, "card.md"]), st.binary(max_size=20), damages())
def test_payloads_are_never_run(folder, original, name, front, damage):
    marker = folder.parent / "marker"
    hostile = pickle.dumps(Payload(marker))
    check_folder(folder, original, **{name.replace(".", "__"): front + hurt(hostile, damage)})
    assert not marker.exists()


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    path = tmp_path_factory.mktemp("episodes") / "a.h5"
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, {"action_names": ["x", "y"], "period": 0.05, "steps_per_row": 1}) as writer:
        for _ in range(2):
            pixels = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
            writer.append(pixels, rng.normal(size=(3, 2)), rng.normal(size=(3, 1)))
    return path, path.read_bytes()


def read_all(path):
    """Read everything that an episode file holds."""
    with EpisodeFile(path) as file:
        return [(file.pixels(e), file.actions(e), file.states(e)) for e in range(len(file))]


@given(damages())
def test_a_damaged_episode_file_is_refused_or_read(episodes, damage):
    path, content = episodes
    path.write_bytes(hurt(content, damage))
    tried(read_all, path)
    tried(describe_file, path)


columns = st.sampled_from(["pixels", "action", "ep_len", "ep_offset", "state"])
lists = st.sampled_from([["x"], ["x", "y"], [1, 2], b"\xff\xfe", np.zeros((2, 2)), h5py.Empty("f4")])
attributes = st.sampled_from(["period", "steps_per_row", "block", "action_names", "extra"])


@given(st.data())
def test_episode_files_with_other_contents_are_refused_or_read(episodes, data):
    path, content = episodes
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        for name in data.draw(
            st.sets(st.sampled_from(["pixels", "action", "ep_len", "ep_offset", "state"]), max_size=2)
        ):
            del file[name]
            shape = data.draw(st.lists(st.integers(0, 6), max_size=4))
            kind = data.draw(st.sampled_from(["u1", "f4", "i8", "S3", "group"]))
            if kind == "group":
                file.create_group(name)
            else:
                file.create_dataset(name, tuple(shape), kind)
        for name in data.draw(st.sets(attributes, max_size=2)):
            value = data.draw(
                st.one_of(
                    st.integers(-5, 5),
                    st.floats(),
                    st.text(st.characters(codec="ascii", min_codepoint=1), max_size=3),
                    st.sampled_from(
                        [["x"], ["x", "y"], [1, 2], b"\xff\xfe", np.zeros((2, 2)), h5py.Empty("f4")]
                    ),
                )
            )
            file.attrs[name] = value
    tried(read_all, path)
    tried(describe_file, path)
