"""What can be wrong with recorded episodes, in plain words: for ``inspect`` and ``episodes list``."""

from typing import NamedTuple

import numpy as np

from world_model_ros.data.episodes import EpisodeFile

IDLE_SHARE = 0.02  # of a limit: slower actions are idle
IDLE_SECONDS = 1.0  # shorter idle heads and tails are left alone
FEW_EPISODES = 50
LIMIT_SHARE = 0.7  # of a limit that some action should reach
STILL = 1e-8  # standard deviation of a dimension that never moves
LARGEST_LAG = 10  # rows
LEAST_CORRELATION = 0.3  # of frame change and action size, to estimate a lag from
DRIFT = 0.08  # of the mean brightness
FROZEN_SHARE = 0.02  # of the consecutive frames of moving rows
COVERED_SHARE = 0.3
GRID = 10  # cells of each side
STILL_SHARE = 0.01  # of the largest range of a coordinate: one that varies less holds still
_FRAMES = 3000  # read for the checks at most
_BYTES = 400e6  # of frames read for the checks at most
_RUN = 100  # consecutive frames of an episode
_SMALL = 32  # pixels of a side, from which the change between frames is measured


class Actions(NamedTuple):
    """Summary of all control steps of a file; arrays of one number per action dimension."""

    names: list[str]
    low: np.ndarray  # seen
    high: np.ndarray
    std: np.ndarray
    scale: np.ndarray  # the larger limit; where none is stated, the largest value seen
    limits: tuple[np.ndarray, np.ndarray] | None  # stated
    by_change: bool  # actions are places: the robot moves where they change


class Idle(NamedTuple):
    """Rows at the ends of an episode in which nothing moves; both None where nothing moves at all."""

    head: int | None
    tail: int | None


class Sample(NamedTuple):
    """Some consecutive frames of an episode."""

    episode: int
    start: int  # the first row
    brightness: float  # mean of all pixels, 0 to 255
    change: np.ndarray  # (n - 1,): mean absolute change of a small grey picture
    same: np.ndarray  # (n - 1,): whether the next frame is identical


def summarise_actions(file: EpisodeFile) -> Actions:
    """Read the actions of all episodes, one after the other."""
    names = [str(n) for n in file.attributes["action_names"]]
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    count, total, squares = 0, np.zeros(len(names)), np.zeros(len(names))
    shift = None
    for episode in range(len(file)):
        steps = file.actions(episode).reshape(-1, len(names)).astype(np.float64)
        steps = steps[np.isfinite(steps).all(1)]
        if not len(steps):
            continue
        shift = steps[0] if shift is None else shift  # else small deviations of large values are lost
        low, high = np.minimum(low, steps.min(0)), np.maximum(high, steps.max(0))
        count += len(steps)
        total += (steps - shift).sum(0)
        squares += np.square(steps - shift).sum(0)
    std = np.sqrt(np.maximum(0, squares / max(1, count) - np.square(total / max(1, count))))
    limits = _limits(file, len(names))
    ends = limits if limits is not None else (low, high)
    scale = np.maximum(*np.abs(ends))
    kind = str(file.attributes.get("action_kind", ""))
    by_change = any(word in kind for word in ("position", "pose"))
    if by_change:
        scale = np.subtract(*ends[::-1])
    return Actions(names, low, high, std, np.where(scale > 0, scale, 1.0), limits, by_change)


