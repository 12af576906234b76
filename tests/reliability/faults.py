"""Break every write of every command in every way, and look at what is left: the old state or the new one, never a mixture.

    python tests/reliability/faults.py --sample 30 --out faults.json     # a seeded sample; without --sample all of them
    python tests/reliability/faults.py --part 1/2 --progress faults.jsonl  # half of them; goes on where it was interrupted

One process imports everything once and forks for each trial. A trial brings a folder into the state that a fault leaves: at a
write (an open, a rename, a flush, a removal, a save by a library, a change of a database), at a request to a Hub, or by a
bit that turns in a finished file. Then the folder is read as a user would read it, the command is called again, and the
folder must be what an undisturbed call makes. `breaking.py` breaks, `trials.py` judges; `commands.py` and `hub_commands.py`
hold what is tried.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import commands
import made
from breaking import DISK
from hub_commands import hub_commands, served
from trials import NEW, NOTHING, OLD, UNSEEN, Command, Tested, forked

__all__ = ["DISK", "NEW", "NOTHING", "OLD", "UNSEEN", "Command", "Tested", "served"]
BLOCK = 8  # neighbouring points are tried by one process: the states that they leave are often alike

Trial = tuple[Tested, int, str]


def run_all(given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the trials; returns how many there are and were, what was lost, and the points of each command."""
    made.warm()
    with tempfile.TemporaryDirectory() as root, served(Path(root)) as hub:
        make_states(made.at(Path(root)), hub)
        found = (hub_commands() if hub else []) + [each() for each in commands.COMMANDS]
        tested = Prepared([each for each in found if each.name.startswith(given.only)], Path(root))
        trials = tested.trials()
        if given.sample is not None:
            trials = iter(sampled(list(trials), given.sample, random.Random(given.seed)))
        told = try_all(in_part(trials, given.part), given.progress, say)
    told["lost"] += tested.failed
    points = {each.command.name: len(each.points) for each in tested.ready}
    return told | {"points": points, "possible": sum(len(each.trials()) for each in tested.ready)}


class Prepared:
    """Commands, each of which is prepared when it is its turn.

    Attributes:
        ready: those that were. failed: those that cannot be, with the reason.
    """

    def __init__(self, found: list[Command], place: Path):
        self.found, self.place = found, place
        self.ready: list[Tested] = []
        self.failed: list[dict[str, str]] = []

    def trials(self) -> Iterator[Trial]:
        """Yield the trials of all."""
        for command in self.found:
            try:
                self.ready.append(Tested(command, self.place))
            except RuntimeError as error:
                self.failed.append({"command": command.name, "lost": str(error)})
                continue
            for number, fault in self.ready[-1].trials():
                yield self.ready[-1], number, fault


def make_states(place: Path, hub: bool) -> None:
    """Make what the trials begin with, in processes of their own."""
    for make in (lambda: made.make_states(place), commands.make_results):
        status, told = forked(make)
        if status:
            raise RuntimeError(f"the states cannot be made: {told}")
    made.EXPECTED.update(json.loads((place / "expected.json").read_text()))
    if hub:
        import hub_mim

        forked(lambda: hub_mim.push(place / "next", "me/next") and None)


def in_part(trials: Iterable[Trial], part: str) -> Iterator[Trial]:
    """Yield one part of the trials, "1/2" for the first of two."""
    number, _, parts = part.partition("/")
    return (each for each in trials if (each[1] - 1) // BLOCK % int(parts) == int(number) - 1)


def try_all(trials: Iterable[Trial], progress: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Run trials, those of which `progress` tells already excepted; every outcome is added to it at once."""
    outcomes = _outcomes(progress)
    tried: Counter[str] = Counter()
    lost, unseen = [], 0
    started = time.monotonic()
    for tested, number, fault in trials:
        facts = {"command": tested.command.name, "number": number, "fault": fault, "what": tested.what(number, fault)}
        key = json.dumps(facts | {"of": _mark(tested)})
        if key not in outcomes:
            outcomes[key] = tested.lost(number, fault)
            if progress is not None:
                with progress.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(facts | {"of": _mark(tested), "lost": outcomes[key]}) + "\n")
        tried[tested.command.name] += 1
        unseen += outcomes[key] == UNSEEN
        if outcomes[key] not in (None, UNSEEN):
            lost.append(facts | {"lost": outcomes[key]})
            say(json.dumps(lost[-1]))
        if sum(tried.values()) % 50 == 0:
            passed = f"{time.monotonic() - started:.0f} s, {sum(os.times()[:4]):.0f} CPU s"
            say(f"{sum(tried.values())} faults ({tested.command.name}), {len(lost)} lost, {passed}")
    return {"tried": dict(tried), "lost": lost, "unseen": unseen}


def _outcomes(progress: Path | None) -> dict[str, str | None]:
    """Return what an earlier call tried, and what came of it."""
    found = {}
    for line in progress.read_text(encoding="utf-8").splitlines() if progress and progress.exists() else ():
        facts = json.loads(line)
        lost = facts.pop("lost")
        found[json.dumps(facts)] = lost
    return found


def _mark(tested: Tested) -> str:
    """Return what tells the points of a command from those of another version of it."""
    told = json.dumps([tested.points, [path for _, path in tested.spoilable]])
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def sampled(trials: list[Trial], count: int, source: random.Random) -> list[Trial]:
    """Return so many trials, the commands in turn, at random within each."""
    groups: dict[str, list[Trial]] = {}
    for each in trials:
        groups.setdefault(each[0].command.name, []).append(each)
    for group in groups.values():
        source.shuffle(group)
    longest = max(map(len, groups.values()))
    turns = [group[number] for number in range(longest) for group in groups.values() if number < len(group)]
    return turns[:count]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many faults instead of all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", help="commands whose name begins so")
    parser.add_argument("--part", default="1/1", help="1/2: the first of two parts, for two processes")
    parser.add_argument(
        "--progress", type=Path, help="file of lines for outcomes; those that it has are not tried again"
    )
    parser.add_argument("--out", type=Path, help="file for the counts")
    given = parser.parse_args()
    told = run_all(given, lambda text: print(text, file=sys.stderr, flush=True))
    if given.out:
        given.out.write_text(json.dumps(told, indent=1) + "\n")
    count, points = sum(told["tried"].values()), sum(told["points"].values())
    print(
        f"{count} faults at {points} write points, {len(told['lost'])} lost; {told['unseen']} turned bits have no hash"
    )
    sys.exit(bool(told["lost"]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
