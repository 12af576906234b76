"""Verify what needs a network: released weights convert and work, a real Hub takes and gives back a model.

    python scripts/verify_online.py                     # prints a table; what cannot run here says `not run` and why
    python scripts/verify_online.py --files ~/weights   # also weights that have no stable address, downloaded by hand

Nothing is guessed: a row is `passed`, `failed` or `not run`. Downloads are kept in the Hub's cache folder.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MULTIMAE = "https://github.com/EPFL-VILAB/MultiMAE/releases/download/pretrained-weights"


@dataclass(frozen=True)
class Released:
    """Weights that authors have released.

    Attributes:
        method: that has the conversion. file: its name. url: where it is; None where it must be fetched by hand.
        sha256: beginning of its hash, as the authors' file name or its page tells it; empty where nobody does.
    """

    method: str
    file: str
    url: str | None = None
    sha256: str = ""


RELEASED = [
    *(
        Released("multimae", name, f"{MULTIMAE}/{name}", name.removesuffix(".pth").rpartition("-")[2])
        for name in (
            "multimae-b_98_rgb+-depth-semseg_1600e_multivit-afff3f8c.pth",
            "multimae-b_98_rgb+-depth-semseg_1600e_timm-bafa5499.pth",
            "mae-b_dec512d8b_1600e_multivit-c477195b.pth",
            "mae-b_dec512d8b_1600e_timm-f74f3a8d.pth",
        )
    ),
    Released("mwmae", "mwmae_base_200_4x16_8x128_default_bfloat16_run1.msgpack"),
    Released("uniter", "villa-base.pt"),
]
TWINS = [  # repositories that transformers loads by itself: our class must give the same hidden states
    ("lxmert", "unc-nlp/lxmert-base-uncased"),
    ("siglip2", "google/siglip2-base-patch16-224"),
]


class NotRunError(Exception):
    """Why a check cannot run here."""


def need_plugin(name: str) -> Any:
    """Return a method.

    Raises:
        NotRunError: it is not installed.
    """
    from hub_mim import plugins

    methods = plugins.methods()
    if name not in methods:
        raise NotRunError(f"the plugin {name} is not installed")
    return methods[name]


def fetch(released: Released, files: Path | None) -> Path:
    """Return a released file, downloaded once.

    Raises:
        NotRunError: it has no address, or the network is not there.
        AssertionError: its hash is another.
    """
    given = None if files is None else files / released.file
    if given is not None and given.is_file():
        path = given
    elif released.url is None:
        raise NotRunError(f"{released.file} has no stable address; fetch it by hand and pass --files")
    else:
        path = Path.home() / ".cache" / "hub_mim" / "released" / released.file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            try:
                urllib.request.urlretrieve(released.url, part)
            except (urllib.error.URLError, OSError) as error:
                raise NotRunError(f"{released.url} cannot be reached: {error}") from error
            part.rename(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found.startswith(released.sha256), f"{path.name} has SHA-256 {found}, not {released.sha256}..."
    return path


def check_released(released: Released, files: Path | None) -> str:
    """Every key of the file finds its place, and the masked loss on sample rows is below that of random weights."""
    from hub_mim import convert, evaluate

    if need_plugin(released.method).conversion is None:
        raise NotRunError(f"{released.method} has no conversion")
    path = fetch(released, files)
    with tempfile.TemporaryDirectory() as folder:
        report = convert(released.method, path, Path(folder) / "out")
        assert report.complete, str(report)
        results = evaluate(Path(folder) / "out", f"sample:{released.method}")
    losses = {result.metric_type: result.metric_value for result in results}
    assert losses["loss"] < losses["loss (untrained)"], losses
    return f"{len(report.loaded)} tensors; masked loss {losses['loss']:.4g}, untrained {losses['loss (untrained)']:.4g}"


def check_twin(method: str, repository: str) -> str:
    """The plugin's class gives the hidden states of transformers' own, from the same repository."""
    import torch
    import transformers

    from hub_mim.method import resolve
    from hub_mim.registry import register
    from hub_mim.testing.subject import Subject

    declared = need_plugin(method)
    register()
    try:
        theirs = transformers.AutoModel.from_pretrained(repository).eval()
    except OSError as error:
        raise NotRunError(f"{repository} cannot be reached: {str(error).splitlines()[0]}") from error
    ours = resolve(declared.auto["AutoModel"]).from_pretrained(repository).eval()
    batch = Subject(method).batch()
    with torch.no_grad():
        first, second = ours(**batch), theirs(**batch)
    worst = max(float((first[key] - second[key]).abs().max()) for key in first.keys() & second.keys())
    assert worst < 1e-5, f"the outputs differ by {worst:.3g}"
    return f"outputs differ by {worst:.2g}"


def check_hub() -> str:
    """A checkpoint goes to a Hub and back bit for bit; the repository is deleted afterwards."""
    import torch
    from huggingface_hub import get_token

    import hub_mim
    from hub_mim.transfer import client

    if get_token() is None:
        raise NotRunError("no token; set HF_TOKEN or run `hf auth login`")
    source = next(path for path in sorted((ROOT / "model_cards").iterdir()) if path.is_dir())
    api = client()
    name = f"hub-mim-verify-{uuid.uuid4().hex[:8]}"
    try:
        pushed = hub_mim.push(source, name, private=True)
    except ConnectionError as error:
        raise NotRunError(str(error)) from error
    try:
        first = hub_mim.load(source, auto="AutoModelForPreTraining").state_dict()
        again = hub_mim.load(pushed.repository, auto="AutoModelForPreTraining", revision=pushed.commit).state_dict()
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert hub_mim.push(source, pushed.repository).changed == ()
        with tempfile.TemporaryDirectory() as folder:
            assert hub_mim.pull(pushed.repository, Path(folder) / "copy", revision=pushed.commit) == pushed.commit
    finally:
        api.delete_repo(pushed.repository)
    return f"{source.name} to {api.endpoint} and back, bit for bit"


def run(name: str, check: Callable[[], str]) -> tuple[str, str, str]:
    """Return a row of the table."""
    try:
        return name, "passed", check()
    except NotRunError as error:
        return name, "not run", str(error)
    except Exception as error:
        return name, "failed", f"{type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify what needs a network.")
    parser.add_argument("--files", type=Path, help="folder with released weights that were fetched by hand")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from hub_mim.console import print_table

    rows = [run("push, load, pull", check_hub)]
    rows += [
        run(f"{each.method}: {each.file}", lambda each=each: check_released(each, options.files)) for each in RELEASED
    ]
    rows += [run(f"{method}: {name}", lambda m=method, n=name: check_twin(m, n)) for method, name in TWINS]
    print_table(("CHECK", "STATUS", "DETAIL"), rows)
    return 1 if any(status == "failed" for _, status, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
