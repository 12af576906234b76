"""Every call of the unmodified client that the server knows, as a user makes it."""

import io
import os
from pathlib import Path

import huggingface_hub
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfFileSystem,
    ModelCard,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    metadata_update,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from packaging.version import Version

CARD = (
    "---\nlicense: mit\nlibrary_name: hub_mim\npipeline_tag: feature-extraction\ntags: [hub-mim, toy]\n---\n# A model\n"
)
LARGE = os.urandom(2_500_000)


def read(path):
    return Path(path).read_bytes()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    (place / "sub").mkdir(parents=True)
    (place / "README.md").write_text(CARD)
    (place / "config.json").write_text('{"model_type": "toy"}')
    (place / "model.safetensors").write_bytes(LARGE)
    (place / "sub" / "empty.txt").write_text("")
    (place / "sub" / "ünï.txt").write_text("text")
    return place


@pytest.fixture
def model(api, folder):
    api.create_repo("me/model")
    return api.upload_folder(repo_id="me/model", folder_path=folder)


def test_who_am_i(api):
    assert api.whoami()["name"] == "me"


def test_create(api):
    assert api.create_repo("me/x").repo_id == "me/x"
    assert api.create_repo("x", exist_ok=True).repo_id == "me/x"
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo("me/X")
    assert api.repo_exists("me/x")
    assert not api.repo_exists("me/y")
    assert api.list_repo_files("me/x") == []


def test_upload_and_read(api, model, folder):
    names = ["README.md", "config.json", "model.safetensors", "sub/empty.txt", "sub/ünï.txt"]
    assert sorted(api.list_repo_files("me/model")) == names
    for name in names:
        assert read(hf_hub_download("me/model", name)) == (folder / name).read_bytes()
    info = api.model_info("me/model", files_metadata=True)
    assert info.sha == model.oid
    assert info.card_data.license == "mit"
    assert info.config == {"model_type": "toy"}
    sizes = {each.rfilename: (each.size, each.lfs is not None) for each in info.siblings}
    assert sizes["model.safetensors"] == (len(LARGE), True)
    assert sizes["config.json"] == (21, False)


def test_unchanged_uploads_nothing(api, model, folder):
    assert api.upload_folder(repo_id="me/model", folder_path=folder).oid == model.oid
    assert len(api.list_repo_commits("me/model")) == 2


def test_tree_and_paths(api, model):
    files = {each.path: each for each in api.list_repo_tree("me/model", recursive=True, expand=True)}
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "sub", "sub/empty.txt", "sub/ünï.txt"]
    assert files["sub"].last_commit["oid"] == model.oid
    assert [each.path for each in api.list_repo_tree("me/model", "sub")] == ["sub/empty.txt", "sub/ünï.txt"]
    told = api.get_paths_info("me/model", ["config.json", "sub", "nowhere"], expand=True)
    assert [each.path for each in told] == ["config.json", "sub"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("me/model", "nowhere"))


def test_large_trees_come_in_pages(api):
    api.create_repo("me/many")
    api.create_commit(
        "me/many",
        [CommitOperationAdd(f"f/{number:04}.txt", b"%d" % number) for number in range(1203)],
        commit_message="x",
    )
    assert len(list(api.list_repo_tree("me/many", "f"))) == 1203
    assert len(list(api.list_repo_tree("me/many", recursive=True, expand=True))) == 1204


def test_metadata_and_ranges(hub, model):
    address = hf_hub_url("me/model", "model.safetensors")
    facts = get_hf_file_metadata(address)
    assert (facts.commit_hash, facts.size) == (model.oid, len(LARGE))
    from huggingface_hub.utils import get_session

    part = get_session().get(address, headers={"Range": "bytes=100-199", "authorization": f"Bearer {hub.token}"})
    assert (part.status_code, part.content) == (206, LARGE[100:200])
    assert get_session().get(address, headers={"Range": f"bytes={len(LARGE)}-"}).status_code == 416


def test_errors_have_their_classes(api, model):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/nowhere")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/model", revision="nowhere")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "nowhere.txt")
    assert not api.file_exists("me/model", "nowhere.txt")
    assert api.revision_exists("me/model", "main")
    assert not api.revision_exists("me/model", "other")


