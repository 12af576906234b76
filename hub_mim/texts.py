"""Texts of rows, and a tokenizer that is learnt from them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXTS = ("text", "caption", "sentence", "question")  # columns that hold a row's text, the first that is there
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def text_of(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return a row's text and the second one, if any; of a list of captions the first."""
    found = next((row[name] for name in TEXTS if row.get(name) is not None), None)
    if found is None and row.get("captions"):
        found = row["captions"][0]
    return (None if found is None else str(found)), row.get("text_pair")


@takes(size=">=1")
def word_pieces(texts: Sequence[str], size: int = 8192, lower: bool = True) -> "PreTrainedTokenizerFast":
    """Return a tokenizer with word pieces learnt from texts, the same in every process; without texts one that knows the
    special tokens alone.

    Source: Devlin et al. 2019 (arXiv:1810.04805), with `tokenizers`' trainer.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL.values())
    made: Any = Tokenizer(models.WordPiece({token: number for number, token in enumerate(special)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    if texts:
        made.model = models.WordPiece(_pieces(made, texts, size), unk_token="[UNK]")
    marks = [("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def _pieces(tokenizer: Any, texts: Sequence[str], size: int) -> dict[str, int]:
    """Learn word pieces; `tokenizers` numbers letters in the order of a hash table, another one in every process.

    Processes that train together, and a run that is resumed, would read other numbers. So every letter has its number before
    learning begins.
    """
    from tokenizers import Tokenizer, models, trainers

    words = [
        tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        for text in dict.fromkeys(texts)
    ]
    letters = sorted({letter for text in words for word, _ in text for letter in word})
    known = [*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters)]
    pupil: Any = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    pupil.normalizer, pupil.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trainer = trainers.WordPieceTrainer(vocab_size=max(size, len(known)), special_tokens=known, show_progress=False)
    pupil.train_from_iterator(texts, trainer)
    vocabulary: dict[str, int] = pupil.get_vocab()
    return vocabulary
