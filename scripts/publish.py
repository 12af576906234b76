"""Push every folder of model_cards/ to a Hub, each to its own repository.

    python scripts/publish.py NAMESPACE --dry-run
    python scripts/publish.py NAMESPACE --endpoint http://localhost:8800

The token is the one of `hf auth login`, or HF_TOKEN. Each folder is checked first; nothing is pushed unless all pass.
"""

import argparse
import json
import sys
from pathlib import Path

from hub_mim.staging import check_pushable, pushed_files

FOLDERS = Path(__file__).resolve().parent.parent / "model_cards"
MAX_BYTES = 4 * 2**20  # DESIGN: a checkpoint in the repository is small
NEEDED = ("README.md", "config.json", "model.safetensors", "run.json")


def faults(folder: Path) -> list[str]:
    """Return what keeps a folder from being pushed."""
    found = [f"it has no {name}" for name in NEEDED if not (folder / name).is_file()]
    if found:
        return found
    try:
        check_pushable(folder)
    except ValueError as error:
        found.append(str(error))
    for path in pushed_files(folder):
        if path.suffix == ".py":
            found.append(f"{path.relative_to(folder)} could execute code; only safetensors are published")
        if path.suffix == ".safetensors" and path.stat().st_size > MAX_BYTES:
            found.append(f"{path.name} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    if json.loads((folder / "run.json").read_text(encoding="utf-8")).get("status") != "finished":
        found.append("its run.json is not of a finished run")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Push every folder of model_cards/ to a Hub.")
    parser.add_argument("namespace", help="user or organisation that owns the repositories")
    parser.add_argument("names", nargs="*", help="folders; default all")
    parser.add_argument("--folders", type=Path, default=FOLDERS, help="where the folders are")
    parser.add_argument("--endpoint", help="address of the Hub; default HF_ENDPOINT, else huggingface.co")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="check and list, push nothing")
    options = parser.parse_args(arguments)

    present = sorted(path for path in options.folders.glob("*") if (path / "config.json").is_file())
    chosen = [path for path in present if not options.names or path.name in options.names]
    unknown = sorted(set(options.names) - {path.name for path in present})
    if unknown or not chosen:
        names = ", ".join(path.name for path in present) or "no checkpoint"
        print(
            f"publish: {options.folders} has no {', '.join(unknown) or 'checkpoint'}; it has {names}", file=sys.stderr
        )
        return 2
    wrong = [f"publish: {folder.name}: {fault}" for folder in chosen for fault in faults(folder)]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1

    from huggingface_hub import get_token

    from hub_mim import push

    if get_token() is None and not options.dry_run:
        print("publish: no token; log in with `hf auth login` or set HF_TOKEN, or pass --dry-run", file=sys.stderr)
        return 1
    for folder in chosen:
        repository = f"{options.namespace}/{folder.name}"
        if options.dry_run:
            files = pushed_files(folder)
            size = sum(path.stat().st_size for path in files)
            print(f"would push {folder.name} to {repository}: {len(files)} files, {size:,} bytes")
        else:
            print(push(folder, repository, private=options.private, endpoint=options.endpoint).url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
