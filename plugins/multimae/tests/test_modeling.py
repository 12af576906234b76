"""What MultiMAE promises beyond the general checks: budgets, missing modalities, masks by hand, heads."""

import copy

import pytest
import torch

from hub_mim.testing.subject import Subject
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.evaluation import baselines, whole_masks
from hub_mim_multimae.modeling_multimae import MultiMAEForPreTraining, MultiMAEModel
from hub_mim_multimae.modeling_multimae_heads import (
    MultiMAEForDepthEstimation,
    MultiMAEForImageClassification,
    MultiMAEForSemanticSegmentation,
    berhu,
)

SMALL = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
    "num_visible": 12,
    "head_hidden_size": 16,
    "head_num_layers": 1,
    "head_num_attention_heads": 2,
    "head_predictions_per_patch": 4,
    "dpt_hooks": [0, 1, 2, 3],
    "dpt_sizes": [4, 4, 8, 8],
    "dpt_features": 4,
    "modalities": [
        {"name": "rgb", "channels": 3},
        {"name": "depth", "channels": 1, "loss": "l1"},
        {"name": "semseg", "kind": "categorical", "num_classes": 3, "class_width": 4, "stride": 2},
    ],
}


def config(**fields):
    return MultiMAEConfig(**SMALL | fields)


def maps(rows=4, high=16, wide=16):
    source = torch.Generator().manual_seed(3)
    return {
        "rgb": torch.randn(rows, 3, high, wide, generator=source),
        "depth": torch.randn(rows, 1, high, wide, generator=source),
        "semseg": torch.randint(0, 3, (rows, high // 2, wide // 2), generator=source),
    }


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MultiMAEForPreTraining(config()).eval()


def visible(out):
    return torch.stack([(~out.mask[name] & out.valid[name]).sum(1) for name in out.mask], 1)


def test_the_budget_is_exact_and_shared_differently_in_each_row(model):
    out = model(**maps(64), row_seed=torch.arange(64))
    counts = visible(out)
    assert (counts.sum(1) == 12).all()
    assert counts.float().std(0).min() > 2
    alike = copy.deepcopy(model)
    alike.config.alphas = dict.fromkeys(("rgb", "depth", "semseg"), 1e4)
    counts = visible(alike(**maps(16), row_seed=torch.arange(16)))
    assert (counts - 4).abs().max() <= 1


def test_shares_may_be_given(model):
    shares = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]])
    out = model(**maps(2), shares=shares, row_seed=torch.arange(2))
    assert visible(out).tolist() == [[12, 0, 0], [0, 6, 6]]


def test_each_subset_of_modalities_is_drawn_alike():
    torch.manual_seed(0)
    model = MultiMAEForPreTraining(config(sample_tasks_uniformly=True)).eval()
    seen = visible(model(**maps(420), row_seed=torch.arange(420))) > 0
    kinds, counts = seen.unique(dim=0, return_counts=True)
    assert len(kinds) == 7
    assert counts.min() > 30  # 60 expected; a share that rounds to nothing moves some


def test_a_row_without_a_modality(model):
    present = torch.tensor([[True, True, True], [True, False, True]])
    given = maps(2)
    out = model(**given, present=present, row_seed=torch.arange(2))
    assert visible(out).sum(1).tolist() == [12, 12]
    assert not out.scored["depth"][1].any()
    noisy = given | {"depth": torch.stack([given["depth"][0], torch.randn(1, 16, 16) * 9])}
    again = model(**noisy, present=present, row_seed=torch.arange(2))
    for task in out.predictions:
        assert torch.equal(out.predictions[task], again.predictions[task])
    assert torch.equal(out.loss, again.loss)
    alone = model(
        rgb=given["rgb"][1:], semseg=given["semseg"][1:], mask={n: out.mask[n][1:] for n in ("rgb", "semseg")}
    )
    assert set(alone.losses) == {"rgb", "semseg", "norm_rgb"}
    assert alone.predictions["depth"].shape == out.predictions["depth"][1:].shape


