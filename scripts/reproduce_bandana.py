"""Reproduce Bandana's tables on a graph: link prediction and node classification, with what it is compared with.

Link prediction: 5 % of the edges for validation, 10 % for test; the training graph is encoded, pairs are ranked by the dot
product of the last layer (logits, since sigmoids of large ones are all 1) against as many pairs that are none; the
checkpoint is the one with the best validation AUC, looked at every 10 epochs, training stops after 30 looks without gain.
Node classification: pre-training with 10 % and 5 % held out, chosen by the validation AUC of the decoder; then linear
probes on all layers of the whole graph, learning from `train_idx`, the epoch chosen on `val_idx`, judged on `test_idx`.
Appends to a csv; what is there is not run again.

    python scripts/reproduce_bandana.py --task link --splits 2022 1 2 3 --inits 0 --jobs 2 --out link.csv
    python scripts/reproduce_bandana.py --task node --splits 2022 --inits 0 1 2 3 4 --out node.csv
"""

import argparse
import csv
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hub_mim.probes import small_linear
from hub_mim_bandana.configuration_bandana import BandanaConfig
from hub_mim_bandana.modeling_bandana import BandanaForPreTraining
from hub_mim_bandana.processing_bandana import BandanaProcessor
from hub_mim_bandana.reading import as_graph, read_npz

FIELDS = (
    "data",
    "task",
    "method",
    "split",
    "init",
    "auc",
    "ap",
    "val_auc",
    "accuracy",
    "macro_f1",
    "val_accuracy",
    "probe_std",
    "epochs",
    "seconds",
)
# the authors' configuration files for Cora
LINK: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "decoder_hidden_size": 64,
    "decoder_dropout_prob": 0.2,
}
NODE: dict[str, Any] = {}
TRAINING = {"link": {"lr": 1e-3, "weight_decay": 5e-4}, "node": {"lr": 1e-2, "weight_decay": 5e-5}}
PROBE_DECAY = 5e-3
METHODS: dict[str, dict[str, Any]] = {
    "bandana": {},
    "bandana-legacy": {"legacy_alignment": True},
    "maskgae-like": {"masking": "edges", "mask_ratio": 0.7},
    "graphmae-like": {"masking": "features", "mask_ratio": 0.5, "feature_loss_gamma": 3.0, "hidden_dropout_prob": 0.2},
    "unmasked": {"masking": "none"},
    "untrained": {},
    "gae": {},
    "vgae": {},
    "raw features": {},
}


def split_links(edges: Tensor, count: int, shares: tuple[float, float], seed: int) -> dict[str, Tensor]:
    """Part the edges (2, E) as PyG's RandomLinkSplit does from a seed: the graph to learn from, and pairs to judge on."""
    from torch_geometric import seed_everything
    from torch_geometric.data import Data
    from torch_geometric.transforms import RandomLinkSplit, ToUndirected

    seed_everything(seed)
    data = ToUndirected()(Data(edge_index=edges, num_nodes=count))
    parts = RandomLinkSplit(num_val=shares[0], num_test=shares[1], is_undirected=True, split_labels=True)(data)
    found = {"train": parts[0].edge_index}
    for name, part in zip(("val", "test"), parts[1:], strict=True):
        found[name], found[f"{name}_none"] = part.pos_edge_label_index, part.neg_edge_label_index
    return found


