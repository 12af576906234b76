"""Ask for known vulnerabilities of the pinned versions, and say plainly what could not be asked.

    python scripts/audit.py pip-audit constraints.txt

pip-audit asks the vulnerability service of the package index (or OSV's, by `--service osv`). Behind a mirror that has no such
service it reports packages as skipped and ends well; here that is a failure: what was not audited is not without faults.
Ends with 0 (all audited, none is vulnerable), 1 (vulnerable) or 2 (not all could be audited).
"""

import argparse
import json
import subprocess
import sys
from typing import Any


def asked(tool: str, constraints: str, service: str) -> list[dict[str, Any]]:
    """Return pip-audit's answer for each pinned package; raises ConnectionError where there is none."""
    command = [tool, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "30"]
    told = subprocess.run([*command, "-s", service, "-r", constraints], capture_output=True, text=True)
    try:
        return json.loads(told.stdout)["dependencies"]
    except ValueError:
        last = (told.stderr.strip().splitlines() or [f"exit code {told.returncode}"])[-1]
        raise ConnectionError(last) from None


def report(answers: list[dict[str, Any]]) -> tuple[int, str]:
    """Return the exit status and the sentences for pip-audit's answers."""
    skipped = [each["name"] for each in answers if "skip_reason" in each]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for each in answers
        for found in each.get("vulns", ())
    ]
    status = 1 if lines else 2 if skipped or not answers else 0
    audited = len(answers) - len(skipped)
    lines.append(f"{audited} of {len(answers)} packages audited, {len(lines)} known vulnerabilities")
    if not audited:
        lines.append(
            "nothing was audited: the vulnerability service knows none of them, so it is not behind this package index"
        )
    elif skipped:
        lines.append(f"not audited: {', '.join(skipped)}")
    return status, "\n".join(lines)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", help="the command of pip-audit")
    parser.add_argument("constraints", help="file of pinned versions")
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi")
    given = parser.parse_args()
    try:
        status, text = report(asked(given.tool, given.constraints, given.service))
    except ConnectionError as error:
        status, text = 2, f"nothing was audited: the vulnerability service does not answer ({error})"
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
