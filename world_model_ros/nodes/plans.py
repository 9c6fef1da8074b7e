"""Plans as messages: trajectory_msgs/JointTrajectory, a point a control step."""

import numpy as np
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from world_model_ros.model.config import CheckpointSpec
from world_model_ros.nodes.running import set_stamp
from world_model_ros.planning.planner import NoPlanError
from world_model_ros.planning.timeline import ModelStep
from world_model_ros.safety.joints import integrate


def plan_message(
    step: ModelStep, actions: np.ndarray, joints: np.ndarray | None, spec: CheckpointSpec
) -> JointTrajectory:
    """Return the plan, actions (steps, dim) in physical units, for the block after ``step``.

    Velocities are the actions. Where they are joint velocities, positions are integrated from the
    measured joints (dim,). Raises NoPlanError where that cannot be.
    """
    if not np.isfinite(actions).all():
        raise NoPlanError("the plan is not finite")
    positions = np.zeros((len(actions), 0))
    if spec.action.kind == "joint_velocity":
        if joints is None:
            raise NoPlanError("no usable joint_states to integrate the plan from")
        positions = integrate(joints, [*step.running, *actions], spec.period)[len(step.running) :]
    message = JointTrajectory(joint_names=list(spec.action.names))
    set_stamp(message.header.stamp, step.due)
    message.header.frame_id = spec.action.frame
    period = round(spec.period * 1e9)
    for i, velocities in enumerate(actions):
        point = JointTrajectoryPoint(velocities=velocities.tolist(), positions=positions[i].tolist())
        set_stamp(point.time_from_start, (i + 1) * period)
        message.points.append(point)
    return message
