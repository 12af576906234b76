"""Throw-away distributions with a plugin, written into a folder that is put on the path."""

METHOD = """
from hub_mim import Method, hookimpl

@hookimpl
def hub_mim_methods():
    return [Method(name={name!r}, title="a fake", paper="none", licence="mit", modalities=("none",), model_type={model_type!r},
                   config={config!r}, auto={{"AutoModel": "hub_mim_toy.modeling_toy:ToyMimModel"}},
                   example="hub_mim_toy.example:example", api_version={api_version!r})]
"""


def method_source(
    name="fake", model_type="fake_mim", config="hub_mim_toy.configuration_toy:ToyMimConfig", api_version=1
):
    return METHOD.format(name=name, model_type=model_type, config=config, api_version=api_version)


def distribution(folder, source, *, name="hub-mim-fake", version="1.2.3", entry="fake"):
    """Write a distribution whose plugin module has this source."""
    module = name.replace("-", "_") + "_plugin"
    (folder / f"{module}.py").write_text(source)
    facts = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text(f"[hub_mim]\n{entry} = {module}\n")
