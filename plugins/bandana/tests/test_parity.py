"""The authors' numbers, from the fixture kept here; that the comparison can fail; and a reference of our own for what
the fixture does not have: the dense path, misaligned labels, a batch of edges."""

from pathlib import Path

import pytest
import torch

from hub_mim.testing.parity import changed, compare
from hub_mim_bandana import BandanaConfig, BandanaForPreTraining

FIXTURE = Path(__file__).parent / "golden" / "bandana_a.safetensors"


def test_every_number_of_the_authors_is_reached():
    report = compare("bandana", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 32
    assert report.worst < 1e-6


@pytest.mark.parametrize("weight", ["weights/encoder.convs.1.lin.weight", "weights/decoder.mlps.1.bias"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("bandana", changed(FIXTURE, weight, tmp_path)).passed


def reference(model, x, edges, noise, negatives, chosen):
    """The masked loss with dense matrices in doubles, written from the description alone."""
    config, count = model.config, len(x)
    weights = {name: value.double() for name, value in model.state_dict().items()}
    order = sorted(range(len(edges)), key=lambda place: tuple(edges[place].tolist()))
    ranked = edges[order] if config.legacy_alignment else edges
    hidden, total = x.double(), 0.0
    for layer, temperature in enumerate(config.layer_temperatures):
        score = (noise[layer].double() / temperature).exp()
        sums = torch.zeros(count, dtype=torch.float64).index_add(0, ranked[:, 0], score)
        share = score / sums[ranked[:, 0]]
        matrix = torch.eye(count, dtype=torch.float64)
        pairs = edges if config.normalize == "send" else ranked
        for (first, second), value in zip(pairs.tolist(), share.tolist(), strict=True):
            place = (second, first) if config.normalize == "send" else (first, second)
            matrix[place] += value
        degree = matrix.sum(1)
        matrix = degree[:, None] ** -0.5 * matrix * degree**-0.5
        prefix = f"bandana.layers.{layer}.convolution."
        hidden = matrix @ (hidden @ weights[f"{prefix}linear.weight"].T) + weights[f"{prefix}bias"]
        hidden = torch.nn.functional.elu(hidden)

        def decode(pairs, hidden=hidden):
            out = hidden[pairs[:, 0]] * hidden[pairs[:, 1]]
            for number in range(config.decoder_num_layers):
                out = out @ weights[f"decoder.layers.{number}.weight"].T + weights[f"decoder.layers.{number}.bias"]
                out = out.relu() if number + 1 < config.decoder_num_layers else out
            return out.log_softmax(-1)

        told = -(share[chosen] * decode(edges[chosen])[:, 0]).mean() - decode(negatives)[:, 1].mean()
        total = total + told / config.num_hidden_layers
    return total


@pytest.mark.parametrize("normalize", ["receive", "send"])
@pytest.mark.parametrize("legacy", [False, True])
def test_both_paths_and_both_alignments_are_those_of_the_description(normalize, legacy):
    torch.manual_seed(3)
    config = BandanaConfig(
        num_features=5,
        hidden_size=6,
        num_hidden_layers=3,
        decoder_hidden_size=4,
        decoder_num_layers=3,
        hidden_dropout_prob=0.0,
        normalization="none",
        temperatures=[0.2, 1.0, 0.4],
        normalize=normalize,
        legacy_alignment=legacy,
    )
    model = BandanaForPreTraining(config).eval()
    low = torch.tensor([[0, 3], [1, 2], [0, 1], [4, 5], [2, 6], [1, 6], [3, 7], [0, 7]])
    edges = torch.cat([low, low.flip(1)])
    x, noise = torch.randn(8, 5), torch.randn(3, len(edges))
    negatives, chosen = torch.tensor([[0, 5], [1, 4], [2, 7]]), torch.tensor([1, 4, 9, 15])
    with torch.no_grad():
        out = model(x[None], edges[None], bandwidth_noise=noise[None], negatives=negatives[None], chosen=chosen[None])
        wanted = reference(model, x, edges, noise, negatives, chosen)
    assert out.loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_misalignment_gives_edges_the_bandwidths_of_others():
    torch.manual_seed(0)
    low = torch.combinations(torch.arange(12))[::2]
    edges = torch.cat([low, low.flip(1)])
    noise = torch.randn(1, 2, len(edges))
    found = []
    for legacy in (False, True):
        config = BandanaConfig(num_features=3, hidden_size=4, num_hidden_layers=2, legacy_alignment=legacy)
        model = BandanaForPreTraining(config).eval()
        with torch.no_grad():
            out = model(torch.randn(1, 12, 3), edges[None], bandwidth_noise=noise)
        sums = torch.zeros(12).index_add(0, edges[:, 0], out.bandwidths[0, 0])
        found.append(torch.allclose(sums, torch.ones(12), atol=1e-5))
    assert found == [True, False]
