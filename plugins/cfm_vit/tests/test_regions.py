"""Regions: RoIAlign by two small matrices, scores and their ensemble, the head that is trained, names for a detector's boxes."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hub_mim_cfm_vit.detection import ZeroShotDetector, open_scores
from hub_mim_cfm_vit.example import example, squares
from hub_mim_cfm_vit.modeling_cfm_vit import CfmVitModel
from hub_mim_cfm_vit.modeling_cfm_vit_heads import CfmVitForRegionClassification
from hub_mim_cfm_vit.regions import category_embeddings, ensemble_scores, region_weights, vlm_scores
from hub_mim_regions.roialign import roi_align

NAMES = ["red", "green", "blue", "yellow"]


@pytest.fixture(scope="module")
def processor():
    return example().processor


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CfmVitModel(example().config).eval()


def boxes_of(rows):
    return torch.tensor([[row["objects"][0]["box"]] for row in rows], dtype=torch.float32)


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (3, 1), (14, 1)])
def test_the_weights_are_the_mean_of_roialign(size, samples):
    source = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 6, 8, generator=source)
    low = torch.rand(2, 4, 2, generator=source) * torch.tensor([40.0, 30.0])
    boxes = torch.cat([low, low + torch.rand(2, 4, 2, generator=source) * torch.tensor([24.0, 18.0])], 2)
    ours = region_weights(boxes, (6, 8), 8, size, samples) @ features.flatten(2).transpose(1, 2)
    shares = boxes.flatten(0, 1) / torch.tensor([64.0, 48, 64, 48])
    theirs = roi_align(features, shares, torch.arange(2).repeat_interleave(4), size, samples).mean((2, 3))
    torch.testing.assert_close(ours.flatten(0, 1), theirs, rtol=0, atol=1e-5)


def sampled(features, box, patch, count):
    """Return the mean over samples, one after another, as He et al. and the usual code have it."""
    high, wide = features.shape[1:]
    total = torch.zeros(len(features))
    x1, y1, x2, y2 = (float(each) / patch for each in box)
    for i in range(count):
        for j in range(count):
            y, x = y1 + (y2 - y1) * (i + 0.5) / count - 0.5, x1 + (x2 - x1) * (j + 0.5) / count - 0.5
            if not (-1 <= y <= high and -1 <= x <= wide):
                continue
            y, x = min(max(y, 0), high - 1), min(max(x, 0), wide - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, high - 1), min(left + 1, wide - 1)
            v, u = y - top, x - left
            total += (1 - v) * ((1 - u) * features[:, top, left] + u * features[:, top, right])
            total += v * ((1 - u) * features[:, below, left] + u * features[:, below, right])
    return total / count**2


def test_boxes_beyond_the_picture_count_nothing_there():
    features = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(
        [[[-40.0, -10, 30, 70], [50, 30, 200, 90], [100, 100, 140, 150], [5, 5, 5, 5], [-3, -3, 2, 2]]]
    )
    ours = region_weights(boxes, (6, 8), 8)[0] @ features.flatten(1).T
    for row, box in enumerate(boxes[0]):
        torch.testing.assert_close(ours[row], sampled(features, box, 8, 14), rtol=0, atol=1e-5)
    assert not ours[2].any()


def test_a_region_that_is_the_whole_picture_is_near_its_mean(model, processor):
    batch = processor(rows=squares(2))
    with torch.no_grad():
        regions = model.region_features(batch["pixel_values"], torch.tensor([[[0.0, 0, 24, 24]]]).expand(2, -1, -1))
        whole = model(pixel_values=batch["pixel_values"]).image_embeds
    assert regions.shape == (2, 1, 10)
    assert ((regions[:, 0] * whole).sum(1) > 0.95).all()
    with pytest.raises(ValueError, match=r"boxes have the shape \(2, 4\)"):
        model.region_features(batch["pixel_values"], torch.zeros(2, 4))


def test_names_become_unit_vectors_with_the_background_first(model, processor):
    one = category_embeddings(model, processor, NAMES, ["a {} square"])
    two = category_embeddings(model, processor, NAMES, ["a {} square", "the {} thing"])
    assert one.shape == (5, 10)
    torch.testing.assert_close(two.norm(dim=1), torch.ones(5))
    assert not torch.allclose(one, two)
    alone = model.get_text_features(**processor(text=["a background square"])).pooler_output
    torch.testing.assert_close(one[:1], normalize(alone.detach(), dim=1))
    for wrong, told in (([], "no names"), (["a", " "], "name of a category is ' '")):
        with pytest.raises(ValueError, match=told):
            category_embeddings(model, processor, wrong)
    with pytest.raises(ValueError, match="needs a {}"):
        category_embeddings(model, processor, NAMES, ["a photo"])


def test_scores_are_mixed_as_the_paper_says():
    z = vlm_scores(torch.eye(3)[:2], torch.eye(3), 0.5)
    torch.testing.assert_close(z.sum(1), torch.ones(2))
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    mixed = ensemble_scores(z, p, torch.tensor([0, 1, 0]), 0.65, 0.3)
    torch.testing.assert_close(mixed[:, 0], p[:, 0])
    torch.testing.assert_close(mixed[:, 1], z[:, 1] ** 0.35 * p[:, 1] ** 0.65)
    torch.testing.assert_close(mixed[:, 2], z[:, 2] ** 0.7 * p[:, 2] ** 0.3)


def fitted(processor, freeze):
    """Return a region classifier after some steps on squares, its losses, and its backbone before."""
    torch.manual_seed(0)
    config = example().config
    config.num_labels, config.freeze_backbone, config.vlm_temperature = 5, freeze, 0.1
    model = CfmVitForRegionClassification(config)
    model.set_categories(torch.randn(5, 10, generator=torch.Generator().manual_seed(1)))
    before = {name: weight.clone() for name, weight in model.cfm_vit.named_parameters()}
    rows = squares(16)
    pixels, boxes = processor(rows=rows)["pixel_values"], boxes_of(rows)
    labels = torch.tensor([[1 + NAMES.index(row["objects"][0]["label"])] for row in rows])
    optimizer = torch.optim.AdamW([each for each in model.train().parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(60):
        loss = model(pixels, boxes, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses, before


@pytest.mark.parametrize("freeze", [True, False])
def test_the_region_head_learns_with_and_without_its_backbone(processor, freeze, tmp_path):
    model, losses, before = fitted(processor, freeze)
    assert losses[-1] < 0.5 * losses[0]
    moved = [name for name, weight in model.cfm_vit.named_parameters() if not torch.equal(weight, before[name])]
    assert bool(moved) != freeze
    model.save_pretrained(tmp_path)
    again = CfmVitForRegionClassification.from_pretrained(tmp_path)
    assert any(weight.requires_grad for weight in again.train().cfm_vit.parameters()) != freeze
    rows = squares(2)
    pixels, boxes = processor(rows=rows)["pixel_values"], boxes_of(rows)
    torch.testing.assert_close(again.eval()(pixels, boxes).logits, model.eval()(pixels, boxes).logits)


def test_the_untrained_head_scores_as_the_model_does(model, processor):
    torch.manual_seed(1)
    config = example().config
    config.num_labels = 5
    head = CfmVitForRegionClassification(config).eval()
    state = {f"cfm_vit.{name}": value for name, value in model.state_dict().items() if name.startswith("vision.")}
    head.load_state_dict(state, strict=False)
    names = category_embeddings(model, processor, NAMES)
    head.set_categories(names)
    rows = squares(2)
    pixels, boxes = processor(rows=rows)["pixel_values"], boxes_of(rows)
    with torch.no_grad():
        expected = vlm_scores(model.region_features(pixels, boxes), names, config.vlm_temperature)
        torch.testing.assert_close(head(pixels, boxes).logits.softmax(-1), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            head(pixels, boxes, class_embeds=names[:3]).logits, head(pixels, boxes).logits[..., :3]
        )
    ignored = head(pixels, boxes, labels=torch.full((2, 1), -100))
    assert ignored.loss == 0
    with pytest.raises(ValueError, match="set num_labels"):
        head.set_categories(names[:2])


def test_given_boxes_are_named_like_the_pipeline_does(model, processor):
    rows = squares(3)
    find = ZeroShotDetector(model, processor, longest=48)
    (box,) = ([list(map(float, rows[0]["objects"][0]["box"]))],)
    found = find(rows[0]["image"], NAMES, boxes=box, threshold=0.0)
    assert len(found) == 1
    assert set(found[0]) == {"score", "label", "box"}
    assert list(found[0]["box"].values()) == rows[0]["objects"][0]["box"]
    assert found[0]["label"] in NAMES
    assert found == find(rows[0]["image"], ", ".join(NAMES), boxes=box, threshold=0.0)
    several = find([row["image"] for row in rows], NAMES, [[row["objects"][0]["box"]] for row in rows], threshold=0.0)
    assert several[0][0]["score"] == pytest.approx(found[0]["score"], abs=1e-5)
    assert find(rows[0]["image"], NAMES, boxes=np.zeros((0, 4))) == []
    assert find(rows[0]["image"], NAMES, boxes=box, threshold=1.1) == []
    with pytest.raises(ValueError, match="no boxes"):
        find(rows[0]["image"], NAMES)
    with pytest.raises(ValueError, match="beyond a picture of 24 by 24"):
        find(rows[0]["image"], NAMES, boxes=[[0, 0, 90, 90]])


@pytest.fixture(scope="module")
def detector():
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=6,
        id2label={0: "Red", 1: "table"},
    )
    return YolosForObjectDetection(config).eval(), YolosImageProcessorPil(size={"height": 32, "width": 32})


def test_a_detectors_boxes_are_named_and_its_scores_mixed_in(model, processor, detector):
    picture = squares(1)[0]["image"]
    find = ZeroShotDetector(model, processor, detector, regions=4)
    found = find(picture, NAMES, threshold=0.0, top_k=3)
    assert len(found) == 3
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    for each in found:
        assert 0 <= each["box"]["xmin"] <= each["box"]["xmax"] <= 24
    corners, judged = find._boxes(picture, NAMES, None)
    assert judged.is_base.tolist() == [False, True, False, False, False]
    config = model.config
    z = find.scores(picture, corners, NAMES)
    expected = ensemble_scores(z, judged.scores, judged.is_base, config.ensemble_alpha, config.ensemble_beta)
    torch.testing.assert_close(find.scores(picture, corners, NAMES, judged), expected)


def test_a_trained_head_takes_the_detectors_place(model, processor, detector):
    torch.manual_seed(2)
    config = example().config
    config.id2label = {0: "background", 1: "red", 2: "green"}
    head = CfmVitForRegionClassification(config).eval()
    find = ZeroShotDetector(model, processor, detector, classifier=head, regions=4)
    picture = squares(1)[0]["image"]
    corners, _ = find._boxes(picture, NAMES, None)
    scores = find.scores(picture, corners, NAMES)
    assert scores.shape == (4, 5)
    assert torch.equal(scores, find.scores(picture, corners, NAMES, open_scores(torch.full((4, 3), 1 / 3), [], NAMES)))


def test_names_that_a_detector_does_not_know_get_its_certainty_of_an_object():
    shares = torch.tensor([[0.2, 0.5, 0.3]])
    judged = open_scores(shares, ["cat", "Dog"], ["dog", "zebra"])
    torch.testing.assert_close(judged.scores, torch.tensor([[0.2, 0.3, 0.8]]))
    assert judged.is_base.tolist() == [False, True, False]
