"""Stamped latents and stamped executed actions become model steps.

The grid: model step k starts at origin + k * block * period, the origin being the stamp of the first latent,
moved onto the control steps of command_node where those are known.
A camera need not know the grid. A step takes the frame nearest to its start, and actions are cut at the
frames' own stamps: what moved the robot between two frames is divided over ``block`` equal parts of the
time between them, so that the distance it moved stays the same however long that was.
Times are integer nanoseconds on one clock, which the caller reads.
"""

import statistics
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from world_model_ros.safety.action_buffer import ActionBuffer

KEPT_BLOCKS = 8
LONG_GONE = 1000  # model steps without a frame, after which everything is reset
SECOND = 1_000_000_000
FARTHEST = 4  # a frame farther from a step's start than this fraction of a model step does not show it
RATE_NEEDED = 2.5  # frames a model step: with a jitter of a tenth of their distance one is always near
RECENT = 16  # frames, and model steps, that the camera is judged by
TOO_MANY = 2  # recent model steps without a near frame


@dataclass(frozen=True)
class ModelStep:
    """The planner's input at the start of model step ``index``."""

    index: int
    start: int  # ns, when its block begins
    due: int  # ns, when the block planned now begins
    stamp: int  # ns, when the frame was taken that shows it
    previous: int | None  # ns, of the frame that shows the step before; None after a gap
    latency: int  # ns, that was taken from the frame's own stamp
    latent: np.ndarray  # (D,)
    executed: np.ndarray | None  # (block, dim) from ``previous`` to ``stamp``; None after a gap
    known: bool  # whether all of ``executed`` is what was sent, rather than what was planned
    running: np.ndarray  # (block, dim) from ``stamp`` to ``due``


