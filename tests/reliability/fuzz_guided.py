"""Coverage-guided fuzzing (atheris) of one reader that is ours: `python fuzz_guided.py READER -runs=20000`.

Only our own modules are instrumented: what numpy, torch and safetensors do with bytes is theirs to fuzz. A crash leaves its input
beside; put it into `corpus/READER/`, where every later test reads it.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

OURS = ["hub_mim", "hub_mim_regions", "hub_mim_bandana", "hub_mim_localhub", "hub_mim_remasker"]

with atheris.instrument_imports(include=OURS):
    import hub_mim.cards
    import hub_mim.checkpoints
    import hub_mim.evaluation
    import hub_mim.loading
    import hub_mim.reading
    import hub_mim.run
    import hub_mim.typed
    import hub_mim.unpacking
    import hub_mim.weights  # noqa: F401

    try:
        import hub_mim_bandana.reading  # noqa: F401
        import hub_mim_localhub.metadata  # noqa: F401
        import hub_mim_regions.readers  # noqa: F401
    except ImportError:  # their readers are not there to be fuzzed
        pass

sys.path.insert(0, str(Path(__file__).parent))
from readers import MAKERS  # noqa: E402


def main() -> None:
    """Fuzz the reader that is named first; the rest goes to libFuzzer."""
    reader = MAKERS[sys.argv.pop(1)]()
    with tempfile.TemporaryDirectory() as place:
        folder, seeds = Path(place) / "folder", Path(place) / "seeds"
        seeds.mkdir()
        for path, content in reader.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        (seeds / "valid").write_bytes(reader.valid)
        target = folder / reader.target

        def read(content: bytes) -> None:
            target.write_bytes(content)
            with suppress(*reader.errors):
                reader.read(folder)

        atheris.Setup([sys.argv[0], "-rss_limit_mb=6000", "-timeout=60", *sys.argv[1:], str(seeds)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
