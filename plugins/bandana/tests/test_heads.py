"""Heads: classes of nodes, links, whole graphs; by our auto classes; each learns a batch by heart."""

import pytest
import torch

from hub_mim.auto import AutoModelForGraphClassification, AutoModelForLinkPrediction, AutoModelForNodeClassification
from hub_mim_bandana import BandanaConfig, BandanaForPreTraining, BandanaProcessor
from hub_mim_bandana.example import rows, sample


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    config = BandanaConfig(num_features=16, hidden_size=16, num_hidden_layers=2, hidden_dropout_prob=0.0)
    model = BandanaForPreTraining(config)
    model.save_pretrained(folder)
    return folder, model


def learn(model, batch, steps=150, rate=1e-2):
    optimizer = torch.optim.Adam(model.train().parameters(), lr=rate)
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model(**batch)


def test_nodes(checkpoint):
    folder, pretrained = checkpoint
    row = sample(60)
    batch = dict(BandanaProcessor().fit(row)(rows=row))
    labels = torch.tensor([row[0]["node_labels"]])
    labels[0, 50:] = -100
    model = AutoModelForNodeClassification.from_pretrained(folder, num_labels=4)
    for name, weight in pretrained.bandana.state_dict().items():
        assert torch.equal(weight, model.bandana.state_dict()[name])
    out = learn(model, batch | {"labels": labels})
    assert out.logits.shape == (1, 60, 4)
    assert (out.logits.argmax(-1) == labels)[:, :50].float().mean() > 0.95


@pytest.mark.parametrize("decoder", ["dot", "mlp"])
def test_links(checkpoint, decoder):
    folder, pretrained = checkpoint
    row = sample(60)
    batch = dict(BandanaProcessor().fit(row)(rows=row))
    pairs = torch.tensor([[*row[0]["edges"][:20], *[[node, (7 * node + 3) % 60] for node in range(20)]]])
    labels = torch.tensor([[1] * 20 + [0] * 19 + [-100]])
    model = AutoModelForLinkPrediction.from_pretrained(folder, link_decoder=decoder)
    if decoder == "mlp":
        assert torch.equal(model.decoder.layers[0].weight, pretrained.decoder.layers[0].weight)
    out = learn(model, batch | {"pairs": pairs, "labels": labels})
    assert ((out.logits > 0).long() == labels)[:, :39].float().mean() > 0.9
    assert model(**batch).logits.shape == batch["edge_index"].shape[:2]


def test_graphs():
    torch.manual_seed(0)
    given = rows(24)
    batch = dict(BandanaProcessor().fit(given)(rows=given))
    labels = torch.tensor([row["label"] for row in given])
    config = BandanaConfig(num_features=4, hidden_size=16, normalization="layer", hidden_dropout_prob=0.0, num_labels=2)
    model = AutoModelForGraphClassification.from_config(config)
    out = learn(model, batch | {"labels": labels}, steps=300)
    assert (out.logits.argmax(-1) == labels).float().mean() > 0.9
    quantities = AutoModelForGraphClassification.from_config(BandanaConfig(num_features=4, hidden_size=8, num_labels=1))
    assert quantities(**batch, labels=labels.float()).loss.isfinite()