def ranked(scores: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the area under the ROC curve and the average precision of scores of edges and of pairs that are none."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    values = torch.cat(scores).detach().cpu().numpy()
    truth = np.concatenate([np.ones(len(scores[0])), np.zeros(len(scores[1]))])
    return float(roc_auc_score(truth, values)), float(average_precision_score(truth, values))


def dots(nodes: Tensor, pairs: Tensor) -> Tensor:
    """Return the dot product of each pair's nodes."""
    return (nodes[pairs[0]] * nodes[pairs[1]]).sum(1)


def learn(
    model: BandanaForPreTraining, batch: dict[str, Tensor], links: dict[str, Tensor], task: str, epochs: int
) -> int:
    """Train until the validation AUC has not risen for 30 looks, and put the best weights back; returns the last epoch."""
    optimizer = torch.optim.Adam(model.parameters(), **TRAINING[task])
    best, kept, waited, epoch = -1.0, {}, 0, 0
    for epoch in range(1, epochs + 1):
        model.train()
        loss = model(**batch, row_seed=torch.tensor([epoch], device=model.device)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if epoch % 10:
            continue
        now = judge(model, batch, links, "val", decoder=task == "node" and hasattr(model, "decoder"))[0]
        waited = 0 if now >= best else waited + 1
        if now >= best:
            best, kept = now, {name: value.clone() for name, value in model.state_dict().items()}
        if waited >= 30:
            break
    model.load_state_dict(kept)
    return epoch


def judge(
    model: BandanaForPreTraining, batch: dict[str, Tensor], links: dict[str, Tensor], name: str, decoder: bool = False
) -> tuple[float, float]:
    """Return AUC and AP of held-out edges, by the dot product or by the decoder."""
    model.eval()
    with torch.no_grad():
        nodes = model.bandana(**batch).last_hidden_state[0]
        if decoder:
            told = [model.decoder(nodes, *links[key]) for key in (name, f"{name}_none")]
            return ranked((told[0][:, 0], told[1][:, 0]))
        return ranked((dots(nodes, links[name]), dots(nodes, links[f"{name}_none"])))


def probe(
    values: np.ndarray, row: dict[str, Any], inits: range, decay: float = PROBE_DECAY, unit: bool = True
) -> dict[str, float]:
    """Return what linear probes reach: accuracy and macro F1 on the test nodes, the spread over the probes."""
    from sklearn.metrics import accuracy_score, f1_score

    labels = np.asarray(row["node_labels"])
    learnt = np.concatenate([row["train_idx"], row["val_idx"]])
    held = np.arange(len(row["train_idx"]), len(learnt))
    found = []
    for seed in inits:
        test = np.concatenate([row["test_idx"], row["val_idx"]])
        told = small_linear(
            values[learnt], labels[learnt], values[test], seed=seed, weight_decay=decay, held=held, unit=unit
        )
        count = len(row["test_idx"])
        truth, guess = labels[test][:count], told[:count]
        found.append(
            (
                accuracy_score(truth, guess),
                f1_score(truth, guess, average="macro"),
                accuracy_score(labels[test][count:], told[count:]),
            )
        )
    mean, spread = np.mean(found, 0), np.std(found, 0)
    return {"accuracy": mean[0], "macro_f1": mean[1], "val_accuracy": mean[2], "probe_std": spread[0]}


def pyg_baseline(
    name: str, features: Tensor, links: dict[str, Tensor], edges: Tensor, epochs: int = 200
) -> tuple[Tensor, Tensor]:
    """Train PyG's GAE or VGAE (Kipf and Welling 2016) and return embeddings by the training graph and by all edges."""
    from torch_geometric.nn import GAE, VGAE, GCNConv

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = GCNConv(features.shape[1], 32)
            self.ends = nn.ModuleList(GCNConv(32, 16) for _ in range(2 if name == "vgae" else 1))

        def forward(self, x: Tensor, edge_index: Tensor) -> Any:
            hidden = self.first(x, edge_index).relu()
            out = [end(hidden, edge_index) for end in self.ends]
            return tuple(out) if name == "vgae" else out[0]

    model = (VGAE if name == "vgae" else GAE)(Encoder())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    best, kept = -1.0, {}
    for epoch in range(epochs):
        model.train()
        optimizer.zero_grad()
        nodes = model.encode(features, links["train"])
        loss = model.recon_loss(nodes, links["train"])
        if name == "vgae":
            loss = loss + model.kl_loss() / len(features)
        loss.backward()
        optimizer.step()
        if epoch % 10 == 9:
            model.eval()
            with torch.no_grad():
                nodes = model.encode(features, links["train"])
                now = ranked((dots(nodes, links["val"]), dots(nodes, links["val_none"])))[0]
            if now >= best:
                best, kept = now, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(kept)
    model.eval()
    with torch.no_grad():
        return model.encode(features, links["train"]), model.encode(features, edges)


def run(data: str, task: str, method: str, split: int, init: int, epochs: int, device: str = "cpu") -> dict[str, Any]:
    """Run one method once; returns its row of the csv."""
    torch.set_num_threads(1)
    started = time.process_time()
    row = read_npz(data)
    graph = as_graph(row)
    assert graph.features is not None
    edges = torch.from_numpy(graph.edges.T.copy())
    links = split_links(edges, graph.number, (0.05, 0.1) if task == "link" else (0.1, 0.05), split)
    found: dict[str, Any] = {"epochs": 0}
    torch.manual_seed(1000 * split + init)
    if method == "raw features":
        unit = nn.functional.normalize(torch.from_numpy(graph.features), dim=1)
        by_links = by_all = unit
    elif method in ("gae", "vgae"):
        by_links, by_all = pyg_baseline(method, torch.from_numpy(graph.features), links, edges)
        found["epochs"] = 200
    else:
        config = {**(LINK if task == "link" else NODE), **METHODS[method], "num_features": graph.features.shape[1]}
        model = BandanaForPreTraining(BandanaConfig(**config))
        processor = BandanaProcessor(edge_order="both" if config.get("legacy_alignment") else "sorted").fit([row])
        whole = dict(processor(rows=[row]))
        batch = dict(processor(rows=[row | {"edge_index": links["train"].numpy()}]))
        model.to(device)
        whole, batch, links = (
            {name: value.to(device) for name, value in each.items()} for each in (whole, batch, links)
        )
        if method != "untrained":
            found["epochs"] = learn(model, batch, links, task, epochs)
        with torch.no_grad():
            model.eval()
            by_links = model.bandana(**batch).last_hidden_state[0]
            by_all = model.bandana(**whole).node_embeddings[0]
    for name, keys in (("val", ("val_auc", "")), ("test", ("auc", "ap"))):
        told = ranked((dots(by_links, links[name]), dots(by_links, links[f"{name}_none"])))
        found |= {key: value for key, value in zip(keys, told, strict=True) if key}
    if task == "node":
        found |= probe(by_all.cpu().numpy(), row, range(10))
    key = {"data": Path(data).stem, "task": task, "method": method, "split": split, "init": init}
    return key | found | {"seconds": time.process_time() - started}


def search(data: str, init: int, out: Path, epochs: int = 500, every: int = 50) -> None:
    """Look for what brings the published accuracy, by validation nodes alone: features, checkpoint, readout, scaling, decay.

    Writes every choice with its accuracy on validation and test nodes; the one to believe is the best on validation.
    """
    torch.set_num_threads(1)
    row = read_npz(data)
    graph = as_graph(row)
    links = split_links(torch.from_numpy(graph.edges.T.copy()), graph.number, (0.1, 0.05), 2022)
    if not out.is_file():
        out.write_text("init,features,epoch,readout,unit,decay,val_accuracy,accuracy\n")
    for scaled in (False, True):
        torch.manual_seed(1000 * 2022 + init)
        processor = BandanaProcessor(normalize_features=scaled).fit([row])
        whole = dict(processor(rows=[row]))
        batch = dict(processor(rows=[row | {"edge_index": links["train"].numpy()}]))
        model = BandanaForPreTraining(BandanaConfig(normalize_embeddings=False))
        optimizer = torch.optim.Adam(model.parameters(), **TRAINING["node"])
        for epoch in range(1, epochs + 1):
            model.train()
            loss = model(**batch, row_seed=torch.tensor([epoch])).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if epoch % every:
                continue
            with torch.no_grad():
                told = model.eval().bandana(**whole)
            for readout, values in (("all", told.node_embeddings[0]), ("last", told.last_hidden_state[0])):
                for unit in (True, False):
                    for decay in (5e-4, 5e-3, 5e-2):
                        found = probe(values.numpy(), row, range(3), decay=decay, unit=unit)
                        line = [init, "scaled" if scaled else "as they are", epoch, readout, unit, decay]
                        with out.open("a") as file:
                            told_of = [f"{found[name]:.4f}" for name in ("val_accuracy", "accuracy")]
                            csv.writer(file, lineterminator="\n").writerow([*line, *told_of])


def table(path: Path) -> str:
    """Return a csv's means and standard deviations: over initialisations on split 2022, and over splits."""
    rows = list(csv.DictReader(path.open()))
    lines = ["| task | method | over | runs | AUC | AP | accuracy | macro F1 |", "|---|---|---|---|---|---|---|---|"]
    for task in ("link", "node"):
        for method in METHODS:
            mine = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            sets = {
                "initialisations": [row for row in mine if row["split"] == "2022"],
                "splits": [row for row in mine if row["init"] == "0"],
            }
            for over, chosen in sets.items():
                if len(chosen) > 1 or (over == "initialisations" and chosen and len(mine) == 1):
                    cells = [_mean(chosen, name) for name in ("auc", "ap", "accuracy", "macro_f1")]
                    lines.append(f"| {task} | {method} | {over} | {len(chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, str]], name: str) -> str:
    values = [100 * float(row[name]) for row in rows if row[name]]
    if not values:
        return ""
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/planetoid/cora.npz")
    parser.add_argument("--task", choices=("link", "node"), default="link")
    parser.add_argument("--methods", nargs="+", default=["bandana"], choices=list(METHODS))
    parser.add_argument("--splits", nargs="+", type=int, default=[2022])
    parser.add_argument("--inits", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--search", action="store_true", help="look for a better probe and checkpoint, on validation nodes"
    )
    parser.add_argument("--table", action="store_true", help="print means of what the csv holds, and run nothing")
    options = parser.parse_args()
    if options.search:
        search(options.data, options.inits[0], options.out)
        return
    if options.table:
        print(table(options.out))
        return
    done = list(csv.DictReader(options.out.open())) if options.out.is_file() else []
    known = {tuple(row[name] for name in FIELDS[:5]) for row in done}
    plans = [
        (options.data, options.task, method, split, init, options.epochs, options.device)
        for split in options.splits
        for init in options.inits
        for method in options.methods
        if (Path(options.data).stem, options.task, method, str(split), str(init)) not in known
    ]
    if not done:
        options.out.write_text(",".join(FIELDS) + "\n")
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(run, *plan) for plan in plans]
        for future in as_completed(waiting):
            row = future.result()
            line = [f"{row[name]:.4f}" if isinstance(row.get(name), float) else row.get(name, "") for name in FIELDS]
            with options.out.open("a") as file:
                csv.writer(file, lineterminator="\n").writerow(line)
            print(*line, flush=True)


if __name__ == "__main__":
    main()
