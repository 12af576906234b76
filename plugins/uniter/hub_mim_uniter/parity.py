"""Compute the authors' numbers from a fixture: same weights, masks and targets, our code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hub_mim import conversion as engine
from hub_mim.testing.parity import read_fixture, under
from hub_mim_uniter import modeling_uniter_heads as heads
from hub_mim_uniter.conversion_uniter import config_from, conversion, prepare
from hub_mim_uniter.modeling_uniter import UniterForPreTraining

NOT_COMPARED: dict[str, str] = {}
ALL = {"mlm": 1.0, "mrfr": 1.0, "mrc": 1.0, "mrckl": 1.0, "itm": 1.0}


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads*/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    model = build(facts["config"], given)
    values = _encoded(model, given) | _losses(model, given) | _heads(facts["config"], given)
    return {name: values[name].detach() for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> UniterForPreTraining:
    """Return our model with the authors' weights."""
    weights = prepare(under("weights/", given))
    model = UniterForPreTraining(config_from(weights, **_fields(config), tasks=ALL))
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_attention_heads": config["num_attention_heads"],
        "layer_norm_eps": config["layer_norm_eps"],
        "mask_token_id": 4,
        "num_special_tokens": 5,
    }


def _inputs(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": given["inputs/input_ids"],
        "visual_feats": given["inputs/img_feat"],
        "visual_pos": given["inputs/img_pos_feat"],
        "attention_mask": ~given["masks/ot_txt_pad"],
        "visual_attention_mask": ~given["masks/ot_img_pad"],
    }


