"""The ROS-free control side: limits, staleness, the action buffer's player, joint matching."""
