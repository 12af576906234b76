"""Tasks and masks, transport, heads that learn a batch by heart, files of every layout."""

import collections
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_mim.conversion import convert
from hub_mim_regions.example import sample
from hub_mim_uniter import modeling_uniter_heads as heads
from hub_mim_uniter.configuration_uniter import UniterConfig
from hub_mim_uniter.example import example
from hub_mim_uniter.modeling_uniter import UniterForPreTraining
from hub_mim_uniter.processing_uniter import UniterProcessor
from hub_mim_uniter.transport import alignment, cosine_cost, transport_plan

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture(scope="module")
def processor():
    return UniterProcessor(box_unit="share").fit(sample(60))


@pytest.fixture(scope="module")
def batch(processor):
    return dict(processor(rows=sample(8)))


def config(processor, **fields):
    return UniterConfig(**processor.config_arguments() | SMALL | fields)


def test_one_task_a_step_in_the_shares_of_the_pool(processor):
    model = UniterForPreTraining(config(processor))
    drawn = collections.Counter(model.task_of(seed) for seed in range(3000))
    for task, weight in model.config.tasks.items():
        assert abs(drawn[task] / 3000 - weight / 6) < 0.03


def test_a_step_has_the_losses_of_its_task_and_gradients_everywhere(processor, batch):
    model = UniterForPreTraining(config(processor)).train()
    seen = set()
    for seed in range(20):
        model.zero_grad()
        out = model(**batch, step_seed=seed, row_seed=torch.arange(8))
        assert set(out.losses) in ({"mlm"}, {"mrfr"}, {"mrckl"}, {"itm", "ot"})
        seen |= set(out.losses)
        out.loss.backward()
        assert all(weight.grad is not None for weight in model.parameters())
    assert len(seen) == 5


@pytest.mark.parametrize("masking", ["conditional", "joint"])
def test_words_and_regions_are_hidden_together_only_jointly(processor, batch, masking):
    model = UniterForPreTraining(config(processor, masking=masking)).eval()
    for task in ("mlm", "mrfr", "itm"):
        with torch.no_grad():
            out = model(**batch, task=task, row_seed=torch.arange(8))
        words, regions = (out.mask[name].any().item() for name in ("text", "regions"))
        if task == "itm":
            assert not words
            assert not regions
        else:
            assert words == (task == "mlm" or masking == "joint")
            assert regions == (task == "mrfr" or masking == "joint")
            assert (out.mask["text"].any(1) | (not words)).all()  # one word at least of each row


def test_special_tokens_are_never_hidden_and_random_words_are_words(processor, batch):
    model = UniterForPreTraining(config(processor, mask_ratio=0.9)).eval()
    out = model(**batch, task="mlm", row_seed=torch.arange(8))
    assert (batch["input_ids"][out.mask["text"]] >= processor.config_arguments()["num_special_tokens"]).all()


def test_half_of_the_pairs_get_another_picture(processor):
    rows = sample(64)
    model = UniterForPreTraining(config(processor)).eval()
    with torch.no_grad():
        out = model(**dict(processor(rows=rows)), task="itm", row_seed=torch.arange(64))
    assert 0.3 < (out.matched_label == 0).float().mean() < 0.7
    alone = model(**dict(processor(rows=rows[:1])), task="itm", row_seed=torch.tensor([1]))
    assert alone.matched_label.tolist() == [1]  # there is no other picture


def test_a_plan_moves_everything_and_doubles_give_the_same():
    torch.manual_seed(0)
    text, regions = torch.randn(3, 7, 16), torch.randn(3, 5, 16)
    real = torch.arange(7) < torch.tensor([7, 4, 2])[:, None], torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    cost = cosine_cost(text, regions, *real)
    plan = transport_plan(cost, *real)
    for row in range(3):
        words, places = int(real[0][row].sum()), int(real[1][row].sum())
        assert torch.allclose(plan[row].sum(0)[:words], torch.full((words,), 1 / words), atol=1e-4)
        assert torch.allclose(plan[row].sum(1)[:places], torch.full((places,), 1 / places), atol=2e-2)
        assert not plan[row][places:].any()
    double = transport_plan(cost.double(), *real)
    assert torch.allclose(plan.double(), double, atol=1e-5)


def test_only_the_cost_has_a_gradient():
    text, regions = torch.randn(1, 4, 8, requires_grad=True), torch.randn(1, 3, 8, requires_grad=True)
    real = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    distance, plan, cost = alignment(text, regions, *real)
    assert not plan.requires_grad
    assert cost.requires_grad
    assert torch.allclose(distance, (cost.transpose(1, 2) * plan).sum((1, 2)))


