"""The command side, without ROS: the state machine, limits, watchdogs, joints and the action buffer."""
