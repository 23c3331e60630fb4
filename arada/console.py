"""How the command lines speak: one line an event, on stderr."""

import logging
import os

from absl import logging as absl_logging


def start_logging() -> None:
    """Shows the project's own lines, with the time, and keeps libraries quiet."""
    # TensorFlow reads data and writes event files here, and would greet at every start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("arada")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # orbax tells of every file it touches.
    absl_logging.set_verbosity(absl_logging.WARNING)
