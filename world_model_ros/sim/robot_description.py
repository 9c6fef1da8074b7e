"""URDF of the arm with its stick, made at run time.

It comes from pybullet_data's own Panda; nothing of it is copied into this package.
"""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from world_model_ros.sim.kinematics import HAND_OFFSET

STICK_RADIUS = 0.011
_STICK_START = 0.05  # where the stick leaves the hand, m from the origin of panda_hand
_UNSEEN = {f"panda_link{i}" for i in range(5)}  # by the camera of the scene
_LAST_LINK_MASS = 1.1  # link 7, the hand and the stick, kg
_STICK_COLOUR = "0.95 0.30 0.05 1"
_HAND_COLOUR = "0.30 0.32 0.36 1"
_ARM_COLOUR = "0.86 0.87 0.90 1"


def arm_urdf(panda: Path, stick_length: float, whole: bool = True) -> str:
    """Return the URDF of the Panda at `panda` with a stick in place of its fingers.

    `stick_length` in m is from the origin of panda_hand to the tip. The collision meshes serve as visuals,
    since the software renderer is four times faster with them. Only the stick collides, since nothing else
    comes near the table. Hand and stick are parts of link 7, since links on fixed joints double the cost
    of a simulation step. Unless `whole`, the links that the camera never sees have no visual, which makes
    a picture faster by a tenth.
    """
    robot = ET.parse(panda).getroot()
    kept = {f"panda_link{i}" for i in range(8)}
    links = {link.get("name"): link for link in robot.iter("link")}
    for element in list(robot):
        name = element.get("name") if element.tag == "link" else element.find("child").get("link")
        if name not in kept:
            robot.remove(element)
    for name, colour in [*((name, _ARM_COLOUR) for name in sorted(kept)), ("panda_hand", _HAND_COLOUR)]:
        link = links[name]
        for visual in link.findall("visual"):
            link.remove(visual)
        for visual in link.findall("collision"):
            visual.tag = "visual"
            mesh = visual.find("geometry/mesh")
            mesh.set("filename", str(panda.parent / mesh.get("filename").removeprefix("package://")))
            for old in visual.findall("material"):
                visual.remove(old)
            visual.append(material(f"{name}_colour", colour))
            if name in _UNSEEN and not whole:
                link.remove(visual)
    last = links["panda_link7"]
    hand = links["panda_hand"].find("visual")
    hand.insert(0, ET.Element("origin", xyz=f"0 0 {HAND_OFFSET}", rpy=f"0 0 {-math.pi / 4}"))
    last.append(hand)
    for tag in ("visual", "collision"):
        last.append(ET.fromstring(_stick(tag, stick_length)))
    last.find("inertial/origin").set("xyz", "0 0 0.14")
    last.find("inertial/mass").set("value", str(_LAST_LINK_MASS))
    for axis in ("ixx", "iyy", "izz"):
        last.find("inertial/inertia").set(axis, "0.01")
    return ET.tostring(robot, encoding="unicode")


def material(name: str, colour: str) -> ET.Element:
    """Return a URDF material of `colour`, red, green, blue and opacity from 0 to 1."""
    material = ET.Element("material", name=name)
    ET.SubElement(material, "color", rgba=colour)
    return material


def _stick(tag: str, stick_length: float) -> str:
    length = stick_length - _STICK_START
    middle = HAND_OFFSET + _STICK_START + length / 2
    look = ET.tostring(material("stick_colour", _STICK_COLOUR), encoding="unicode")
    return f"""<{tag}><origin xyz="0 0 {middle}"/>
      <geometry><cylinder radius="{STICK_RADIUS}" length="{length}"/></geometry>{look}</{tag}>"""
