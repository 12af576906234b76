"""Print how much `pip install ARGUMENTS` would download, before it does; takes pip's own arguments.

Example: python scripts/download_size.py -c constraints.txt -e .
"""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def planned(arguments: list[str]) -> list[str]:
    """Return the addresses of what pip would fetch, by its dry run (which reads metadata only)."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--report", "-", *arguments]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    items = json.loads(report[report.index("{") :])["install"]
    return [item["download_info"]["url"] for item in items if "dir_info" not in item["download_info"]]


def size(address: str) -> int | None:
    """Return the bytes behind an address, None where the server does not say."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path)).stat().st_size
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, TypeError, ValueError):
        return None


def main() -> None:
    """Print one line; a size that cannot be had is said, never guessed."""
    try:
        addresses = planned(sys.argv[1:])
    except (subprocess.CalledProcessError, ValueError):
        print("pip could not tell what it will download; going on", file=sys.stderr)
        return
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(size, addresses))
    known = sum(value for value in sizes if value is not None)
    unknown = sum(value is None for value in sizes)
    text = f"to download: {known / 1e6:,.0f} MB in {len(addresses)} packages" if addresses else "nothing to download"
    print(text + (f" (the size of {unknown} is not known)" if unknown else ""), file=sys.stderr)


if __name__ == "__main__":
    main()
