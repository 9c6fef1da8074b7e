"""The T-shaped block: its shape, its URDF, and how far a point is from it."""

import xml.etree.ElementTree as ET

import numpy as np

from world_model_ros.sim.robot_description import material

# A bar and a stem of one width. Its frame sits in its centre of mass, y points to the bar.
BLOCK_LENGTH = 0.15  # of the bar, and of the whole T along the stem
BLOCK_WIDTH = 0.045
BLOCK_HEIGHT = 0.04
BLOCK_MASS = 0.2
BAR_Y = (BLOCK_LENGTH - BLOCK_WIDTH) * BLOCK_LENGTH / 2 / (2 * BLOCK_LENGTH - BLOCK_WIDTH)
STEM_Y = BAR_Y - BLOCK_LENGTH / 2
BLOCK_BOXES = (  # centre y, size, colour
    (BAR_Y, (BLOCK_LENGTH, BLOCK_WIDTH, BLOCK_HEIGHT), "0.10 0.25 0.95 1"),
    (STEM_Y, (BLOCK_WIDTH, BLOCK_LENGTH - BLOCK_WIDTH, BLOCK_HEIGHT), "0.10 0.75 0.20 1"),
)
_CENTRES = np.array([(0.0, y) for y, _, _ in BLOCK_BOXES])
_HALVES = np.array([size[:2] for _, size, _ in BLOCK_BOXES]) / 2


def clearance(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Distance (...) in m from `points` (..., 2) to the T at `pose` (x, y, yaw); zero inside it."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    local = (np.asarray(points) - pose[:2]) @ np.array([[cosine, -sine], [sine, cosine]])
    outside = np.maximum(np.abs(local[..., None, :] - _CENTRES) - _HALVES, 0.0)
    return np.hypot(outside[..., 0], outside[..., 1]).min(axis=-1)


def block_urdf() -> str:
    """Return the URDF of the T: one rigid body of two boxes."""
    area = sum(size[0] * size[1] for _, size, _ in BLOCK_BOXES)
    inertia = [0.0, 0.0, 0.0]
    shapes = ""
    for number, (y, size, colour) in enumerate(BLOCK_BOXES):
        mass = BLOCK_MASS * size[0] * size[1] / area
        x2, y2, z2 = (side**2 / 12 for side in size)
        inertia = [
            i + mass * d for i, d in zip(inertia, (y2 + z2 + y * y, x2 + z2, x2 + y2 + y * y), strict=True)
        ]
        place = f'<origin xyz="0 {y} 0"/><geometry><box size="{size[0]} {size[1]} {size[2]}"/></geometry>'
        look = ET.tostring(material(f"block_{number}", colour), encoding="unicode")
        shapes += f"<visual>{place}{look}</visual><collision>{place}</collision>"
    return f"""<robot name="block"><link name="block">
      <inertial><mass value="{BLOCK_MASS}"/>
        <inertia ixx="{inertia[0]}" iyy="{inertia[1]}" izz="{inertia[2]}" ixy="0" ixz="0" iyz="0"/></inertial>
      {shapes}</link></robot>"""
