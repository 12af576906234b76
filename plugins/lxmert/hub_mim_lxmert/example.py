"""The example of the checks: generated pairs of `hub_mim_regions.example`."""

from hub_mim.method import Example
from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig
from hub_mim_lxmert.processing_lxmert_mim import LxmertMimProcessor
from hub_mim_regions.example import COLOURS, OVERRIDES, SHAPES, corrupt, odd_rows, sample

SWITCHES = tuple(f"task_{name}" for name in ("matched", "mask_lm", "obj_predict", "qa"))
SWITCHES += tuple(f"visual_{name}_loss" for name in ("obj", "attr", "feat"))


def example() -> Example:
    """Return the example of the plugin's checks."""
    rows = [row | {"matched_label": int(number != 2)} for number, row in enumerate(sample(6))]
    rows = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    rows[1]["text_pair"] = "a red cube"  # [CLS]'s kind never learns: row 0 is the padding's
    processor = LxmertMimProcessor(box_unit="share", classes=SHAPES, attributes=COLOURS).fit(sample(40))
    config = LxmertMimConfig(
        **processor.config_arguments(),
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        l_layers=2,
        r_layers=1,
        x_layers=2,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.06,
        max_position_embeddings=40,
        type_vocab_size=3,
        initializer_range=0.03,
        visual_loss_normalizer=5.0,
        mask_ratio=0.4,
        negative_ratio=0.3,
        visual_losses="confidence",
        answer_loss="ce",
        loss_weights={"answers": 0.5},
    )
    return Example(
        config=config,
        rows=rows,
        processor=processor,
        corrupt=corrupt,
        # switches have tests of their own
        fixed=("pad_token_id", "tie_word_embeddings", "visual_pos_dim", *SWITCHES),
        odd_rows=odd_rows(),
        processor_overrides=OVERRIDES,
        suite_overrides={
            "test_model_main_input_name": "the regions are what pictures and checks look at; the words come first in forward",
            "test_attention_outputs": "words and regions have encoders of their own, so lengths differ; see test_modeling.py",
            "test_hidden_states_output": "as test_attention_outputs",
            "test_batching_equivalence": "the suite cuts tensors to one row, not a dict of masks; see check_row_alone",
            "test_num_layers_is_small": "two layers of words and two of both are counted together",
        },
    )
