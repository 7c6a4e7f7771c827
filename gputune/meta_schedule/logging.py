"""What does a user see of a tuning run? Lines on the console, and a log file for each task."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UserError

NAME = "gputune.meta_schedule"

console_logger = logging.getLogger(NAME)
"""The logger of everything that appears on the console; set its level to quieten it."""

task_logger = logging.getLogger(f"{NAME}.task")
"""The logger of tasks that have none of their own: it keeps the details off the console."""
task_logger.addHandler(logging.NullHandler())
task_logger.propagate = False


class Formatter(logging.Formatter):
    """`2022-08-27 13:29:41.332 INFO message`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a message that begins with a line break keeps the level at the line's end."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        space = "" if message.startswith("\n") else " "
        return f"{stamp}.{int(record.msecs):03d} {record.levelname}{space}{message}"


class _Console(logging.Handler):
    """Writes to whatever stderr is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


class _TaskFile(logging.FileHandler):
    """A log file; that it cannot be written (the disk is full) is said once, and stops nothing."""

    told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            super().emit(record)
        except OSError:  # the file cannot even be opened
            self.handleError(record)

    def close(self) -> None:
        """Close the file; what could not be written is gone."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say it on the console, the first time."""
        if not self.told:
            self.told = True
            problem = sys.exc_info()[1]
            console().warning("The log %s cannot be written: %s", self.baseFilename, problem)


def console() -> logging.Logger:
    """The console's logger, made ready: with our format unless the user has given it a handler."""
    if not console_logger.handlers:
        handler = _Console()
        handler.setFormatter(Formatter())
        console_logger.addHandler(handler)
        console_logger.propagate = False
    if console_logger.level == logging.NOTSET:
        console_logger.setLevel(logging.INFO)
    return console_logger


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing below a warning on the console meanwhile (a progress display is there)."""
    before = console_logger.level
    console_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        console_logger.setLevel(before)


def create_loggers(log_dir: str | Path, names: Sequence[str]) -> list[logging.Logger]:
    """A logger for each name that writes to `<log_dir>/<logger's name>.log` only.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    folder = Path(log_dir)
    out = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            full = f"{NAME}.logging.{_file_safe(name)}"
            path = folder / f"{full}.log"
            path.touch()
            logger = logging.Logger(full)
            handler = _TaskFile(path, encoding="utf-8", delay=True)
            handler.setFormatter(Formatter())
            logger.addHandler(handler)
            out.append(logger)
    except OSError as e:
        raise UserError(
            f"cannot write logs to {folder}: {e.strerror or e}",
            hint="choose a work_dir that can be written",
            code="work-dir",
        ) from None
    console().info("Logging directory: %s", log_dir)
    return out


def get_loggers_from_work_dir(
    work_dir: str | Path, task_names: Sequence[str]
) -> list[logging.Logger]:
    """The loggers of tasks, one each, writing to files in `<work_dir>/logs`."""
    return create_loggers(f"{work_dir}/logs", task_names)


def _file_safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
