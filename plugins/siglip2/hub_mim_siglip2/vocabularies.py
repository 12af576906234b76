"""A vocabulary learnt from texts, for texts that end as SigLIP 2's do."""

from collections.abc import Sequence
from typing import Any

from hub_mim.texts import SPECIAL, word_pieces


def learnt(texts: Sequence[str], size: int, lower: bool) -> Any:
    """Return a tokenizer; a text has no token before it and [SEP] behind it, as SigLIP 2's has its end.

    Args:
        texts: without any, the tokenizer knows the special tokens alone. size: pieces at most. lower: read as lower case.
    """
    from tokenizers import processors

    made: Any = word_pieces(texts, size, lower)
    end = made.convert_tokens_to_ids(SPECIAL["sep_token"])
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A $B [SEP]", special_tokens=[(SPECIAL["sep_token"], end)]
    )
    return made
