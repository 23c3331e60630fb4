"""The output of the commands: one line per event, on stderr."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator

from absl import flags
from absl import logging as absl_logging

from arada.errors import UserError
from arada.runtime import hosts, preemption

logger = logging.getLogger(__name__)


def show_any_text() -> None:
    """Lets standard output replace characters that its encoding lacks, such as ± on an ASCII terminal."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def start_logging() -> None:
    """Shows the project's own lines, with the time, and silences libraries; only the first process logs."""
    show_any_text()
    # TensorFlow, which reads data and writes event files, would log at every start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or hosts.is_first())
    logger = logging.getLogger("arada")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # After an error with a broken file tensorstore's threads run on for a moment and print irrelevant tracebacks.
    sys.unraisablehook = lambda unraisable: logger.debug("%s: %s", unraisable.err_msg, unraisable.exc_value)
    # orbax logs every file that it touches, and prints the errors that it raises with several tracebacks.
    absl_logging.set_verbosity(absl_logging.FATAL)


@contextlib.contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Ends the process with one line: exit code 1 for a mistake or a failing store, 0 for a stop on request."""
    try:
        yield
    except preemption.Stopped as stopped:
        logger.info("%s", stopped)
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues from the saved state")
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if not isinstance(error, (OSError, *_store_errors())):
            raise
        reason = str(error).partition("\n")[0]
        sys.exit(f"error: {reason}; after a fix the same command continues from the saved state")


def _store_errors() -> tuple[type[Exception], ...]:
    """TensorFlow's exceptions for a gs:// store that fails or refuses; empty if it is not imported."""
    tensorflow = sys.modules.get("tensorflow")
    names = ("Unavailable", "Unauthenticated", "PermissionDenied", "NotFound", "ResourceExhausted", "DeadlineExceeded")
    return tuple(getattr(tensorflow.errors, f"{name}Error") for name in names) if tensorflow else ()


def process_flags() -> Callable[[], None]:
    """Defines the flags of a run with several processes; returns a function that connects them (`hosts.connect`)."""
    address = flags.DEFINE_string(
        "coordinator_address", "", "HOST:PORT of the first of several processes. Cloud TPU and Slurm need no flags."
    )
    count = flags.DEFINE_integer("num_processes", 0, "Number of processes; 1 runs this one alone.")
    number = flags.DEFINE_integer("process_id", -1, "Index of this process, from 0.")
    return lambda: hosts.connect(address.value, count.value, number.value)


def config_parser(config: flags.FlagHolder) -> Callable[[list[str]], list[str]]:
    """A parser of flags for `absl.app.run` that also loads the flag's config; a mistake ends in one line."""

    def parse(argv: list[str]) -> list[str]:
        try:
            for name, value in zip(argv, [*argv[1:], ""], strict=True):
                if re.fullmatch(f"--?{config.name}(=.*)?", name):
                    path = (name.partition("=")[2] if "=" in name else value).partition(":")[0]
                    _check_is_python(config.name, path)
            rest = flags.FLAGS(argv)
            if rest[1:]:
                sys.exit(f"error: {rest[1]!r} is not a flag; flags begin with --, and values with spaces need quotes")
            # A broken file fails at the first access.
            if config.value is not None:  # some commands do not need one
                config.value.keys()
            return rest
        except (AttributeError, KeyError) as error:
            cause = error
            while isinstance(cause, AttributeError | KeyError):  # nested errors add quotes
                cause = cause.args[0]
            sys.exit(f"error: the {config.name} has no such field: {' '.join(str(cause).split())}")
        except (flags.Error, TypeError, ValueError, OSError) as error:
            # ml_collections raises all of these, some with a traceback as text; its last line is the message.
            lines = [line.strip() for line in str(error).splitlines()]
            reason = (
                lines[-1] if any(line.startswith(("Traceback", "Attempted")) for line in lines) else " ".join(lines)
            )
            for pattern, plain in (
                (r"invalid literal for int\(\) with base \d+: .*", "it must be a whole number, such as 10"),
                (r"could not convert string to float: .*", "it must be a number, such as 0.1"),
            ):
                reason = re.sub(pattern, plain, reason)
            sys.exit(f"error: {reason.removeprefix('ValueError: ')}")

    return parse


def _check_is_python(flag: str, path: str) -> None:
    # Without this check any file would be executed, even the JSON of a workdir.
    if not path.endswith(".py"):
        raise ValueError(f"--{flag}={path} is not a Python file; name a config such as configs/digits.py")
