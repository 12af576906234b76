"""LXMERT's processor: regions with the corners of their boxes, and what a detector says of them."""

from typing import Any

from hub_mim_regions.processing_regions import KNOWN, RegionProcessor


class LxmertMimProcessor(RegionProcessor):
    """Encode text and regions for LXMERT; see `RegionProcessor`.

    The released weights take BERT's uncased vocabulary and 20 tokens.
    """

    told = tuple(KNOWN)
    untold = ("soft_labels",)
    numbers, longest = 4, 20

    def config_arguments(self) -> dict[str, Any]:
        """Return the configuration fields that the rows decide; losses of what no row tells are switched off."""
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
        for name, of in (("num_object_labels", "visual_obj_loss"), ("num_attr_labels", "visual_attr_loss")):
            fields |= {name: told[name]} if name in told else {of: False}
        return fields | ({"num_qa_labels": told["num_answers"]} if "num_answers" in told else {"task_qa": False})
