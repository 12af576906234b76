"""What transformers' LXMERT lacks: losses apart, NaN guards, attention of every kind, resizing, vectors as input, heads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LxmertForPreTraining

from hub_mim.conversion import convert
from hub_mim_lxmert import modeling_lxmert_mim_heads as heads
from hub_mim_lxmert.configuration_lxmert_mim import LOSSES, LxmertMimConfig
from hub_mim_lxmert.modeling_lxmert_mim import LxmertMimForPreTraining, LxmertMimModel
from hub_mim_lxmert.processing_lxmert_mim import LxmertMimProcessor
from hub_mim_regions.example import sample

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "l_layers": 2,
    "r_layers": 1,
    "x_layers": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def processor():
    return LxmertMimProcessor(box_unit="share", classes=list("abcd"), attributes=list("efgh")).fit(sample(60))


@pytest.fixture(scope="module")
def batch(processor):
    return dict(processor(rows=sample(8)))


def config(processor, **fields):
    return LxmertMimConfig(**processor.config_arguments() | SMALL | fields)


def seeds(count=8):
    return torch.arange(count)


def test_six_losses_apart(processor, batch):
    model = LxmertMimForPreTraining(config(processor)).eval()
    out = model(**batch, row_seed=seeds())
    assert tuple(out.losses) == LOSSES
    assert torch.allclose(out.loss, sum(out.losses.values()))
    less = LxmertMimForPreTraining(config(processor, task_qa=False, visual_attr_loss=False))(**batch, row_seed=seeds())
    assert set(less.losses) == set(LOSSES) - {"answers", "attributes"}


def test_nothing_to_predict_is_no_nan(processor, batch):
    model = LxmertMimForPreTraining(config(processor)).train()
    nothing = {
        "text": torch.zeros_like(batch["input_ids"]).bool(),
        "regions": torch.zeros_like(batch["visual_attention_mask"]),
    }
    unknown = torch.full((8,), -100)
    labels = torch.full_like(batch["object_labels"], -100)
    told = batch | {"answer": unknown, "object_labels": labels, "attribute_labels": labels}
    out = model(**told, mask=nothing)
    assert out.loss.isfinite()
    out.loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    assert model(
        **{name: value for name, value in batch.items() if "labels" not in name}, row_seed=seeds()
    ).loss.isfinite()


def test_masked_regions_alone_or_all_by_confidence(processor, batch):
    mask = {
        "text": torch.zeros_like(batch["input_ids"]).bool(),
        "regions": torch.zeros_like(batch["visual_attention_mask"]),
    }
    mask["regions"][:, 0] = True
    for kind, same in (("masked", True), ("confidence", False)):
        torch.manual_seed(0)
        model = LxmertMimForPreTraining(config(processor, visual_losses=kind)).eval()
        other = batch["object_labels"].clone()
        other[:, 1:] = torch.where(other[:, 1:] >= 0, (other[:, 1:] + 1) % 4, other[:, 1:])
        one, two = (
            model(**batch | {"object_labels": each}, mask=mask).losses["objects"]
            for each in (batch["object_labels"], other)
        )
        assert torch.equal(one, two) == same


def test_sentences_of_other_rows_have_no_answer(processor):
    rows = sample(64)
    model = LxmertMimForPreTraining(config(processor)).eval()
    out = model(**dict(processor(rows=rows)), row_seed=seeds(64))
    assert 0.3 < (out.matched_label == 0).float().mean() < 0.7


def test_every_attention_is_returned_and_sums_to_one(processor, batch):
    model = LxmertMimModel(config(processor)).eval()
    given = {name: value for name, value in batch.items() if name in processor.model_input_names and name != "answer"}
    out = model(**given, output_attentions=True)
    length, regions = batch["input_ids"].shape[1], batch["visual_feats"].shape[1]
    shapes = {
        "attentions": (4, length, length),
        "region_attentions": (3, regions, regions),
        "cross_attentions": (2, length, regions),
        "region_cross_attentions": (2, regions, length),
    }
    for name, (count, rows, columns) in shapes.items():
        weights = out[name]
        assert len(weights) == count
        assert weights[0].shape == (8, 2, rows, columns)
        assert torch.allclose(weights[0].sum(-1), torch.ones(8, 2, rows), atol=1e-5)
    assert not out.cross_attentions[0][
        ~batch["visual_attention_mask"][:, None, None].expand_as(out.cross_attentions[0])
    ].any()


def test_vectors_stand_for_words(processor, batch):
    model = LxmertMimForPreTraining(config(processor)).eval()
    given = {name: value for name, value in batch.items() if name in processor.model_input_names and name != "answer"}
    with torch.no_grad():
        usual = model.lxmert(**given).pooler_output
        vectors = model.lxmert.embeddings.word_embeddings(given.pop("input_ids"))
        assert torch.allclose(model.lxmert(inputs_embeds=vectors, **given).pooler_output, usual, atol=1e-6)


def test_words_can_be_added(processor, batch):
    model = LxmertMimForPreTraining(config(processor))
    model.resize_token_embeddings(len(processor.tokenizer) + 3, pad_to_multiple_of=16)
    out = model(**batch, row_seed=seeds())
    assert out.loss.isfinite()
    assert out.word_logits.shape[1] % 16 == 0


def test_transformers_own_checkpoints_load(processor, tmp_path):
    """Released `lxmert-*` checkpoints are transformers'; their weights are ours by name."""
    from transformers import LxmertConfig

    told = config(processor)
    own = LxmertConfig(**{name: getattr(told, name) for name in ("vocab_size", "visual_feat_dim", *SMALL)})
    torch.manual_seed(0)
    theirs = LxmertForPreTraining(own).eval()
    theirs.save_pretrained(tmp_path)
    ours, info = LxmertMimForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids, feats, boxes = torch.randint(5, 50, (2, 7)), torch.rand(2, 4, told.visual_feat_dim), torch.rand(2, 4, 4)
    kinds = torch.zeros_like(ids)
    with torch.no_grad():
        one = theirs(input_ids=ids, visual_feats=feats, visual_pos=boxes, token_type_ids=kinds)
        two = ours.eval()(
            ids, feats, boxes, mask={"text": torch.ones_like(ids).bool() & False, "regions": torch.zeros(2, 4).bool()}
        )
    assert torch.allclose(one.cross_relationship_score, two.matched_logits, atol=1e-5)
    assert torch.allclose(one.question_answering_score, two.answer_logits, atol=1e-5)


