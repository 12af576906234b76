"""Training in batches of a number of tokens, as the authors do."""

import pytest
import torch
from safetensors.torch import load_file

from hub_mim import trainer as core
from hub_mim.training import pretrain
from hub_mim_regions.example import sample

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SMALL |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def run(out, **options):
    arguments = {"save_steps": 2, "logging_steps": 1, "use_cpu": True}
    given = {"steps": 6, "tokens_per_batch": 200, "validation": 0.0, "config": SMALL, "arguments": arguments}
    return pretrain("uniter", sample(60), out, preset="nano", **given | options)


def test_a_run_in_tokens_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    assert whole.tokens_per_batch == 200

    class Killed(core.Flow):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core, "Flow", Killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    assert run(tmp_path / "broken").history == whole.history
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_from_a_checkpoint_keeps_its_words(tmp_path):
    run(tmp_path / "first", steps=2)
    other = [row | {"text": f"{row['text']} zebra"} for row in sample(12)]
    pretrain(
        "uniter", other, tmp_path / "second", steps=1, init_from=str(tmp_path / "first"), batch_size=4, validation=0.0
    )
    words = [(tmp_path / name / "tokenizer.json").read_text() for name in ("first", "second")]
    assert words[0] == words[1]


def test_rows_of_one_length_have_no_use_for_it(tmp_path):
    with pytest.raises(ValueError, match="row .* tokens, and a batch is to have 5 at most"):
        run(tmp_path / "out", tokens_per_batch=5)
