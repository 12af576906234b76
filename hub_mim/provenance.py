"""Where rows come from, for the record and the card: their name, and under which licence."""

from pathlib import Path
from typing import Any

CARDS = ("README.md", "CARD.md", "DATASHEET.md")


def name_of(data: Any) -> str:
    """Return what a record calls a source of rows."""
    return str(data) if isinstance(data, str | Path) else f"in memory: {type(data).__name__}"


def licence_of(data: Any) -> str | None:
    """Return the licence of a source of rows, in its own words; None where nobody says.

    Looked up in the front matter of a README beside the rows, in the card of a Hub's dataset, or in what is known of a
    sample. A Hub that does not answer is not waited for.

    Args:
        data: as for `data.load_rows`.
    """
    if not isinstance(data, str | Path):
        return None
    text, path = str(data), Path(data)
    if text.startswith("sample:"):
        from hub_mim.samples import licence_of_sample

        return licence_of_sample(text.removeprefix("sample:"))
    if path.exists():
        folder = path if path.is_dir() else path.parent
        found = [
            _licence((folder / name).read_text(encoding="utf-8", errors="replace"))
            for name in CARDS
            if (folder / name).is_file()
        ]
        return next((each for each in found if each), None)
    return _of_hub(text) if text.count("/") == 1 else None


def _licence(card: str) -> str | None:
    from huggingface_hub.repocard import RepoCard

    try:
        told = RepoCard(card, ignore_metadata_errors=True).data.to_dict().get("license")
    except ValueError:
        return None
    return _in_words(told)


def _in_words(told: Any) -> str | None:
    return ", ".join(map(str, told)) if isinstance(told, list) else str(told) if told else None


def _of_hub(name: str) -> str | None:
    from huggingface_hub import dataset_info
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        card = dataset_info(name, timeout=5).card_data
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    except Exception as error:  # the client's transport has an error class of its own
        if "httpx" not in type(error).__module__:
            raise
        return None
    return None if card is None else _in_words(card.to_dict().get("license"))
