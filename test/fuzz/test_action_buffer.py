"""The action buffer against a model of it, whatever the order of calls."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from world_model_ros.safety.action_buffer import MAX_PLANS, ActionBuffer

PERIOD = 50
TIMES = st.one_of(st.integers(0, 3000), st.integers(-(2**62), 2**62))


class BufferMachine(RuleBasedStateMachine):
    @initialize(age=st.integers(PERIOD, 1000))
    def begin(self, age):
        self.buffer = ActionBuffer(PERIOD, age)
        self.age = age
        self.plans = []  # (start, length, number)
        self.number = 0

    @rule(start=TIMES, length=st.integers(1, 30))
    def put(self, start, length):
        self.number += 1
        rows = np.stack([np.full(length, self.number), np.arange(length)], 1)
        self.buffer.put(start, rows)
        rows[:] = -1  # what was handed over is the buffer's own
        self.plans = [p for p in self.plans if p[0] < start] + [(start, length, self.number)]
        self.plans = self.plans[-MAX_PLANS:]

    @rule(
        start=TIMES,
        actions=st.sampled_from(
            [np.zeros((0, 2)), np.zeros((2, 0)), np.zeros(2), np.full((2, 2), np.nan), [[0, np.inf]], [], 3.0]
        ),
    )
    def put_nonsense(self, start, actions):
        with pytest.raises(ValueError, match="plan"):
            self.buffer.put(start, actions)

    @rule(time=TIMES)
    def drop_before(self, time):
        self.buffer.drop_before(time)
        started = [p for p in self.plans if p[0] <= time]
        self.plans = started[-1:] + [p for p in self.plans if p[0] > time]

    @rule()
    def clear(self):
        self.buffer.clear()
        self.plans = []

    @rule(time=TIMES)
    def look(self, time):
        action = self.buffer.action_at(time)
        due = [p for p in self.plans if p[0] <= time + PERIOD // 2]
        if due:
            start, length, number = due[-1]
            row = (time + PERIOD // 2 - start) // PERIOD
            if row < length and row * PERIOD < self.age:
                assert action.tolist() == [number, row]
                action[:] = -1  # nor does a reader change what the next one finds
                return
        assert action is None

    @invariant()
    def plans_are_few_and_in_order(self):
        starts = [plan.start for plan in self.buffer.plans]
        assert starts == sorted(set(starts))
        assert len(starts) <= MAX_PLANS
        assert all(len(plan.actions) * PERIOD < self.age + PERIOD for plan in self.buffer.plans)


TestActionBuffer = BufferMachine.TestCase