def test_masks_by_hand_are_right_for_every_row(model):
    """The authors' code adds up the visible patches of the whole batch, and then sees all."""
    given = maps(3)
    mask = {
        name: torch.rand(3, 16, generator=torch.Generator().manual_seed(5)) > share
        for name, share in (("rgb", 0.3), ("depth", 0.6), ("semseg", 0.5))
    }
    together = model(**given, mask=mask)
    for row in range(3):
        alone = model(
            **{name: each[row : row + 1] for name, each in given.items()},
            mask={n: m[row : row + 1] for n, m in mask.items()},
        )
        for task, prediction in alone.predictions.items():
            torch.testing.assert_close(prediction[0], together.predictions[task][row], rtol=1e-4, atol=1e-5)


def test_a_modality_that_is_wholly_visible_in_one_row_gives_no_gradient_that_is_no_number(model):
    """The authors' loss stays finite there, and 117 of 224 of their gradients do not."""
    model = copy.deepcopy(model)
    mask = {name: torch.ones(3, 16, dtype=torch.bool) for name in ("rgb", "depth", "semseg")}
    mask["rgb"][0] = False
    model(**maps(3), mask=mask).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    nothing = {name: torch.zeros(3, 16, dtype=torch.bool) for name in mask}
    out = model(**maps(3), mask=nothing)
    assert float(out.loss) == 0
    out.loss.backward()


def test_one_modality_predicts_the_others(model):
    given = maps(2)
    mask = whole_masks(given, (4, 4), ["rgb"])
    out = model(**given, mask=mask)
    other = given | {"depth": torch.randn_like(given["depth"]), "semseg": torch.zeros_like(given["semseg"])}
    again = model(**other, mask=mask)
    alone = model(rgb=given["rgb"], mask={"rgb": mask["rgb"]})
    for task in ("depth", "semseg"):
        assert torch.equal(out.predictions[task], again.predictions[task])
        torch.testing.assert_close(out.predictions[task], alone.predictions[task], rtol=1e-4, atol=1e-5)


def test_pictures_that_are_no_squares(model):
    out = model(**maps(2, 8, 24), row_seed=torch.arange(2))
    assert out.predictions["depth"].shape == (2, 12, 16)
    assert MultiMAEModel(config())(rgb=torch.randn(1, 3, 20, 12)).last_hidden_state.shape == (1, 16, 16)


