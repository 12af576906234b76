"""Keep tokens out of what is written and printed."""

import os
import re

TOKEN = re.compile(r"\bhf_[A-Za-z0-9_-]{30,}")
HIDDEN = "***"
_SHORT = 8  # a shorter one could be part of any text
LOGIN = re.compile(r"(?<=://)[^/@\s\"']+@")


def known_tokens() -> list[str]:
    """Return the tokens of Hubs that this process would use."""
    from huggingface_hub import get_token

    told = (os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"), get_token())
    return [each for each in dict.fromkeys(told) if each and len(each) >= _SHORT]


def hide(text: str) -> str:
    """Return a text without tokens of Hubs, and without the names and passwords in addresses."""
    for token in known_tokens():
        text = text.replace(token, HIDDEN)
    return LOGIN.sub(f"{HIDDEN}@", TOKEN.sub(HIDDEN, text))
