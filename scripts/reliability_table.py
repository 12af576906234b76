"""Write the table of `docs/reliability.md` from the counts of a run of the reliability tests.

    make test-nightly                                                         # all of it
    HUB_MIM_RECORD=counts.jsonl python -m pytest -m "" tests/reliability      # or any part
    python tests/reliability/faults.py --progress counts.jsonl                # all faults, in as many calls as it takes
    python scripts/reliability_table.py counts.jsonl

The lines that `tests/reliability/faults.py --progress` writes are counted too. A later line of the file takes the place of
an earlier one about the same; the last table's counts that the file does not have stay, in `docs/reliability.json`.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
TITLES = {
    "faults": "Faults: killed, torn, disk full, denied, network cut, bits turned",
    "inputs": "Inputs: spoiled files and random bytes",
    "wrong values": "Wrong values for public functions and models",
    "wrong rows": "Rows with a wrong column, for every processor",
    "malicious": "Files and folders made to do harm",
    "concurrency": "Several processes at one place",
    "soak": "Rounds of pre-training, judging, pushing and pulling in one process",
    "environments": "Environments: little given, other machines, the same bytes",
}

FOLDED = {"wrong values": "functions"}  # told by their number; `docs/reliability.json` has each


def counts_of(path: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Return kind -> what -> facts, of a file of lines."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for facts in lines:
        if "kind" in facts:
            kind, what = facts.pop("kind"), facts.pop("what")
            found.setdefault(kind, {})[what] = facts
    trials = _count_trials([facts for facts in lines if "fault" in facts])
    if trials:
        found["faults"] = found.get("faults", {}) | trials
    return found


def _count_trials(lines: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return command -> counts of the outcomes of single faults; those of an earlier version of the command are left out."""
    latest = {facts["command"]: facts["of"] for facts in lines}
    outcomes = {
        (facts["command"], facts["number"], facts["fault"]): facts["lost"]
        for facts in lines
        if facts["of"] == latest[facts["command"]]
    }
    counts = {name: {"tried": 0, "lost": 0, "points": 0} for name in latest}
    for (name, number, fault), lost in outcomes.items():
        row = counts[name]
        row["tried"] += 1
        row["lost"] += lost not in (None, "unseen")
        if not fault.startswith("corrupt"):
            row["points"] = max(row["points"], number)
    return counts


def table(counts: dict[str, dict[str, dict[str, int]]]) -> str:
    """Return the table in Markdown: a line for each kind, then one for each thing that was tried."""
    lines = ["| what | tried | lost |", "|---|---:|---:|"]
    for kind, title in TITLES.items():
        rows = counts.get(kind)
        if not rows:
            lines.append(f"| **{title}** | not run | |")
            continue
        total = {name: sum(row[name] for row in rows.values()) for name in ("tried", "lost")}
        of = f" ({len(rows)} {FOLDED[kind]})" if kind in FOLDED else ""
        lines.append(f"| **{title}**{of} | **{total['tried']:,}** | **{total['lost']:,}** |")
        if kind in FOLDED and not total["lost"]:
            continue
        for what, row in sorted(rows.items()):
            points = f" ({row['points']} write points)" if "points" in row else ""
            note = f" ({row['note']})" if "note" in row else ""
            lines.append(f"| {what}{points}{note} | {row['tried']:,} | {row['lost']:,} |")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="file that HUB_MIM_RECORD named")
    given = parser.parse_args()
    kept = DOCS / "reliability.json"
    counts = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for kind, rows in counts_of(given.record).items():
        counts[kind] = counts.get(kind, {}) | rows
    kept.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = DOCS / "reliability.md"
    text = page.read_text(encoding="utf-8")
    made = f"{BEGIN}\n{table(counts)}\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda found: made, text, flags=re.DOTALL), encoding="utf-8")
    print(f"{page}: {sum(row['lost'] for rows in counts.values() for row in rows.values())} lost")


if __name__ == "__main__":
    main()