def learn(model, given, steps=80, rate=3e-3):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=rate)
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
        (heads.UniterForQuestionAnswering, {"num_answers": 4}, torch.arange(8) % 4),
        (heads.UniterForVisualEntailment, {}, torch.arange(8) % 3),
        (heads.UniterForMultipleChoice, {}, torch.arange(8) % 2),
        (heads.UniterForReferringExpression, {}, torch.arange(8) % 2),
        (heads.UniterForReferringExpression, {"region_mlp": False}, torch.arange(8) % 2),
        (heads.UniterForNlvr2, {"nlvr2_variant": "paired"}, torch.arange(4) % 2),
        (heads.UniterForNlvr2, {"nlvr2_variant": "paired-attention"}, torch.arange(4) % 2),
        (heads.UniterForNlvr2, {"nlvr2_variant": "triplet"}, torch.arange(8) % 2),
    ],
)
def test_heads_learn_a_batch_by_heart(processor, batch, kind, fields, labels):
    torch.manual_seed(0)
    model = kind(config(processor, initializer_range=0.1, **fields))  # smaller ones stay on a plateau at this rate
    losses = learn(model, batch | {"labels": labels}, steps=120)
    assert losses[-1] < 0.2 * losses[0]


def test_ranking_learns_and_hard_negatives_are_the_best_scored(processor, batch):
    torch.manual_seed(0)
    model = heads.UniterForImageTextRetrieval(config(processor))
    model.init_ranking()
    assert torch.equal(model.rank_output.weight, model.itm_output.weight[1:])
    losses = learn(model, batch | {"group_size": 4, "hard": 2})
    assert losses[-1] < 0.2
    with torch.no_grad():
        assert model.eval()(**batch, group_size=4).logits.shape == (8, 1)


def test_an_odd_number_of_pictures_is_told(processor, batch):
    model = heads.UniterForNlvr2(config(processor))
    with pytest.raises(ValueError, match="there are 3 rows; each sentence needs two"):
        model(**{name: value[:3] for name, value in batch.items()})
    with pytest.raises(ValueError, match="load it with type_vocab_size=3"):
        model.init_kinds()


def test_words_can_be_added(processor, batch):
    model = UniterForPreTraining(config(processor))
    old = model.cls.predictions.bias.detach().clone()
    model.resize_token_embeddings(len(processor.tokenizer) + 5, pad_to_multiple_of=8)
    out = model(**batch, task="mlm", row_seed=torch.arange(8))
    assert out.word_logits.shape[1] % 8 == 0
    assert out.loss.isfinite()
    assert torch.equal(model.cls.predictions.bias[: len(old)], old)


@pytest.mark.parametrize("old", [False, True])
def test_files_of_the_authors_are_read(tmp_path, old):
    whole = load_file(Path(__file__).parent / "golden" / "uniter_a.safetensors")
    weights = {name.removeprefix("weights/"): value for name, value in whole.items() if name.startswith("weights/")}
    if old:  # as TensorFlow's names came through
        weights = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in weights.items()
        }
    save_file(weights, tmp_path / "uniter.safetensors")
    report = convert("uniter", tmp_path / "uniter.safetensors", tmp_path / "out", config={"num_attention_heads": 4})
    assert report.complete
    encoder = {name: value for name, value in weights.items() if name.startswith("uniter.")}
    save_file(
        {name.replace("uniter.", "bert.", 1): value for name, value in encoder.items()}, tmp_path / "init.safetensors"
    )
    assert convert(
        "uniter", tmp_path / "init.safetensors", tmp_path / "init", config={"num_attention_heads": 4}
    ).complete


def test_two_tables_that_differ_are_told(tmp_path):
    whole = load_file(Path(__file__).parent / "golden" / "uniter_a.safetensors")
    weights = {name.removeprefix("weights/"): value for name, value in whole.items() if name.startswith("weights/")}
    weights["feat_regress.weight"] = weights["feat_regress.weight"] + 1
    save_file(weights, tmp_path / "uniter.safetensors")
    with pytest.raises(ValueError, match="the two are one matrix"):
        convert("uniter", tmp_path / "uniter.safetensors", tmp_path / "out", config={"num_attention_heads": 4})


def test_regions_without_soft_labels_are_told(processor, batch):
    model = UniterForPreTraining(config(processor)).eval()
    given = {name: value for name, value in batch.items() if name != "soft_labels"}
    with pytest.raises(ValueError, match="leave mrc and mrckl out of `tasks`"):
        model(**given, task="mrckl", row_seed=torch.arange(8))
    with pytest.raises(ValueError, match="no task 'mrc'; the model has mlm, mrfr, mrckl, itm"):
        model(**batch, task="mrc")


def test_the_example_is_whole():
    assert example().config.active_tasks == ["mlm", "mrfr", "mrc", "mrckl", "itm"]


@pytest.mark.parametrize("image", [False, True])
def test_words_and_regions_are_drawn(processor, tmp_path, image):
    from PIL import Image

    from hub_mim_uniter.drawing import draw

    rows = [row | ({"image": Image.new("RGB", (40, 30))} if image else {}) for row in sample(2)]
    model = UniterForPreTraining(config(processor)).eval()
    path = draw(model, processor, rows, tmp_path / "plan.png", start=0, seed=0, overwrite=False)
    assert path.stat().st_size > 10_000