class Timeline:
    """Turns latents and executed actions, in any order of arrival, into one ModelStep per block."""

    def __init__(self, period: int, block: int, dim: int, buffer: ActionBuffer):
        self.period = period
        self.block = block
        self.dim = dim
        self.length = period * block
        self.buffer = buffer  # the plans sent to the command side
        self.latency = 0  # ns that frames are older than their stamps say
        self.reset()

    def reset(self) -> None:
        """Drop everything, the plans too: the next latent begins a new grid."""
        self.origin: int | None = None
        self._aligned = False  # whether the grid lies on the control steps
        self.index = -1
        self.stamp: int | None = None  # of the frame of step ``index``
        self.executed: dict[int, np.ndarray] = {}
        self.newest: int | None = None
        self.missed = 0  # model steps that no frame was near
        self._decided = -1  # the last step that has a frame or will have none
        # index, stamp, latent of a frame that is kept back: a nearer one may come
        self._waiting: tuple[int, int, np.ndarray] | None = None
        self._intervals: deque[int] = deque(maxlen=RECENT)
        self._lags: deque[int] = deque(maxlen=RECENT)
        # of recent steps: whether the camera's rate left it without a near frame
        self._too_far: deque[bool] = deque(maxlen=RECENT)
        self.buffer.clear()

    def take_latency(self, latency: int) -> None:
        """Take frames, the last ones too, to be ``latency`` ns older than their stamps.

        Raises ValueError where that is not a part of a model step.
        """
        if not 0 <= latency < self.length:
            raise ValueError(f"{latency / SECOND:g} s is no part of a model step")
        earlier, self.latency = latency - self.latency, latency
        if earlier and self.newest is not None:
            self.newest -= earlier
            self.stamp = None if self.stamp is None else self.stamp - earlier
            self._waiting = None

    def add_executed(self, stamp: int, action: np.ndarray) -> ModelStep | None:
        """Take the action (dim,) that was sent in the control step that began at ``stamp``.

        Return the model step of a frame that was kept back for a nearer one, if the nearer one is overdue.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (self.dim,) or not np.isfinite(action).all():
            raise ValueError(f"an executed action is {self.dim} finite numbers, this one is {action}")
        self.executed[stamp] = action
        oldest = stamp - KEPT_BLOCKS * self.length
        self.executed = {at: kept for at, kept in self.executed.items() if oldest <= at <= stamp}
        if self._waiting is None:
            return None
        expected = self._waiting[1] + self.interval + self.period // 2 + max(self._lags, default=0)
        return self._take(*self._waiting) if stamp > expected else None

    def add_latent(self, stamp: int, latent: np.ndarray) -> ModelStep | None:
        """Return the model step that this latent (D,) starts, or None when it starts none.

        Its time is ``latency`` before ``stamp``; all other times are on the same clock as actions and plans.
        A frame before a step's start is kept back if the next one will be nearer, by the measured rate.
        A stamp that lies more than a block back, or very far ahead, means that the clock was set: everything
        is reset.
        """
        stamp -= self.latency
        if self.newest is not None and not -self.length <= stamp - self.newest <= LONG_GONE * self.length:
            self.reset()
        if self.newest is not None and stamp <= self.newest:
            return None
        interval = None if self.newest is None else stamp - self.newest
        self.newest = stamp
        if self.executed:
            self._lags.append(max(self.executed) - stamp)
        self._align(stamp)
        if interval is not None:
            self._intervals.append(interval)
            self._count_missed(stamp, interval)
        index = (stamp - self.origin + self.length // 2) // self.length
        off = stamp - self._start(index)
        waiting, self._waiting = self._waiting, None
        if index <= self.index:
            return None
        before = waiting is not None and waiting[0] == index
        if FARTHEST * abs(off) > self.length:
            return self._take(*waiting) if before and off > 0 else None
        if off < 0 and self._intervals and off + self.interval < -off:
            self._waiting = index, stamp, latent
            return None
        if before and abs(waiting[1] - self._start(index)) < abs(off):
            return self._take(*waiting)
        return self._take(index, stamp, latent)

    def refreshed(self, step: ModelStep) -> ModelStep:
        """Return a step with what became known since: actions that were sent, a plan that was late."""
        executed, known = None, False
        if step.previous is not None:
            executed, known = self._executed_block(step.previous, step.stamp)
        running, _ = self._block(step.stamp, step.due, step.stamp + step.latency)
        return replace(step, executed=executed, known=known, running=running)

    def executed_by_latency(self, step: ModelStep) -> list[np.ndarray] | None:
        """Return what was sent in the model step before the frame of ``step``, (block, dim) for each latency.

        The frame is 0, 1, ... control steps older than its stamp. None after a gap, or where it is not known
        of each of them.
        """
        if step.previous is None:
            return None
        shifts = [step.latency - late * self.period for late in range(self.block)]
        sent = [self._executed_block(step.previous + shift, step.stamp + shift) for shift in shifts]
        return [actions for actions, _ in sent] if all(known for _, known in sent) else None

    @property
    def interval(self) -> int:
        """The usual time between two frames, ns; 0 before there were two."""
        return round(statistics.median(self._intervals)) if self._intervals else 0

    @property
    def rate(self) -> float:
        """Measured frames a second; 0 before there were two."""
        return SECOND / self.interval if self.interval else 0.0

    @property
    def rate_needed(self) -> float:
        """Frames a second that are needed to show every model step."""
        return RATE_NEEDED * SECOND / self.length

    @property
    def fast(self) -> bool:
        """Whether frames come so often that a model step has one wherever it lies between them."""
        return self.rate >= 0.95 * self.rate_needed

    @property
    def too_slow(self) -> str:
        """Why this camera is too slow to plan with, or "".

        A slow camera in step with the grid shows every model step, so the steps without a frame count.
        """
        if sum(self._too_far) < TOO_MANY or not self.rate or self.fast:
            return ""
        return (
            f"the camera gives {self.rate:.1f} frames a second, at least {self.rate_needed:.1f} are needed "
            f"to show every model step of {self.length / SECOND:g} s: raise its frame rate"
        )

    def _start(self, index: int) -> int:
        return self.origin + index * self.length

    def _align(self, stamp: int) -> None:
        """Put the grid on the control steps: a plan is played from one of them on."""
        if self.origin is None:
            self.origin = stamp
        if not self.executed:
            return
        nearest = self._tick(self.origin + self.period // 2)
        # From then on only where command_node has begun anew, not for a step that comes a little late.
        if not self._aligned or 4 * abs(nearest - self.origin) > self.period:
            self.origin, self._aligned = nearest, True

    def _tick(self, time: int) -> int:
        """Return when the control step begins that ``time`` lies in."""
        anchor = max(self.executed, default=self.origin)
        return time - (time - anchor) % self.period

    def _count_missed(self, stamp: int, interval: int) -> None:
        """Note the steps that can have no frame any more, and whether frames came as usual beside them."""
        last = (stamp - self.length // FARTHEST - 1 - self.origin) // self.length
        if self._waiting is not None and self._waiting[0] == last:
            return  # it has one
        count = last - self._decided
        if count > 0:
            self.missed += count
            self._too_far.extend([2 * interval <= 3 * self.interval] * min(count, RECENT))
            self._decided = last

    def _take(self, index: int, stamp: int, latent: np.ndarray) -> ModelStep:
        start, follows = self._start(index), index == self.index + 1 and index > 0
        previous = self.stamp if follows else None
        self.index, self.stamp, self._waiting = index, stamp, None
        skipped = max(0, index - self._decided - 1)
        self.missed += skipped
        self._decided = index
        self._too_far.append(False)
        step = ModelStep(
            index,
            start,
            start + self.length,
            stamp,
            previous,
            self.latency,
            latent,
            None,
            False,
            np.zeros((0, 0)),
        )
        step = self.refreshed(step)
        self.buffer.drop_before(
            start - self.length if previous is None else min(previous, start - self.length)
        )
        return step

    def _executed_block(self, begin: int, end: int) -> tuple[np.ndarray | None, bool]:
        """Return (block, dim): what was sent, else what was planned. None where nothing was sent at all."""
        if not any(begin - self.period < at < end for at in self.executed):
            return None, False
        return self._block(begin, end, end)

    def _block(self, begin: int, end: int, seen: int | None = None) -> tuple[np.ndarray, bool]:
        """Return the actions from ``begin`` to ``end``, (block, dim), and whether all of them were sent.

        Sent actions count before ``seen`` (``begin`` if not given), so that the answer does not depend on
        when it is asked for; the rest comes from the plans.
        """
        stamps = sorted(at for at in self.executed if at < (begin if seen is None else seen))
        # In units of 1 / block ns the edges of the parts are whole, and a whole control step weighs one.
        whole, block, all_went_out = self.block * self.period, np.zeros((self.block, self.dim)), True
        at = begin
        while at < end:
            action, until = self._in_force(at, stamps)
            if action is None:
                all_went_out = False
                action = self.buffer.action_at(self._tick(at))
            until = min(until, end)
            for part in range(self.block):
                first = begin * self.block + part * (end - begin)
                overlap = min(until * self.block, first + end - begin) - max(at * self.block, first)
                if action is not None and overlap > 0:
                    block[part] += overlap / whole * action
            at = until
        return block, all_went_out

    def _in_force(self, time: int, stamps: list[int]) -> tuple[np.ndarray | None, int]:
        """Return the sent action that still holds at ``time``, or None, and when that ends."""
        i = bisect_right(stamps, time)
        following = stamps[i] if i < len(stamps) else None
        if i:
            until = stamps[i - 1] + self.period
            if following is not None and following - stamps[i - 1] < 2 * self.period:
                until = following  # a control step that began a little late or early
            if time < until:
                return self.executed[stamps[i - 1]], until
        until = self._tick(time) + self.period
        return None, until if following is None else min(until, following)
