"""Several clients at once: one writer wins, readers see whole commits only."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError


def test_of_two_writers_one_wins_and_the_other_can_retry(api):
    api.create_repo("me/x")
    head = api.model_info("me/x").sha
    barrier = threading.Barrier(4)

    def write(number):
        operation = CommitOperationAdd(f"{number}.txt", b"%d" % number)
        barrier.wait()
        try:
            return api.create_commit("me/x", [operation], commit_message=str(number), parent_commit=head)
        except HfHubHTTPError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(write, range(4)))
    lost = [each for each in told if isinstance(each, HfHubHTTPError)]
    assert len(lost) == 3
    assert all(each.response.status_code == 412 for each in lost)
    for number, each in enumerate(told):
        if isinstance(each, HfHubHTTPError):
            api.upload_file(path_or_fileobj=b"%d" % number, path_in_repo=f"{number}.txt", repo_id="me/x")
    assert sorted(api.list_repo_files("me/x")) == [f"{number}.txt" for number in range(4)]


def test_readers_never_see_half_of_a_commit(api):
    """Two files are always written together, with the same content."""
    api.create_repo("me/x")
    stop = threading.Event()
    seen, wrong = set(), []

    def read():
        while not stop.is_set():
            told = api.model_info("me/x", files_metadata=True)
            files = {each.rfilename: each.blob_id for each in told.siblings}
            if files:
                seen.add(told.sha)
                if files.get("a") != files.get("b"):
                    wrong.append(files)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(15):
        content = os.urandom(20)
        api.create_commit("me/x", [CommitOperationAdd(name, content) for name in "ab"], commit_message="both")
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(seen) > 1


def test_two_uploads_of_one_large_file(api):
    content = os.urandom(3_000_000)
    for name in "ab":
        api.create_repo(f"me/{name}")
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda name: api.upload_file(path_or_fileobj=content, path_in_repo="w.bin", repo_id=f"me/{name}"), "ab"
            )
        )
    for name in "ab":
        assert api.model_info(f"me/{name}", files_metadata=True).siblings[0].size == len(content)


def test_a_new_name_is_given_once(api):
    def create(_):
        try:
            return api.create_repo("me/same")
        except HfHubHTTPError as error:
            return error.response.status_code

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(create, range(4)))
    assert sorted(map(str, told)).count("409") == 3
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/same")
