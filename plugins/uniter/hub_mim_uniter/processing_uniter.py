"""UNITER's processor: regions with seven numbers for each box."""

from typing import Any

from hub_mim_regions.processing_regions import RegionProcessor


class UniterProcessor(RegionProcessor):
    """Encode text and regions for UNITER; see `RegionProcessor`.

    The released weights take seven numbers a box and BERT's cased vocabulary.
    """

    told = ()
    numbers, longest = 7, 60

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the rows decide."""
        told = super().config_arguments()
        known = (
            "vocab_size",
            "visual_feat_dim",
            "visual_pos_dim",
            "mask_token_id",
            "pad_token_id",
            "num_special_tokens",
        )
        fields = {name: told[name] for name in known}
        classes = self.soft_dim or (1 + len(self.classes) if self.classes else 0)
        fields |= {"num_region_classes": classes} if classes else {"tasks": {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0}}
        return fields | ({"num_answers": told["num_answers"]} if "num_answers" in told else {})