def test_eight_bits_are_normalised_in_the_model():
    modalities = [{"name": "rgb", "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}]
    torch.manual_seed(0)
    model = MultiMAEModel(config(modalities=modalities, normalized_targets=[])).eval()
    eight = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    scaled = (eight / 255 - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(
        1, 3, 1, 1
    )
    assert torch.equal(model(rgb=eight).last_hidden_state, model(rgb=scaled).last_hidden_state)


def test_thirteen_bands_and_a_target_that_is_no_input_need_no_code():
    modalities = [{"name": "bands", "channels": 13}, {"name": "landcover", "kind": "categorical", "num_classes": 9}]
    torch.manual_seed(0)
    model = MultiMAEForPreTraining(config(modalities=modalities, normalized_targets=[]))
    out = model(bands=torch.randn(2, 13, 16, 16))
    assert set(out.losses) == {"bands"}
    assert out.predictions["landcover"].shape == (2, 16, 9 * 16)


def test_every_parameter_gets_a_gradient_though_a_batch_lacks_a_modality():
    torch.manual_seed(0)
    model = MultiMAEForPreTraining(config(task_balancer="uncertainty")).train()
    given = maps(2)
    model(rgb=given["rgb"]).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_uncertainty_balances_every_task():
    torch.manual_seed(0)
    model = MultiMAEForPreTraining(config(task_balancer="uncertainty", loss_weights={"depth": 0.5})).eval()
    with torch.no_grad():
        model.log_variances.copy_(torch.tensor([0.1, -0.2, 0.3, 0.4]))
    out = model(**maps(), row_seed=torch.arange(4))
    weights = {"depth": 0.5}
    wanted = sum(
        weights.get(task, 1.0) * (torch.exp(-s) * out.losses[task] + s)
        for task, s in zip(model.config.targets, model.log_variances, strict=True)
    )
    torch.testing.assert_close(out.loss, wanted)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "no modality was given; this model has rgb, depth, semseg"),
        ({"infrared": torch.zeros(1, 1, 16, 16)}, "'infrared' is no modality of this model"),
        ({"rgb": torch.zeros(1, 3, 18, 16)}, "18 x 16 are no multiple of the patch size 4"),
        (
            {"rgb": torch.zeros(1, 4, 16, 16)},
            r"rgb has the shape \(1, 4, 16, 16\); it must be \(rows, 3, height, width\)",
        ),
        ({"rgb": torch.zeros(1, 3, 16, 16), "depth": torch.zeros(1, 1, 16, 12)}, "align them"),
        ({"semseg": torch.full((1, 8, 8), 3)}, "semseg holds the class 3; this model's are 0 to 2"),
        ({"semseg": torch.zeros(1, 8, 8)}, "classes are whole numbers"),
        (
            {"rgb": torch.zeros(1, 3, 16, 16), "mask": {"depth": torch.zeros(1, 16, dtype=torch.bool)}},
            "a mask for 'depth'",
        ),
        (
            {"rgb": torch.zeros(1, 3, 16, 16), "mask": {"rgb": torch.zeros(1, 9, dtype=torch.bool)}},
            r"must be \(1, 16\)",
        ),
        ({"rgb": torch.zeros(1, 3, 16, 16), "present": torch.ones(1, 2)}, "a column for each modality"),
    ],
)
def test_bad_input_is_told_in_a_sentence(model, given, told):
    with pytest.raises(ValueError, match=told):
        model(**given)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"modalities": [{"name": "rgb", "channel": 3}]}, "did you mean 'channels'"),
        ({"modalities": [{"channels": 3}]}, "with a 'name'"),
        ({"modalities": [{"name": "a"}, {"name": "a"}]}, "two modalities called 'a'"),
        ({"modalities": [{"name": "a", "kind": "categorical"}], "normalized_targets": []}, "num_classes"),
        ({"modalities": [{"name": "a", "stride": 3}], "normalized_targets": []}, "does not divide patch_size"),
        ({"tasks": ["infrared"]}, "tasks names 'infrared'"),
        ({"normalized_targets": ["semseg"]}, "values are classes"),
    ],
)
def test_a_bad_configuration_is_told_in_a_sentence(fields, told):
    with pytest.raises(Exception, match=told):
        config(**fields)


@pytest.mark.parametrize("kind", ["convnext", "segmenter", "dpt", "linear"])
def test_segmentation_heads_learn(kind):
    torch.manual_seed(0)
    main = ["rgb", "depth"] if kind == "segmenter" else []
    model = MultiMAEForSemanticSegmentation(config(segmentation_head=kind, main_modalities=main, num_labels=3))
    given = maps(2)
    labels = (given["rgb"].mean(1) > 0).long()
    labels[:, :2] = 255
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        out = model(rgb=given["rgb"], depth=given["depth"], labels=labels)
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert out.logits.shape == (2, 3, 16, 16)
    assert losses[-1] < 0.9 * losses[0]
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("kind", ["dpt", "convnext"])
def test_depth_heads(kind):
    torch.manual_seed(0)
    model = MultiMAEForDepthEstimation(config(depth_head=kind))
    given = maps(2)
    labels = given["depth"][:, 0].clone()
    labels[0, 0, 0] = float("nan")
    out = model(rgb=given["rgb"], labels=labels)
    assert out.predicted_depth.shape == (2, 16, 16)
    assert out.loss.isfinite()
    out.loss.backward()
    with pytest.raises(ValueError, match="which was not given; see main_modalities"):
        model(depth=given["depth"])


def test_an_odd_grid_is_refused_by_dpt():
    model = MultiMAEForDepthEstimation(config())
    with pytest.raises(ValueError, match="3 x 4 patches has an odd side"):
        model(rgb=torch.zeros(1, 3, 12, 16))


def test_reverse_huber():
    """Up to a fifth of the largest error it is absolute, then squared."""
    prediction, target = torch.tensor([0.1, 1.0]), torch.zeros(2)
    assert float(berhu(prediction, target)) == pytest.approx((0.1 + (1 + 0.04) / 0.4) / 2)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_classification_from_any_modality(pooling):
    torch.manual_seed(0)
    model = MultiMAEForImageClassification(config(classifier_pooling=pooling, num_labels=5)).eval()
    given = maps(3)
    labels = torch.tensor([0, 3, 4])
    for names in (["rgb"], ["depth", "semseg"], ["rgb", "depth", "semseg"]):
        out = model(**{name: given[name] for name in names}, labels=labels)
        assert out.logits.shape == (3, 5)
        assert out.loss.isfinite()


