"""Closed-form inverse kinematics of the Panda with a stick pointing straight down.

With joints 3 and 5 at zero the arm is a planar three-joint chain in a vertical plane through its first
axis. One elbow is chosen, the hand keeps its heading, so the seven joints are a function of where the tip
is: no null-space drift, and the picture of a tip position is the same whichever way the arm came.
"""

import numpy as np

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
HAND_OFFSET = 0.107  # joint 7 to the origin of panda_hand

_SHOULDER = 0.333  # height of joint 2
_UPPER, _FORE, _OFFSET = 0.316, 0.384, 0.0825  # joint 2 to 4, joint 4 to 6, and the elbow's sideways offset
_WRIST = 0.088  # joint 6 to the axis of the flange
_UPPER_REACH = np.hypot(_UPPER, _OFFSET)
_FORE_REACH = np.hypot(_FORE, _OFFSET)
_UPPER_TILT = np.arctan2(_OFFSET, _UPPER)
_FORE_TILT = np.arctan2(_OFFSET, _FORE)


def inverse(tip: np.ndarray, hand_height: float) -> np.ndarray:
    """Joint angles (..., 7) in rad that hold the stick over `tip` (..., 2), the hand at `hand_height`.

    Both in m in panda_link0; the hand's place is the origin of panda_hand.
    Raises ValueError where the arm cannot reach.
    """
    tip = np.asarray(tip, float)
    radius = np.hypot(tip[..., 0], tip[..., 1]) - _WRIST
    rise = hand_height + HAND_OFFSET - _SHOULDER
    cosine = (_UPPER_REACH**2 + _FORE_REACH**2 - radius**2 - rise**2) / (2 * _UPPER_REACH * _FORE_REACH)
    if not np.all(np.abs(cosine) < 1):
        raise ValueError("the tip position is out of the arm's reach")
    # The inner angle of the elbow; it is pi + both tilts when joint 4 is at zero.
    elbow = np.arccos(cosine)
    distance = np.hypot(radius, rise)
    shoulder = np.arcsin(_FORE_REACH * np.sin(elbow) / distance)
    obtuse = _UPPER_REACH**2 + distance**2 < _FORE_REACH**2
    shoulder = np.where(obtuse, np.pi - shoulder, shoulder)
    joints = np.zeros((*tip.shape[:-1], 7))
    joints[..., 0] = np.arctan2(tip[..., 1], tip[..., 0])
    joints[..., 1] = np.arctan2(radius, rise) - shoulder - _UPPER_TILT
    joints[..., 3] = elbow - np.pi - _UPPER_TILT - _FORE_TILT
    # The hand points down when the three pitches cancel.
    joints[..., 5] = joints[..., 1] - joints[..., 3]
    joints[..., 6] = joints[..., 0] + np.pi / 4
    return joints
