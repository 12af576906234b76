"""Compute a fixture's numbers: outputs and gradients of the toy from the made-up authors' weights."""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from hub_mim import conversion as engine
from hub_mim_toy.conversion_toy import config_from, conversion, rules
from hub_mim_toy.modeling_toy import ToyMimForPreTraining

NOT_COMPARED: dict[str, str] = {}


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads/`."""
    path = Path(path)
    given = load_file(path)
    fields = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["config"]
    weights = {name.removeprefix("weights/"): value for name, value in given.items() if name.startswith("weights/")}
    model = ToyMimForPreTraining(config_from(weights, **fields)).eval()
    engine.apply(conversion, weights, model)
    out = model(given["inputs/values"], mask=given["masks/mask"].bool())
    out.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    values = {"outputs/predictions": out.predictions.detach(), "outputs/loss": out.loss.detach().reshape(1)}
    return values | {f"grads/{n}": v for n, v in engine.rename_back(gradients, rules(model.config)).items()}
