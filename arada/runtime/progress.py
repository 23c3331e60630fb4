"""Progress lines of a long job: units done, speed, time left."""

import logging
import time

logger = logging.getLogger(__name__)


class Progress:
    """Counts images and logs a line every few seconds: `vanilla/seed_0: step 40/320, 412 images/s, 0:42 left`."""

    def __init__(self, job: str, unit: str, total: int, images_per_unit: float, every_seconds: float = 5.0):
        self._job, self._unit, self._total, self._images = job, unit, total, images_per_unit
        self._every = every_seconds
        self._start: tuple[float, int] | None = None
        self._logged = time.monotonic()
        self.images_per_second = float("nan")

    def update(self, done: int, detail: str = "") -> None:
        """Reports `done` finished units; the first call starts the clock, so that compilation does not count."""
        now = time.monotonic()
        if self._start is None:
            self._start = now, done
            return
        seconds, units = now - self._start[0], done - self._start[1]
        if units <= 0 or seconds <= 0:
            return
        self.images_per_second = units * self._images / seconds
        if now - self._logged < self._every and done < self._total:
            return
        self._logged = now
        left = clock((self._total - done) * seconds / units)
        logger.info(
            "%s: %s %d/%d, %.0f images/s, %s left%s",
            self._job,
            self._unit,
            done,
            self._total,
            self.images_per_second,
            left,
            f", {detail}" if detail else "",
        )


def clock(seconds: float) -> str:
    """Seconds as 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
