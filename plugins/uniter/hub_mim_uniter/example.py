"""The example of the checks: generated pairs of `hub_mim_regions.example`."""

from hub_mim.method import Example
from hub_mim_regions.example import OVERRIDES, corrupt, odd_rows, sample
from hub_mim_uniter.configuration_uniter import UniterConfig
from hub_mim_uniter.processing_uniter import UniterProcessor


def example() -> Example:
    """Return the example of the plugin's checks."""
    rows = [
        {name: value for name, value in row.items() if name not in ("answer", "label")} | {"matched_label": number % 2}
        for number, row in enumerate(sample(6))
    ]
    processor = UniterProcessor(box_unit="share", lower=False).fit(sample(40))
    told = processor.config_arguments()
    config = UniterConfig(
        **told | {"num_answers": 5},
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.06,
        max_position_embeddings=60,
        type_vocab_size=3,
        layer_norm_eps=1e-6,
        initializer_range=0.03,
        tasks={"mlm": 1.0, "mrfr": 1.0, "mrc": 1.0, "mrckl": 1.0, "itm": 1.0},
        task_draw="row",
        masking="joint",
        mask_ratio=0.4,
        negative_ratio=0.4,
        kl_reduction="sum",
        ot_beta=0.6,
        ot_steps=20,
        loss_weights={"ot": 0.2},
        nlvr2_variant="paired",
        region_mlp=False,
        classifier_act="relu",
    )
    fixed = ("pad_token_id", "chunk_size_feed_forward", "is_decoder", "add_cross_attention", "tie_word_embeddings")
    return Example(
        config=config,
        rows=rows,
        processor=processor,
        corrupt=corrupt,
        fixed=(*fixed, "visual_pos_dim"),
        odd_rows=odd_rows(),
        processor_overrides=OVERRIDES,
        suite_overrides={
            "test_model_main_input_name": "the regions are what pictures and checks look at; the words come first in forward",
            "test_batching_equivalence": "the suite cuts tensors to one row, not a dict of masks; see check_row_alone",
        },
    )
