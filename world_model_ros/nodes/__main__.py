"""``python -m world_model_ros.nodes <node> [--ros-args ...]``: what the executables do."""

import sys

from world_model_ros.nodes import entry

NODES = ("sim_node", "encoder_node", "planner_node", "command_node", "monitor_node")

if len(sys.argv) < 2 or sys.argv[1] not in NODES:
    print(f"say which node: {', '.join(NODES)}", file=sys.stderr)
    raise SystemExit(2)
raise SystemExit(entry.start(sys.argv.pop(1)))
