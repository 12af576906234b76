"""Texts of rows, and word pieces learnt from them."""

import json
import subprocess
import sys

from hub_mim.texts import text_of, word_pieces

TEXTS = ["a small red cube beside a large cube", "two cones, one of them blue", "Unbelievably shiny cylinders"] * 3


def test_the_text_of_a_row():
    assert text_of({"caption": "a cat", "label": 3}) == ("a cat", None)
    assert text_of({"question": "why?", "text_pair": "because"}) == ("why?", "because")
    assert text_of({"captions": ["first", "second"]}) == ("first", None)
    assert text_of({"label": 3}) == (None, None)


def test_word_pieces_know_the_texts():
    tokenizer = word_pieces(TEXTS, 300)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")
    assert len(word_pieces([])) == 5


def test_every_process_learns_the_same_words():
    code = "import sys, json; from hub_mim.texts import word_pieces; texts = json.loads(sys.argv[1]); "
    code += "print(json.dumps(word_pieces(texts, 200).get_vocab()))"
    found = [
        json.loads(
            subprocess.run([sys.executable, "-c", code, json.dumps(TEXTS)], capture_output=True, check=True).stdout
        )
        for _ in range(3)
    ]
    assert found[0] == found[1] == found[2] == word_pieces(TEXTS, 200).get_vocab()