def test_files_of_the_authors_are_read(tmp_path):
    whole = load_file(Path(__file__).parent / "golden" / "lxmert_a.safetensors")
    weights = {
        f"module.{name.removeprefix('weights/')}": value for name, value in whole.items() if name.startswith("weights/")
    }
    save_file(weights, tmp_path / "model_LXRT.safetensors")
    assert convert(
        "lxmert", tmp_path / "model_LXRT.safetensors", tmp_path / "out", config={"num_attention_heads": 4}
    ).complete


def learn(model, given, steps=80):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("kind", "fields", "labels"),
    [
        (heads.LxmertMimForQuestionAnswering, {}, torch.nn.functional.one_hot(torch.arange(8) % 4, 4) * 0.9),
        (heads.LxmertMimForQuestionAnswering, {"answer_loss": "ce"}, torch.arange(8) % 4),
        (heads.LxmertMimForNlvr2, {}, torch.arange(4) % 2),
    ],
)
def test_heads_learn_a_batch_by_heart(processor, batch, kind, fields, labels):
    torch.manual_seed(0)
    model = kind(config(processor, initializer_range=0.1, **fields))  # smaller ones stay on a plateau at this rate
    losses = learn(model, batch | {"labels": labels}, steps=120)
    floor = 1.4 if labels.is_floating_point() else 0.0  # soft labels of 0.9 leave some
    assert losses[-1] - floor < 0.3 * losses[0]


def test_answers_are_carried_over_by_name(processor):
    torch.manual_seed(0)
    old = LxmertMimForPreTraining(config(processor))
    new = heads.LxmertMimForQuestionAnswering(config(processor, num_qa_labels=3))
    theirs, ours = list(processor.answers), [processor.answers[2], "violet", processor.answers[0]]
    assert new.load_answers(old.state_dict(), theirs, ours) == 2
    last, source = new.answer_head.logit_fc[3], old.answer_head.logit_fc[3]
    assert torch.equal(last.weight[0], source.weight[2])
    assert torch.equal(last.weight[2], source.weight[0])
    with pytest.raises(ValueError, match="3 and 3 names for 4 and 3 answers"):
        new.load_answers(old.state_dict(), theirs[:3], ours)


def test_wrong_widths_are_told(processor, batch):
    model = LxmertMimModel(config(processor))
    with pytest.raises(ValueError, match="visual_feats has the shape"):
        model(input_ids=batch["input_ids"], visual_feats=torch.zeros(8, 3, 5), visual_pos=torch.zeros(8, 3, 4))
    with pytest.raises(ValueError, match="needs words"):
        model(visual_feats=batch["visual_feats"], visual_pos=batch["visual_pos"])


def test_where_words_look_is_drawn(processor, tmp_path):
    from hub_mim_lxmert.drawing import draw

    model = LxmertMimForPreTraining(config(processor)).eval()
    path = draw(model, processor, sample(2), tmp_path / "looks.png", start=0, seed=0, overwrite=False)
    assert path.stat().st_size > 10_000
