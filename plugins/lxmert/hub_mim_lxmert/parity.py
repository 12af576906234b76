"""Compute the authors' numbers from a fixture: same weights, masks and labels, our code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import conversion as engine
from hub_mim.testing.parity import read_fixture, under
from hub_mim_lxmert import modeling_lxmert_mim_heads as heads
from hub_mim_lxmert.conversion_lxmert import config_from, conversion, rules
from hub_mim_lxmert.modeling_lxmert_mim import LxmertMimForPreTraining

NOT_COMPARED: dict[str, str] = {}


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    model = build(facts["config"], given)
    values = _encoded(model, given) | _losses(model, given) | _heads(facts["config"], given)
    return {name: values[name].detach() for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> LxmertMimForPreTraining:
    """Return our model with the authors' weights, and their visual losses."""
    weights = under("weights/", given)
    model = LxmertMimForPreTraining(config_from(weights, **_fields(config)))
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_attention_heads": config["num_attention_heads"],
        "mask_token_id": 4,
        "num_special_tokens": 5,
        "visual_losses": "confidence",
    }


def _inputs(given: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids", "visual_feats", "visual_pos")
    return {name: given[f"inputs/{name}"] for name in names}


def _encoded(model: LxmertMimForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        out = model.lxmert(**_inputs(given))
        seen = model.lxmert(**_inputs(given), visual_attention_mask=given["inputs/visual_attention_mask"])
    config = model.config
    found = {
        "outputs/lang_embedding": out.hidden_states[0],
        "outputs/visn_embedding": out.region_hidden_states[0],
        "outputs/pooled": out.pooler_output,
        "outputs/vm_language": seen.text_hidden,
        "outputs/vm_vision": seen.region_hidden,
        "outputs/vm_pooled": seen.pooler_output,
    }
    for number in range(config.l_layers):
        found[f"outputs/lang_l{number + 1}"] = out.hidden_states[1 + number]
    for number in range(config.r_layers):
        found[f"outputs/visn_r{number + 1}"] = out.region_hidden_states[1 + number]
    for number in range(config.x_layers):
        found[f"outputs/lang_x{number + 1}"] = out.hidden_states[1 + config.l_layers + number]
        found[f"outputs/visn_x{number + 1}"] = out.region_hidden_states[1 + config.r_layers + number]
    return found


def _losses(model: LxmertMimForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    answers = given["masks/ans"]
    out = model(
        **_inputs(given),
        mask={"text": given["masks/lm_labels"] >= 0, "regions": given["masks/feat_mask"].bool()},
        masked_input_ids=given["masks/mlm_input_ids"],
        masked_visual_feats=given["masks/masked_visual_feats"],
        object_labels=given["masks/obj_labels"],
        object_confidence=given["masks/obj_confs"],
        attribute_labels=given["masks/attr_labels"],
        attribute_confidence=given["masks/attr_confs"],
        matched_label=given["masks/matched_label"],
        answer=answers.masked_fill(answers < 0, -100),
    )
    out.loss.backward()
    with torch.no_grad():
        words = model.cls.predictions(out.last_hidden_state[:, : given["inputs/input_ids"].shape[1]])
    found = {
        "outputs/mlm_logits": words,
        "outputs/matched_logits": out.matched_logits,
        "outputs/qa_logits": out.answer_logits,
        "outputs/obj_scores": out.object_logits,
        "outputs/attr_scores": out.attribute_logits,
        "outputs/feat_scores": out.predictions["regions"],
        "outputs/summed_loss": out.loss,
    }
    theirs = {
        "words": "mlm",
        "matched": "matched",
        "objects": "obj",
        "attributes": "attr",
        "features": "feat",
        "answers": "qa",
    }
    found |= {f"outputs/{theirs[name]}_loss": value for name, value in out.losses.items()}
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    return found | {f"grads/{name}": grad for name, grad in engine.rename_back(gradients, rules(model.config)).items()}


def _heads(config: dict[str, Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    vqa = _with_head(heads.LxmertMimForQuestionAnswering, "vqa", config, given, num_qa_labels=7)
    pairs = _with_head(heads.LxmertMimForNlvr2, "nlvr2", config, given)
    with torch.no_grad():
        told = vqa(**_inputs(given), labels=given["masks/vqa_targets"])
        # an odd number of rows: the last one has no partner
        judged = pairs(**{name: value[:2] for name, value in _inputs(given).items()})
    return {
        "outputs/vqa_logits": told.logits,
        "outputs/vqa_loss": told.loss,
        "outputs/nlvr2_logits": judged.logits,
    }


def _with_head(kind: Any, head: str, config: dict[str, Any], given: dict[str, Tensor], **fields: Any) -> Any:
    weights = under("weights/", given)
    model = kind(config_from(weights, **_fields(config) | fields)).eval()
    encoder = {
        name.replace("bert.", "lxmert.", 1): value for name, value in weights.items() if name.startswith("bert.")
    }
    own = {
        name.replace("logit_fc", f"{model.head_name}.logit_fc", 1): v
        for name, v in under(f"weights_{head}/", given).items()
    }
    model.load_state_dict(encoder | own)
    return model
