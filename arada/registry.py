"""Names that configs use for networks, methods and data sets: built-in ones, and those that a config file registers."""

import inspect
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# By field and name, the file that registered what is not built in.
FILES: dict[str, dict[str, str]] = {}


class Registry(dict[str, Any]):
    """The values of a config field such as `model.name` by name; `files` says which file registered a name."""

    def __init__(self, field: str, built_in: Mapping[str, Any], reserved: Iterable[str] = ()):
        super().__init__(built_in)
        self.field, self.files = field, FILES.setdefault(field, {})
        self._taken = {*built_in, *reserved}

    def register(self, name: str, made_by: Callable) -> None:
        """Adds a name, or replaces one that was added. Raises ValueError for a built-in name."""
        if name in self._taken:
            raise ValueError(f"{self.field} {name!r} is built in; choose another name")
        if not (isinstance(name, str) and name.isidentifier() and callable(made_by)):
            raise ValueError(f"{self.field} {name!r}: register a Python identifier such as 'my_net' and its function")
        # Of the config file, not of the function `register` of a package.
        frame = inspect.currentframe()
        while frame and frame.f_globals.get("__name__", "").partition(".")[0] == "arada":
            frame = frame.f_back
        self[name] = made_by
        self.files[name] = str(pathlib.Path(frame.f_code.co_filename).resolve()) if frame else ""
