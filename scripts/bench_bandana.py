"""Bandana's speed and scale: an epoch on Cora beside a straight transcription of the authors' path, and a large graph.

Epoch: forward, backward, Adam with clipping; the transcription sorts the edges anew in every layer, multiplies the whole bag
of words and draws pairs that are none with Python's `random`. Both compute the same loss (checked first). Interleaved, one
thread, least process CPU time. Scale: a generated power-law graph trains by sampled steps; resident memory step by step.

    python scripts/bench_bandana.py epoch --repeats 5
    python scripts/bench_bandana.py scale --nodes 1000000 --edges 10000000 --steps 60
"""

import argparse
import itertools
import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hub_mim_bandana.configuration_bandana import BandanaConfig
from hub_mim_bandana.modeling_bandana import BandanaForPreTraining
from hub_mim_bandana.processing_bandana import BandanaProcessor
from hub_mim_bandana.reading import Graph, read_npz
from hub_mim_bandana.sampling import SubGraphs


class Transcription(nn.Module):
    """The authors' path as it is described: dense features, edges sorted in every layer, a list of candidates."""

    def __init__(self, config: BandanaConfig):
        super().__init__()
        widths = [config.num_features] + [config.hidden_size] * config.num_hidden_layers
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(config.hidden_size) for _ in self.linears)
        self.norms = nn.ModuleList(nn.BatchNorm1d(config.hidden_size) for _ in self.linears)
        self.decoder = nn.ModuleList(
            [nn.Linear(config.hidden_size, config.decoder_hidden_size), nn.Linear(config.decoder_hidden_size, 2)]
        )
        self.config = config

    def forward(self, x: Tensor, edges: Tensor, negatives: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """Return the loss; edges and negatives (2, E)."""
        config, count, total = self.config, len(x), torch.zeros(())
        for layer, linear in enumerate(self.linears):
            order = (edges[0] * count + edges[1]).argsort()
            ranked = edges[:, order]
            drawn = torch.randn(ranked.shape[1]) if noise is None else noise[layer]
            score = (drawn / config.layer_temperatures[layer]).exp()
            share = score / (torch.zeros(count).index_add(0, ranked[0], score) + 1e-16)[ranked[0]]
            degree = torch.ones(count).index_add(0, ranked[0], share)
            weight = degree.rsqrt()[ranked[0]] * share * degree.rsqrt()[ranked[1]]
            h = linear(nn.functional.dropout(x, config.hidden_dropout_prob, self.training))
            sent = torch.zeros_like(h).index_add(0, ranked[0], h[ranked[1]] * weight[:, None]) + h / degree[:, None]
            x = nn.functional.elu(self.norms[layer](sent + self.biases[layer]))
            total = total - (share * self._decode(x, ranked)[:, 0]).mean() - self._decode(x, negatives)[:, 1].mean()
        return total / len(self.linears)

    def _decode(self, x: Tensor, pairs: Tensor) -> Tensor:
        z, drop = x[pairs[0]] * x[pairs[1]], self.config.decoder_dropout_prob
        z = self.decoder[0](nn.functional.dropout(z, drop, self.training)).relu()
        return self.decoder[1](nn.functional.dropout(z, drop, self.training)).log_softmax(-1)

    def candidates(self, edges: Tensor, count: int) -> Tensor:
        """Return as many pairs that are no edge, drawn in Python and sifted with numpy."""
        known = np.unique((edges[0] * count + edges[1]).numpy())
        known = np.concatenate([known, np.arange(count) * (count + 1)])
        found = np.array(random.sample(range(count * count), int(1.1 * edges.shape[1])))
        found = found[~np.isin(found, known)][: edges.shape[1]]
        return torch.from_numpy(np.stack([found // count, found % count]))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return the authors' optimiser."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-4)


def take(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def epoch(data: str, repeats: int, steps: int) -> dict[str, Any]:
    """Time an epoch of both, after checking that they compute the same loss."""
    torch.set_num_threads(1)
    row = read_npz(data)
    batch = dict(BandanaProcessor().fit([row])(rows=[row]))
    found: dict[str, Any] = {}
    for name, size in (("link", (2, 128, 64, 0.2)), ("node", (3, 256, 256, 0.0))):
        layers, width, decoder, drop = size
        config = BandanaConfig(
            num_hidden_layers=layers, hidden_size=width, decoder_hidden_size=decoder, decoder_dropout_prob=drop
        )
        torch.manual_seed(0)
        ours, theirs = BandanaForPreTraining(config), Transcription(config)
        copy_weights(ours, theirs)
        edges = batch["edge_index"][0].T.contiguous()
        x, count = batch["node_features"][0], batch["node_features"].shape[1]
        noise = torch.randn(layers, edges.shape[1])
        negatives = theirs.candidates(edges, count)
        with torch.no_grad():
            one = ours.eval()(**batch, bandwidth_noise=noise[None], negatives=negatives.T[None]).loss
            two = theirs.eval()(x, edges, negatives, list(noise))
        found[name] = {"loss": [float(one), float(two)]}
        optimizers = adam(ours.train()), adam(theirs.train())
        times: dict[str, list[float]] = {"ours": [], "transcription": []}
        for repeat in range(repeats):
            for kind in times:
                started = time.process_time()
                for step in range(steps):
                    if kind == "ours":
                        seed = torch.tensor([repeat * steps + step])
                        take(ours, optimizers[0], ours(**batch, row_seed=seed).loss)
                    else:
                        take(theirs, optimizers[1], theirs(x, edges, theirs.candidates(edges, count)))
                times[kind].append((time.process_time() - started) / steps)
        found[name] |= {kind: round(min(each), 4) for kind, each in times.items()}
        found[name]["times"] = round(min(times["transcription"]) / min(times["ours"]), 2)
    return found


def copy_weights(ours: BandanaForPreTraining, theirs: Transcription) -> None:
    """Give the transcription our weights."""
    with torch.no_grad():
        for layer, linear, bias in zip(ours.bandana.layers, theirs.linears, theirs.biases, strict=True):
            linear.weight.copy_(layer.convolution.linear.weight)
            bias.copy_(layer.convolution.bias)
        for mine, other in zip(ours.decoder.layers, theirs.decoder, strict=True):
            other.load_state_dict(mine.state_dict())


def power_law(nodes: int, edges: int, features: int, seed: int = 0) -> Graph:
    """Return a graph whose degrees follow a power law: each end is drawn in proportion to rank ** -0.5."""
    source = np.random.default_rng(seed)
    weight = np.arange(1, nodes + 1) ** -0.5
    edge = weight.cumsum() / weight.sum()
    ends = np.searchsorted(edge, source.random((edges, 2))).clip(max=nodes - 1)
    values = source.standard_normal((nodes, features), dtype=np.float32)
    return Graph(nodes, ends, values)


def memory() -> int:
    """Return the resident memory, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 2**20


def scale(nodes: int, edges: int, steps: int, batch: int, features: int = 32) -> dict[str, Any]:
    """Train on a generated graph by sampled steps; memory and seconds of a step."""
    torch.set_num_threads(2)
    started = time.perf_counter()
    graph = power_law(nodes, edges, features)
    rows = SubGraphs(graph, "neighbours", max(1, nodes // batch), fanout=(10, 10), rounds=1)
    told: dict[str, Any] = {
        "nodes": nodes,
        "edges": edges,
        "seconds_to_prepare": round(time.perf_counter() - started, 1),
    }
    processor = BandanaProcessor(num_features=features)
    config = BandanaConfig(num_features=features, hidden_size=128, num_hidden_layers=2, normalization="layer")
    model = BandanaForPreTraining(config).train()
    optimizer = adam(model)
    held, seconds, sizes, losses = [], [], [], []
    for step in range(steps):
        started = time.perf_counter()
        row = rows[step % len(rows)]
        loss = model(**dict(processor(rows=[row])), row_seed=torch.tensor([step])).loss
        take(model, optimizer, loss)
        seconds.append(time.perf_counter() - started)
        held.append(memory())
        sizes.append(row["num_nodes"])
        losses.append(loss.item())
    told |= {"steps": steps, "seconds_a_step": round(float(np.median(seconds)), 3), "nodes_a_step": int(np.mean(sizes))}
    told |= {
        "MiB": held[:: max(1, steps // 10)],
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return told | {"loss": [round(losses[0], 4), round(float(np.mean(losses[-10:])), 4)]}


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("epoch", "scale"))
    parser.add_argument("--data", default="../shared/data/planetoid/cora.npz")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    if options.what == "epoch":
        told = epoch(options.data, options.repeats, options.steps or 10)
    else:
        told = scale(options.nodes, options.edges, options.steps or 60, options.batch)
    print(json.dumps({"torch": torch.__version__} | told, indent=1))


if __name__ == "__main__":
    main()
