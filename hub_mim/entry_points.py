"""Read the entry points of one group from the installed distributions, and who brings them.

The same answer as `importlib.metadata.entry_points`, for less time: only the distributions that have the group are read.
"""

from dataclasses import dataclass
from importlib.metadata import Distribution, distributions


@dataclass(frozen=True, eq=False)
class EntryPoint:
    """Name a module that a distribution offers.

    Attributes:
        name: the entry point's name.
        value: the module's name.
    """

    name: str
    value: str
    home: Distribution

    @property
    def distribution(self) -> str:
        """The distribution's name as its metadata spell it."""
        return self.home.name

    @property
    def version(self) -> str:
        """The distribution's version."""
        return self.home.version


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, one distribution after the other as they stand on `sys.path`.

    A distribution hides those of the same name behind it, whether or not it has the group.
    """
    mark, seen, found = f"[{group}]", set(), []
    for home in distributions():
        name = getattr(home, "_normalized_name", None) or home.name  # the first is read off the folder's name
        if name in seen:
            continue
        seen.add(name)
        if mark in (home.read_text("entry_points.txt") or ""):
            found += [EntryPoint(each.name, each.value, home) for each in home.entry_points if each.group == group]
    return found