def _limits(file: EpisodeFile, width: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        low, high = (np.asarray(file.attributes[f"action_{end}"], float) for end in ("low", "high"))
    except (KeyError, TypeError, ValueError):
        return None
    return (low, high) if low.shape == high.shape == (width,) else None


def speeds(file: EpisodeFile, episode: int, actions: Actions) -> np.ndarray:
    """Return how fast each dimension moves in the rows of an episode, (T, steps_per_row, dim), at least 0.

    In the actions' unit; of actions that are places their change. NaN, after the last frame, counts as 0.
    """
    rows = file.actions(episode).astype(np.float64)
    steps = rows.reshape(-1, len(actions.names))
    if actions.by_change:
        steps = np.diff(steps, axis=0, prepend=steps[:1])
    return np.nan_to_num(np.abs(steps), posinf=0).reshape(len(rows), -1, len(actions.names))


def idle_ends(file: EpisodeFile, episode: int, actions: Actions, speed: float | None = None) -> Idle:
    """Return how many rows at the start and at the end of an episode show nothing that moves.

    A row is idle where all its actions are at most ``speed``, in their unit; by default ``IDLE_SHARE`` of
    the limits. The first row kept is the one whose action moves first, the last one shows what came of the
    last action that moves.
    """
    slow = IDLE_SHARE * actions.scale if speed is None else speed
    moving = np.flatnonzero((speeds(file, episode, actions)[:-1] > slow).any((1, 2)))
    if not len(moving):
        return Idle(None, None)
    return Idle(int(moving[0]), max(0, int(file.lengths[episode]) - 2 - int(moving[-1])))


def seconds_of(file: EpisodeFile, rows: int) -> float:
    """Return how long ``rows`` rows last."""
    return rows * float(file.attributes["steps_per_row"]) * float(file.attributes["period"])


def sample_frames(file: EpisodeFile) -> list[Sample]:
    """Read some consecutive frames from the middle of many episodes, ``_FRAMES`` and ``_BYTES`` at most."""
    most = int(min(_FRAMES, _BYTES // max(1, int(np.prod(file.frame_shape)))))
    run = max(2, min(_RUN, int(file.lengths.max())))
    count = max(1, min(len(file), most // run))
    chosen = np.unique(np.linspace(0, len(file) - 1, count).astype(int))
    run = max(run, min(most // len(chosen), int(32e6 // max(1, int(np.prod(file.frame_shape))))))
    return [_sample(file, int(episode), run) for episode in chosen]


def _sample(file: EpisodeFile, episode: int, run: int) -> Sample:
    length = int(file.lengths[episode])
    start = max(0, (length - run) // 2)
    frames = file.pixels(episode, slice(start, start + run))
    steps = [max(1, side // _SMALL) for side in frames.shape[1:3]]
    small = frames[:, :: steps[0], :: steps[1]].astype(np.float32).mean(-1)
    same = np.array([np.array_equal(a, b) for a, b in zip(frames[:-1], frames[1:], strict=True)], bool)
    change = np.abs(np.diff(small, axis=0)).mean((1, 2))
    return Sample(episode, start, float(small.mean()), change, same)


def file_warnings(file: EpisodeFile) -> list[str]:
    """Return what a person should know before training on a file, a sentence each."""
    actions = summarise_actions(file)
    samples = sample_frames(file)
    with np.errstate(all="ignore"):
        found = [
            _few(file),
            *_still(actions),
            *_limits_unreached(actions),
            _lag(file, actions, samples),
            _drift(samples),
            _frozen(file, actions, samples),
            _idle(file, actions),
            _covered(file)[1],
        ]
    return [sentence for sentence in found if sentence]


def coverage(file: EpisodeFile) -> str:
    """Return in a sentence where the robot has been, by the states or the proprio; "" without either."""
    with np.errstate(all="ignore"):
        return _covered(file)[0]


def episode_warnings(file: EpisodeFile, actions: Actions, episode: int) -> list[str]:
    """Return what is particular to an episode, a phrase each; from its actions alone."""
    found = []
    idle = idle_ends(file, episode, actions)
    if idle.head is None:
        found.append("never moves")
    for place, rows in (("start", idle.head), ("end", idle.tail)):
        if rows and seconds_of(file, rows) >= IDLE_SECONDS:
            found.append(f"idle for {seconds_of(file, rows):.1f} s at the {place}")
    rows = file.actions(episode)
    bad = int((~np.isfinite(rows[:-1]).all(1)).sum())
    if bad:
        found.append(f"{bad} rows before the last lack actions")
    block = int(file.attributes["block"])
    needed = 3 * block // int(file.attributes["steps_per_row"]) + 1
    if len(rows) <= needed:
        found.append("too short for a clip of 4 frames" if len(rows) < needed else "gives one clip only")
    return found


def _few(file: EpisodeFile) -> str:
    if len(file) >= FEW_EPISODES:
        return ""
    return (
        f"{len(file)} episodes are few: record {FEW_EPISODES} or more, of different movements, before "
        "you judge a model trained on them"
    )


def _still(actions: Actions) -> list[str]:
    return [
        f"the action {name} never moves: train with `--drop-actions {name}`, or record it moving"
        for name, std in zip(actions.names, actions.std, strict=True)
        if std < STILL
    ]


def _limits_unreached(actions: Actions) -> list[str]:
    if actions.limits is None or actions.by_change:
        return []
    found = []
    for i, name in enumerate(actions.names):
        reached = max(abs(actions.low[i]), abs(actions.high[i])) / actions.scale[i]
        if actions.std[i] >= STILL and reached < LIMIT_SHARE:
            found.append(
                f"the action {name} reaches {reached:.0%} of its limits at most ({actions.low[i]:.3g} to "
                f"{actions.high[i]:.3g}, limits {actions.limits[0][i]:g} to {actions.limits[1][i]:g}): the "
                "model cannot predict faster ones, so record them or state lower limits"
            )
    return found


def lag(file: EpisodeFile, actions: Actions, samples: list[Sample]) -> int:
    """Return by how many rows the actions lag the frames (less than 0: the frames lag the actions).

    The lag at which the change from a frame to the next one correlates most with the size of an action,
    over all samples. 0 where no lag correlates clearly better than none.
    """
    most = min(LARGEST_LAG, max((len(s.change) for s in samples), default=0) // 4)
    pairs = {k: ([], []) for k in range(-most, most + 1)}
    for sample in samples:
        size = np.linalg.norm(speeds(file, sample.episode, actions) / actions.scale, axis=-1).mean(-1)
        size = size[: int(file.lengths[sample.episode]) - 1]  # nothing follows the last frame
        rows = sample.start + np.arange(len(sample.change))
        for k, (changes, sizes) in pairs.items():
            there = (rows + k >= 0) & (rows + k < len(size))
            changes.append(sample.change[there])
            sizes.append(size[rows[there] + k])
    correlations = {k: _correlation(*map(np.concatenate, both)) for k, both in pairs.items() if both[0]}
    if not correlations:
        return 0
    best = max(correlations, key=correlations.get)
    margin = max(0.03, 2 / np.sqrt(max(1, sum(len(s.change) for s in samples))))
    clear = correlations[best] > LEAST_CORRELATION and correlations[best] > correlations[0] + margin
    return best if clear else 0


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 20 or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))


def _lag(file: EpisodeFile, actions: Actions, samples: list[Sample]) -> str:
    rows = lag(file, actions, samples)
    if not rows:
        return ""
    first, second = ("actions", "frames") if rows > 0 else ("frames", "actions")
    steps = abs(rows) * int(file.attributes["steps_per_row"])
    return (
        f"the {first} lag the {second} by about {steps} control step{'s' * (steps > 1)} "
        f"({seconds_of(file, abs(rows)):.2f} s): check the time stamps, or convert with another timeline"
    )


def _drift(samples: list[Sample]) -> str:
    brightness = np.array([s.brightness for s in samples])
    third = len(brightness) // 3
    if third < 2:
        return ""
    first, last = brightness[:third], brightness[-third:]
    change = last.mean() - first.mean()
    scatter = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / third)
    if abs(change) < DRIFT * brightness.mean() or abs(change) < 4 * scatter:
        return ""
    return (
        f"the frames get {'brighter' if change > 0 else 'darker'} over the file (mean {first.mean():.0f} in "
        f"the first third, {last.mean():.0f} in the last): switch off the camera's automatic exposure, or "
        "keep the light constant"
    )


def _frozen(file: EpisodeFile, actions: Actions, samples: list[Sample]) -> str:
    same = moving = 0
    for sample in samples:
        rows = slice(sample.start, sample.start + len(sample.same))
        fast = (speeds(file, sample.episode, actions)[rows] > IDLE_SHARE * actions.scale).any((1, 2))
        moving += int(fast.sum())
        same += int((sample.same & fast).sum())
    if moving == 0 or same / moving < FROZEN_SHARE:
        return ""
    return (
        f"{same / moving:.0%} of the frames in which the robot moves are identical to the one before: the "
        "camera repeats or loses frames, or is slower than the recording"
    )


def _idle(file: EpisodeFile, actions: Actions) -> str:
    episodes, rows, still = 0, 0, 0
    for episode in range(len(file)):
        idle = idle_ends(file, episode, actions)
        still += idle.head is None
        long = [r for r in idle if r and seconds_of(file, r) >= IDLE_SECONDS]
        episodes += bool(long)
        rows += sum(long)
    sentences = []
    if episodes:
        sentences.append(
            f"{episodes} of {len(file)} episodes begin or end idle, {seconds_of(file, rows):.0f} s in all: "
            f"`episodes trim {file.path}` removes that"
        )
    if still:
        sentences.append(
            f"{still} of {len(file)} episodes never move: `episodes list {file.path}` shows which"
        )
    return "; ".join(sentences)


def _covered(file: EpisodeFile) -> tuple[str, str]:
    """Return where the robot has been, and a warning where that is a small part of the area, or ""."""
    names = file.coordinate_names
    chosen = np.unique(np.linspace(0, len(file) - 1, min(len(file), 1000)).astype(int))
    rows = np.concatenate([file.coordinates(int(e))[:2000].astype(np.float64) for e in chosen])
    rows = rows[np.isfinite(rows).all(1)]
    if not names or not len(rows) or rows.shape[1] != len(names):
        return "", ""
    low, high = rows.min(0), rows.max(0)
    shown = [f"{n} {a:.3g} to {b:.3g}" for n, a, b in zip(names, low, high, strict=True)]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    text = f"coverage: {', '.join(shown[:6])}{more}"
    # Joints that hold still move a little: by the noise of their sensors, and by the arm's own weight.
    least = np.maximum(1e-6 * np.maximum(1, np.abs(high)), STILL_SHARE * (high - low).max())
    moving = np.flatnonzero(high - low > least)[:2]
    if len(moving) < 2 or len(rows) < 3 * GRID**2:
        return text, ""
    span = high[moving] - low[moving]
    cells = np.minimum(GRID - 1, ((rows[:, moving] - low[moving]) / span * GRID).astype(int))
    share = len(np.unique(cells, axis=0)) / GRID**2
    both = " and ".join(str(names[i]) for i in moving)
    text += f"; {share:.0%} of {GRID}x{GRID} cells over {both}"
    if share >= COVERED_SHARE:
        return text, ""
    return text, (
        f"the episodes visit {share:.0%} of the area between the extremes of {both}: the model cannot plan "
        "where it has never been, so record the rest too"
    )