def test_heads_begin_with_the_encoder_of_pre_training(tmp_path):
    subject = Subject("multimae")
    model = subject.model()
    model.save_pretrained(tmp_path)
    tuned = MultiMAEForSemanticSegmentation.from_pretrained(tmp_path)
    for name, value in model.multimae.state_dict().items():
        assert torch.equal(tuned.multimae.state_dict()[name], value)


def test_baselines_fill_from_what_is_visible():
    wanted = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
    hidden = torch.tensor([[False, True, False, True]])
    found = baselines(wanted, hidden, torch.ones_like(hidden), (1, 4), 0)
    assert found["mean of visible"][0, 1].item() == pytest.approx(2.0)
    assert found["interpolation"][0, 3].item() == pytest.approx((1 / 9 + 3) / (1 / 9 + 1), rel=1e-4)
    classes = torch.tensor([[[2], [0], [2], [1]]])
    found = baselines(classes, hidden, torch.ones_like(hidden), (1, 4), 3)
    assert found["mean of visible"][0, 1].tolist() == [2]


def test_all_modalities_of_a_row_are_cut_and_mirrored_as_one():
    from hub_mim_multimae.augmentation import augment
    from hub_mim_multimae.configuration_multimae import Schema

    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    rows = 8
    modalities = [
        {"name": "rgb", "channels": 3},
        {"name": "column", "kind": "categorical", "num_classes": 32},
        {"name": "depth", "channels": 1, "loss": "l1", "standardize": True},
    ]
    schema = Schema(config(image_size=32, modalities=modalities))
    given = {
        "rgb": torch.stack([x, y, x + y])[None].repeat(rows, 1, 1, 1),
        "column": x.long()[None].repeat(rows, 1, 1),
        "depth": (x + 3 * y)[None, None].repeat(rows, 1, 1, 1),
    }
    options = {"scale": (0.3, 0.8), "ratio": (0.75, 4 / 3), "flip": 0.5}
    made = augment(schema, given, row_seed=torch.arange(rows), **options)
    assert (made["rgb"][:, 0] - made["column"]).abs().max() <= 0.51  # the same places, classes not blended
    assert made["depth"].shape == given["depth"].shape
    from hub_mim_multimae.processing_multimae import standardize

    torch.testing.assert_close(
        made["depth"], standardize(made["rgb"][:, :1] + 3 * made["rgb"][:, 1:2]), rtol=1e-3, atol=1e-3
    )
    rising = made["rgb"][:, 0, 16, -1] > made["rgb"][:, 0, 16, 0]
    assert rising.any()
    assert not rising.all()
    again = augment(schema, {n: v[3:4] for n, v in given.items()}, row_seed=torch.arange(rows)[3:4], **options)
    assert all(torch.allclose(again[name][0], made[name][3], atol=1e-4) for name in made)


def test_training_sees_other_parts_in_each_epoch_and_evaluation_all(model):
    torch.manual_seed(0)
    moved = MultiMAEForPreTraining(config(crop_scale=[0.3, 0.6], flip_share=0.5))
    given, shown = maps(2), []
    moved.multimae.adapters["rgb"].register_forward_hook(lambda _, inputs, output: shown.append(inputs[0]))
    for seed in (1, 1, 2):
        moved.train()(**given, row_seed=torch.tensor([seed, seed + 10]))
    moved.eval()(**given, row_seed=torch.tensor([1, 11]))
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
    assert torch.equal(shown[3], given["rgb"])


def test_a_baseline_guesses_colours_and_not_greys():
    wanted = torch.tensor([[[1.0, 1, 5, 5], [0, 0, 0, 0]]])  # two channels of two pixels
    hidden = torch.tensor([[False, True]])
    found = baselines(wanted, hidden, torch.ones_like(hidden), (1, 2), 0, channels=2)
    assert found["mean of visible"][0, 1].tolist() == [1, 1, 5, 5]
    assert found["interpolation"][0, 1].tolist() == pytest.approx([1, 1, 5, 5])