def _packed(x: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Return tokens (B, T + N, H) in the authors' order."""
    return x.gather(1, given["inputs/gather_index"][..., None].expand(-1, -1, x.shape[-1]))


def _encoded(model: UniterForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    batch = _inputs(given)
    with torch.no_grad():
        out = model.uniter(**batch, output_hidden_states=True)
        text = model.uniter(input_ids=batch["input_ids"], attention_mask=batch["input_ids"] != 0)
        image = model.uniter(**{name: value for name, value in batch.items() if name.startswith("visual")})
    text_mask, image_mask = batch["attention_mask"][..., None], batch["visual_attention_mask"][..., None]
    found = {
        "outputs/pooled": out.pooler_output,
        "outputs/text_hidden": out.text_hidden * text_mask,
        "outputs/img_hidden": out.region_hidden * image_mask,
        "outputs/text_only_hidden": text.last_hidden_state,
        "outputs/image_only_hidden": image.last_hidden_state,
        "outputs/embedding": _packed(out.hidden_states[0], given),
    }
    for number, hidden in enumerate(out.hidden_states[1:], start=1):
        found[f"outputs/hidden_{number}"] = _packed(hidden, given)
    return found


def _losses(model: UniterForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    batch, nothing = _inputs(given), torch.zeros_like(given["masks/img_masks"])
    words = given["masks/txt_labels"] >= 0
    no_words = torch.zeros_like(words)
    soft = given["inputs/img_soft_labels"]
    told = model(
        **batch,
        mask={"text": words, "regions": nothing},
        masked_input_ids=given["masks/mlm_input_ids"],
        soft_labels=soft,
    )
    seen = model(**batch, mask={"text": no_words, "regions": given["masks/img_masks"]}, soft_labels=soft)
    pair = model(
        **batch, mask={"text": no_words, "regions": nothing}, soft_labels=soft, matched_label=given["masks/itm_targets"]
    )
    target = given["masks/label_targets"]
    apart = F.kl_div(seen.class_logits.log_softmax(-1), target, reduction="none").sum(-1)
    matched = pair.losses["itm"] + 0.1 * pair.losses["ot"]
    total = told.losses["mlm"] + sum(seen.losses[name] for name in ("mrfr", "mrc", "mrckl")) + matched
    (alone,) = torch.autograd.grad(
        pair.losses["ot"], model.uniter.encoder.layer[1].attention.self.query.weight, retain_graph=True
    )
    model.zero_grad()
    total.backward()
    found = {
        "outputs/mlm_logits": told.word_logits,
        "outputs/mlm_loss_per_token": F.cross_entropy(told.word_logits, batch["input_ids"][words], reduction="none"),
        "outputs/mlm_loss": told.losses["mlm"],
        "outputs/mrfr_pred": seen.predictions["regions"][given["masks/img_masks"]],
        "outputs/mrc_logits": seen.class_logits,
        "outputs/mrckl_sum_over_classes": apart,
        "outputs/itm_logits": pair.matched_logits,
        "outputs/itm_loss": pair.losses["itm"],
        "outputs/ot_plan": pair.plan,
        "outputs/ot_distance": pair.distance,
        "outputs/ot_distance_f64": pair.distance.double(),
        "outputs/ot_loss": pair.losses["ot"],
        "outputs/itm_total": matched,
        "outputs/summed_loss": total,
        "grads_ot/uniter.encoder.layer.1.attention.self.query.weight": alone,
    }
    found |= {f"outputs/{name}_loss": seen.losses[name] for name in ("mrfr", "mrc", "mrckl")}
    from hub_mim_uniter.transport import cosine_cost

    with torch.no_grad():
        out = model.uniter(**batch)
    found["outputs/ot_cost"] = cosine_cost(
        out.text_hidden, out.region_hidden, batch["attention_mask"], batch["visual_attention_mask"]
    )
    return found | {f"grads/{name}": weight.grad for name, weight in model.named_parameters()}


def _with_head(kind: Any, head: str, config: dict[str, Any], given: dict[str, Tensor], **fields: Any) -> Any:
    weights = prepare(under("weights/", given))
    own = under(f"weights_{head}/", given)
    encoder = {name: value for name, value in weights.items() if name.startswith("uniter.")}
    kinds = given["weights_nlvr2/uniter.embeddings.token_type_embeddings.weight"]
    if head.startswith("nlvr2"):
        encoder["uniter.embeddings.token_type_embeddings.weight"] = kinds
    model = kind(config_from(encoder, **_fields(config), **fields))
    model.load_state_dict(encoder | own)
    return model.eval()


def _heads(config: dict[str, Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    batch = _inputs(given)

    def run(kind: Any, head: str, extra: dict[str, Any], **fields: Any) -> Any:
        with torch.no_grad():
            return _with_head(kind, head, config, given, **fields)(**batch, **extra)

    vqa = run(
        heads.UniterForQuestionAnswering,
        "vqa",
        {"labels": given["masks/vqa_targets"]},
        num_answers=config["num_answer"],
    )
    entailment = run(heads.UniterForVisualEntailment, "ve", {})
    choice = run(heads.UniterForMultipleChoice, "vcr", {"labels": given["masks/vcr_targets"]})
    rank = run(heads.UniterForImageTextRetrieval, "itm", {"group_size": 2})
    referred = run(heads.UniterForReferringExpression, "re", {"labels": given["masks/re_targets"]})
    kinds = {"visual_token_type_ids": given["inputs/nlvr2_img_type_ids"]}
    found = {
        "outputs/vqa_logits": vqa.logits,
        "outputs/vqa_loss": vqa.loss,
        "outputs/ve_logits": entailment.logits,
        "outputs/vcr_scores": choice.logits,
        "outputs/vcr_loss": choice.loss,
        "outputs/rank_scores": rank.logits,
        "outputs/rank_loss": rank.loss,
        "outputs/re_scores": referred.logits,
        "outputs/re_loss": referred.loss,
    }
    for variant in ("paired", "triplet", "paired-attention"):
        short = variant.replace("paired-attention", "pairedattn")
        labels = {"labels": given["masks/nlvr2_targets"]} if short == "pairedattn" else {}
        out = run(heads.UniterForNlvr2, f"nlvr2_{short}", kinds | labels, nlvr2_variant=variant)
        found[f"outputs/nlvr2_{short}_logits"] = out.logits
        if labels:
            found["outputs/nlvr2_pairedattn_loss"] = out.loss
    return found
