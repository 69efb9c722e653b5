"""Imports entries' modules from the site when the code of a cell asks for them: the browser loads no entry that it does not run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader


class Source(ExecutionLoader):
    """A module whose text is here already."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text

    def get_filename(self, fullname: str) -> str:
        return self.file

    def get_source(self, fullname: str) -> str:
        return self.text

    def is_package(self, fullname: str) -> bool:
        return self.file.endswith("/__init__.py")


class Served(MetaPathFinder):
    """Finds ``snippets.<family>`` and ``snippets.<family>.<entry>``.

    Args:
        read: gives the text of a file, named from the snippets folder on, and None if there is no such file.
    """

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self.read = read

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        package, *parts = fullname.split(".")
        if package != "snippets" or len(parts) not in (1, 2):
            return None
        file = "/".join(parts) + ("/__init__.py" if len(parts) == 1 else ".py")
        try:
            text = self.read(file)
        except Exception as error:  # the browser's own kind, whatever it is: no answer, or none that says yes or no
            raise ImportError(f"{fullname} could not be fetched from the site ({error}). Check the connection and run again.") from error
        return None if text is None else spec_from_loader(fullname, Source(file, text))


def install(read: Callable[[str], str | None]) -> None:
    """Asks the site for a module only after everything that is installed."""
    sys.meta_path.append(Served(read))
