"""Pictures and texts in one space: retrieval, vectors of either, processes that share a batch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from hub_mim import pairs
from hub_mim.embedding import embed
from hub_mim.evaluation import evaluate


def test_recalls_count_what_is_nearer():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.6], [0.1, 0.95, 0.9]])
    found = pairs.recalls(similarity, torch.arange(3))
    assert found["recall@1 (image to text)"] == pytest.approx(1 / 3)
    assert found["recall@1 (text to image)"] == pytest.approx(2 / 3)
    assert found["recall@5 (image to text)"] == 1.0
    assert found["recall@1 (mean of both)"] == pytest.approx(0.5)


def test_a_model_that_tells_nothing_apart_has_no_first_place():
    found = pairs.recalls(torch.zeros(20, 20), torch.arange(20))
    assert found["recall@1 (image to text)"] == found["recall@5 (text to image)"] == 0.0


def test_one_of_several_texts_is_enough():
    similarity = torch.tensor([[0.9, 0.0, 0.5], [0.6, 0.7, 0.8]])
    found = pairs.recalls(similarity, torch.tensor([0, 0, 1]))
    assert found["recall@1 (image to text)"] == 1.0
    assert found["recall@1 (text to image)"] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def rows():
    example = pytest.importorskip("hub_mim_native.example", reason="plugins/native is not installed")
    words = ["small", "large"]
    return [
        {"images": row["images"], "captions": [f"a {words[row['label']]} disc", f"disc number {number}"]}
        for number, row in enumerate(example.sample_pictures(12, seed=3))
    ]


def test_retrieval_stands_beside_random_models(clip, rows):
    results = evaluate(clip, rows, protocol="image-text-retrieval", repeats=2, options={"captions": "all"})
    figures = {result.metric_type: result.metric_value for result in results}
    assert len(figures) == 14
    assert {"recall@1 (image to text)", "recall@10 (text to image) (untrained)"} <= set(figures)
    assert all(0 <= value <= 1 for value in figures.values())
    with pytest.raises(ValueError, match='captions is \'some\'; it must be "first" or "all"'):
        evaluate(clip, rows, protocol="image-text-retrieval", options={"captions": "some"})
    with pytest.raises(ValueError, match="no column of texts among images"):
        evaluate(clip, [{"images": row["images"]} for row in rows], protocol="image-text-retrieval")


def test_pictures_and_texts_are_embedded_apart(clip, rows, tmp_path):
    for side in pairs.SIDES:
        made = embed(clip, rows, tmp_path / f"{side}.npy", per=side, batch_size=5)
        vectors = np.load(made.path)
        assert vectors.shape == (12, 8)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_maps_need_vectors_of_patches(clip, rows):
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    with pytest.raises(ValueError, match="CLIPModel has no patch_features"):
        pairs.similarity_maps(model, processor, rows[:1], ["a disc"])


SHARED = """
import sys
import torch
import torch.distributed as dist
from hub_mim.gathering import first_row, gather_rows, row_counts

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
whole = torch.arange(20.0).reshape(5, 4) / 10
own = (whole[:3] if rank == 0 else whole[3:]).clone().requires_grad_()
counts = row_counts(len(own))
assert counts == [3, 2] and first_row(counts) == (0, 3)[rank]
gathered = gather_rows(own, counts)
assert torch.equal(gathered, whole)
loss = ((own @ gathered.T).sin()).sum()
loss.backward()
full = whole.clone().requires_grad_()
(full @ full.T).sin().sum().backward()
expected = full.grad[:3] if rank == 0 else full.grad[3:]
assert torch.allclose(own.grad, expected, atol=1e-6), (own.grad, expected)
dist.destroy_process_group()
"""


def test_gathered_rows_have_the_gradient_of_one_process(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", SHARED, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in started:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told.decode()
