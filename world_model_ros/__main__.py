"""``python -m world_model_ros <verb>``."""

import os
import signal

# Until a verb has something to clean up, Ctrl-C simply ends the process: without this, one that
# falls into an import prints a traceback.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from world_model_ros.cli import main  # noqa: E402

raise SystemExit(main())