def test_branches_and_tags(api, model):
    api.create_branch("me/model", branch="dev/x")
    api.create_branch("me/model", branch="dev/x", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("me/model", branch="dev/x")
    api.create_tag("me/model", tag="v1.0", tag_message="first", revision=model.oid[:8])
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("me/model", tag="v1.0")
    later = api.upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id="me/model", revision="dev/x")
    assert read(hf_hub_download("me/model", "config.json", revision="dev/x")) == b"new"
    assert read(hf_hub_download("me/model", "config.json", revision="v1.0")) != b"new"
    refs = api.list_repo_refs("me/model")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": model.oid, "dev/x": later.oid}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1.0", model.oid)]
    api.delete_tag("me/model", tag="v1.0")
    api.delete_branch("me/model", branch="dev/x")
    with pytest.raises(HfHubHTTPError, match="main"):
        api.delete_branch("me/model", branch="main")
    with pytest.raises(RevisionNotFoundError):
        api.delete_branch("me/model", branch="dev/x")
    assert [ref.name for ref in api.list_repo_refs("me/model").branches] == ["main"]
    assert read(hf_hub_download("me/model", "config.json", revision=later.oid)) == b"new"


def test_pull_requests(api, other, model):
    request = other.upload_file(path_or_fileobj=b"theirs", path_in_repo="a.txt", repo_id="me/model", create_pr=True)
    assert (request.pr_num, request.pr_revision) == (1, "refs/pr/1")
    other.upload_file(path_or_fileobj=LARGE[::-1], path_in_repo="b.bin", repo_id="me/model", revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError, match="403"):
        other.upload_file(path_or_fileobj=b"theirs", path_in_repo="a.txt", repo_id="me/model")
    place = snapshot_download("me/model", revision="refs/pr/1")
    assert read(f"{place}/b.bin") == LARGE[::-1]
    assert "a.txt" not in api.list_repo_files("me/model")
    pulls = api.list_repo_refs("me/model", include_pull_requests=True).pull_requests
    assert [pull.ref for pull in pulls] == ["refs/pr/1"]


def test_commits(api, model):
    operations = [
        CommitOperationDelete("sub/", is_folder=True),
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationAdd("from_file.bin", io.BytesIO(LARGE[:2_000_000])),
    ]
    made = api.create_commit(
        "me/model", operations, commit_message="Change", commit_description="Why", parent_commit=model.oid
    )
    names = ["README.md", "config.json", "copy.safetensors", "from_file.bin", "model.safetensors"]
    assert sorted(api.list_repo_files("me/model")) == names
    last = api.list_repo_commits("me/model")[0]
    assert (last.title, last.message, last.authors) == ("Change", "Why", ["me"])
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"late", path_in_repo="late.txt", repo_id="me/model", parent_commit=model.oid)
    api.delete_file("from_file.bin", "me/model")
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("from_file.bin", "me/model")
    assert api.list_repo_files("me/model", revision=made.oid) != api.list_repo_files("me/model")


@pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version("2.2"),
    reason="older clients ask huggingface.co whether a card is in order, whatever HF_ENDPOINT says",
)
def test_cards(api, model):
    card = ModelCard.load("me/model")
    card.validate()
    assert card.data.tags == ["hub-mim", "toy"]
    card.data.tags.append("more")
    card.push_to_hub("me/model")
    assert "more" in api.model_info("me/model").tags
    metadata_update("me/model", {"license": "apache-2.0"}, overwrite=True)
    assert api.model_info("me/model").card_data.license == "apache-2.0"
    with pytest.raises(ValueError, match="tags"):
        api.upload_file(path_or_fileobj=b"---\ntags: 3\n---\n", path_in_repo="README.md", repo_id="me/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id="me/model")


def test_lists(api, other, model):
    for number in range(5):
        api.create_repo(f"me/extra-{number}")
    other.create_repo("you/model")
    assert [each.id for each in api.list_models(filter="hub-mim")] == ["me/model"]
    assert [each.id for each in api.list_models(filter=["hub-mim", "license:mit"])] == ["me/model"]
    assert list(api.list_models(filter=["hub-mim", "license:x"])) == []
    assert [each.id for each in api.list_models(author="you")] == ["you/model"]
    assert {each.id for each in api.list_models(search="MODEL")} == {"me/model", "you/model"}
    assert [each.id for each in api.list_models(pipeline_tag="feature-extraction")] == ["me/model"]
    newest = [each.id for each in api.list_models(sort="created_at")]
    assert newest[0] == "you/model"
    assert len(newest) == 7
    assert len(list(api.list_models(limit=3))) == 3
    assert next(iter(api.list_models(filter="hub-mim", cardData=True))).card_data.license == "mit"
    assert list(api.list_datasets()) == []


def test_lists_come_in_pages(api, hub):
    from huggingface_hub.utils import paginate

    for number in range(5):
        api.create_repo(f"me/r{number}")
    found = [each["id"] for each in paginate(f"{hub.endpoint}/api/models", {"limit": 2}, {})]
    assert sorted(found) == [f"me/r{number}" for number in range(5)]


def test_private(api, other, hub, model):
    api.update_repo_settings("me/model", private=True)
    assert [each.id for each in api.list_models()] == ["me/model"]
    for stranger in (other, hub.api(False)):
        assert list(stranger.list_models()) == []
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("me/model")
        with pytest.raises(RepositoryNotFoundError):
            get_hf_file_metadata(hf_hub_url("me/model", "config.json"), token=stranger.token)
    api.update_repo_settings("me/model", private=False)
    assert other.model_info("me/model").id == "me/model"
    api.create_repo("me/secret", private=True)
    assert not other.repo_exists("me/secret")


def test_others_may_not_change(api, other, hub, model):
    for call in (
        lambda: other.create_repo("me/theirs"),
        lambda: other.delete_repo("me/model"),
        lambda: other.move_repo("me/model", "you/model"),
        lambda: other.update_repo_settings("me/model", private=True),
        lambda: other.create_tag("me/model", tag="x"),
        lambda: other.delete_file("config.json", "me/model"),
    ):
        with pytest.raises(HfHubHTTPError, match="403"):
            call()
    with pytest.raises(HfHubHTTPError, match="401"):
        hub.api(False).create_repo("me/nobody")
    with pytest.raises(HfHubHTTPError, match="401"):
        hub.api("hf_wrong").model_info("me/model")


def test_move_and_delete(api, model):
    api.move_repo("me/model", "me/renamed")
    assert api.model_info("me/renamed").sha == model.oid
    assert api.model_info("me/model").id == "me/renamed"  # the old name leads on
    api.create_repo("me/model")
    assert api.model_info("me/model").id == "me/model"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.move_repo("me/renamed", "me/model")
    api.delete_repo("me/renamed")
    api.delete_repo("me/renamed", missing_ok=True)
    assert not api.repo_exists("me/renamed")


def test_file_system(api, hub, model):
    files = HfFileSystem(endpoint=hub.endpoint, token=hub.token)
    assert "me/model/config.json" in files.ls("me/model", detail=False)
    assert files.cat("me/model/config.json") == b'{"model_type": "toy"}'
    with files.open("me/model/model.safetensors", "rb") as file:
        file.seek(1000)
        assert file.read(100) == LARGE[1000:1100]
    with files.open("me/model/written.txt", "wb") as file:
        file.write(b"written")
    assert files.cat("me/model/written.txt") == b"written"


def test_datasets(api, tmp_path):
    rows = Dataset.from_dict({"x": list(range(100)), "y": [f"row {number}" for number in range(100)]})
    rows.push_to_hub("me/rows")
    assert load_dataset("me/rows", split="train", cache_dir=str(tmp_path / "datasets"))[:] == rows[:]
    streamed = load_dataset("me/rows", split="train", streaming=True)
    assert [row["x"] for row in streamed] == list(range(100))
    assert [each.id for each in api.list_datasets()] == ["me/rows"]
    assert not api.repo_exists("me/rows")  # a dataset is no model
    assert api.dataset_info("me/rows").id == "me/rows"


def test_models_of_transformers_are_pushed_and_loaded(api, tmp_path):
    from transformers import AutoModel, BertConfig, BertModel

    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    model = BertModel(config)
    model.push_to_hub("me/bert", max_shard_size="8KB")
    assert sum(name.endswith(".safetensors") for name in api.list_repo_files("me/bert")) > 1
    again = AutoModel.from_pretrained("me/bert").state_dict()
    assert all((again[name] == tensor).all() for name, tensor in model.state_dict().items())
    model.push_to_hub("me/bert", revision="dev")
    assert AutoModel.from_pretrained("me/bert", revision="dev").config.hidden_size == 16
