"""Find what is broken in this environment: libraries, plugins, torchvision; `hub-mim doctor` prints it."""

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from hub_mim.method import Method

LIBRARIES = ("hub-mim", "torch", "transformers", "accelerate", "datasets", "huggingface-hub", "peft", "safetensors")
TRANSFORMERS = ((5, 23), (6, 0))  # the range that pyproject.toml declares


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, in words, and what to do if it is not well."""

    level: Literal["ok", "warn", "error"]
    text: str
    advice: str = ""


def diagnose() -> list[Finding]:
    """Look at everything; nothing is changed, and nothing that is broken stops the rest."""
    found = [Finding("ok", f"python {platform.python_version()} at {sys.prefix}"), *_libraries()]
    found += _torchvision()
    found += _accelerator()
    return found + _plugins()


def _libraries() -> list[Finding]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(Finding("ok", f"{name} {version(name)}"))
        except PackageNotFoundError:
            found.append(Finding("error", f"{name} is not installed", f"pip install {name}"))
    (low, high), text = TRANSFORMERS, _version("transformers")
    if text and not low <= tuple(int(part) for part in text.split(".")[:2]) < high:
        advice = f"pip install 'transformers>={low[0]}.{low[1]},<{high[0]}'"
        found.append(Finding("error", f"transformers {text} is outside the range that hub-mim was made for", advice))
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torchvision() -> list[Finding]:
    """Import torchvision in a process of its own: transformers believes its metadata, whether it works or not."""
    if _version("torchvision") is None:
        return [Finding("ok", "torchvision is not installed; images are processed with Pillow")]
    told = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    if told.returncode == 0:
        return [Finding("ok", f"torchvision {_version('torchvision')}")]
    reason = told.stderr.strip().splitlines()[-1] if told.stderr.strip() else f"exit code {told.returncode}"
    return [
        Finding(
            "error",
            f"torchvision {_version('torchvision')} is installed but cannot be imported ({reason}); most of transformers "
            "fails because of it",
            "install the torchvision that fits this torch, uninstall it, or set HUB_MIM_NO_TORCHVISION=1",
        )
    ]


def _accelerator() -> list[Finding]:
    if _version("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        return [Finding("ok", f"{torch.cuda.device_count()} GPU: {torch.cuda.get_device_name(0)}")]
    if torch.backends.mps.is_available():
        return [Finding("ok", "Apple GPU (mps)")]
    return [Finding("ok", f"no GPU; CPU with {torch.get_num_threads()} threads")]


def _plugins() -> list[Finding]:
    from hub_mim import plugins, registry

    found = []
    for name, method in plugins.methods().items():
        distribution, number = plugins.origin(name)
        wrong = unresolved(method)
        try:
            registry.register_method(method)
        except Exception as error:
            wrong = wrong or [str(error)]
        for sentence in wrong:
            advice = f"update or uninstall {distribution}, or set HUB_MIM_DISABLE={name}"
            found.append(Finding("error", f"{name} ({distribution} {number}): {sentence}", advice))
        if not wrong:
            found.append(Finding("ok", f"{name} ({distribution} {number})"))
    for broken in plugins.broken():
        text = (
            f"{broken.name} ({broken.distribution} {broken.version}) is set apart: {broken.error}\n{broken.traceback}"
        )
        found.append(
            Finding("error", text, f"update or uninstall {broken.distribution}, or set HUB_MIM_DISABLE={broken.name}")
        )
    return found or [Finding("warn", "no plugin is installed", "pip install hub-mim-remasker, for example")]


def unresolved(method: Method) -> list[str]:
    """Import everything that a method names, and say what does not resolve."""
    from hub_mim.method import resolve

    wrong = []
    for place, string in method.strings():
        try:
            resolve(string)
        except ValueError as error:
            wrong.append(f"{place}: {error}")
    return wrong
