"""Latent world models for ROS 2: perceive, imagine, plan, act.

Importing this package imports neither torch nor rclpy nor pybullet; each folder says what it needs.
"""

__version__ = "0.1.0"
