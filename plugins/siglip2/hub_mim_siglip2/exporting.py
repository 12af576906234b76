"""Towers as plain checkpoints, which transformers loads without this plugin."""

from pathlib import Path
from typing import Any

from hub_mim.files import new_folder


def export(towers: Any, folder: str | Path, processor: Any = None) -> Path:
    """Write towers, and a processor, as transformers' own classes; see `Siglip2MimPreTrainedModel.export_towers`."""
    if towers.config.naflex:
        from transformers import Siglip2Config as Config
        from transformers import Siglip2Model as Model
        from transformers import Siglip2Processor as Processor
    else:
        from transformers import SiglipConfig as Config  # type: ignore[assignment]
        from transformers import SiglipModel as Model  # type: ignore[assignment]
        from transformers import SiglipProcessor as Processor  # type: ignore[assignment]
    config = towers.config
    parts = {name: getattr(config, name).to_dict() for name in ("text_config", "vision_config")}
    plain: Any = Model(Config(**parts))
    plain = plain.to(dtype=towers.dtype)
    plain.load_state_dict(towers.state_dict())
    with new_folder(Path(folder)) as partial:
        plain.save_pretrained(partial)
        if processor is not None:
            Processor(processor.image_processor, processor.tokenizer).save_pretrained(partial)
    return Path(folder)
