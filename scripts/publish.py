"""Push every folder of model_cards/ to a Hub, each to its own repository.

    python scripts/publish.py NAMESPACE --dry-run
    python scripts/publish.py NAMESPACE --endpoint http://localhost:8000

The token is the one of `hf auth login`, or HF_TOKEN. Each folder is checked first; nothing is pushed unless all pass.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDERS = Path(__file__).resolve().parent.parent / "model_cards"
MAX_BYTES = 4 * 2**20  # DESIGN: a checkpoint in the repository is small
NEEDED = ("README.md", "config.json", "model.safetensors", "run.json")


def faults(folder: Path) -> list[str]:
    """Return what keeps a folder from being pushed."""
    found = [f"it has no {name}" for name in NEEDED if not (folder / name).is_file()]
    for path in files(folder):
        if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".py"}:
            found.append(f"{path.relative_to(folder)} could execute code; only safetensors are published")
        if path.suffix == ".safetensors" and path.stat().st_size > MAX_BYTES:
            found.append(f"{path.name} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    if not found and json.loads((folder / "run.json").read_text(encoding="utf-8")).get("status") != "finished":
        found.append("its run.json is not of a finished run")
    return found


def files(folder: Path) -> list[Path]:
    """Return the files that are pushed; hidden ones are not."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def stage(folder: Path, repository: str, where: Path) -> Path:
    """Copy a folder, its card's snippet naming the repository instead of the folder."""
    staged = where / folder.name
    for path in files(folder):
        goal = staged / path.relative_to(folder)
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, goal)
    card = (staged / "README.md").read_text(encoding="utf-8")
    for local in (f"model_cards/{folder.name}", folder.name):
        card = card.replace(f'from_pretrained("{local}")', f'from_pretrained("{repository}")')
    (staged / "README.md").write_text(card, encoding="utf-8")
    return staged


def push(api: Any, folder: Path, repository: str, private: bool) -> str:
    """Create the repository where it is not there yet, and upload the folder; returns its address."""
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as where:
        staged = stage(folder, repository, Path(where))
        return str(api.upload_folder(repo_id=repository, folder_path=staged, commit_message=f"Publish {folder.name}"))


def connect(endpoint: str | None, token: str | None) -> Any:
    """Return the client of a Hub."""
    from huggingface_hub import HfApi, constants

    if endpoint is not None and "huggingface.co" not in endpoint:
        constants.HF_HUB_DISABLE_XET = True  # other Hubs speak plain HTTP, and the client does not ask
    return HfApi(endpoint=endpoint, token=token)


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

    token = get_token()
    if token is None and not options.dry_run:
        print("publish: no token; log in with `hf auth login` or set HF_TOKEN, or pass --dry-run", file=sys.stderr)
        return 1
    for folder in chosen:
        repository = f"{options.namespace}/{folder.name}"
        if options.dry_run:
            size = sum(path.stat().st_size for path in files(folder))
            print(f"would push {folder.name} to {repository}: {len(files(folder))} files, {size:,} bytes")
        else:
            print(push(connect(options.endpoint, token), folder, repository, options.private))
    return 0


if __name__ == "__main__":
    sys.exit(main())
