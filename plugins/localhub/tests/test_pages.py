"""The two pages, as a browser gets them."""

import re
import shutil
import subprocess

import pytest
from huggingface_hub.utils import get_session

CARD = """---
license: mit
library_name: hub_mim
tags: [hub-mim, toy]
---
# A small model

![masked](masked.png)

| measure | value |
|---|---|
| loss | 0.25 |
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def filled(api, hub):
    for name in ("first", "second <b>"[:6], "third"):
        api.create_repo(f"me/{name}")
        api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=f"me/{name}")
    api.upload_file(path_or_fileobj=b"\x89PNG", path_in_repo="masked.png", repo_id="me/first")
    api.create_repo("me/rows", repo_type="dataset")
    api.create_tag("me/first", tag="v1")
    return hub


def get(hub, place, **query):
    return get_session().get(hub.endpoint + place, params=query or None, follow_redirects=True)


def test_the_list_and_its_search(filled):
    page = get(filled, "/")
    assert page.status_code == 200
    assert re.findall(r'class="name" href="([^"]+)"', page.text) == ["/me/first", "/me/third", "/me/second"]
    assert re.findall(r'class="name" href="([^"]+)"', get(filled, "/models", search="THIRD").text) == ["/me/third"]
    assert len(re.findall(r'class="name"', get(filled, "/models", filter="hub-mim").text)) == 3
    assert "Nothing found" in get(filled, "/models", search='"><script>alert(1)</script>').text
    assert "<script" not in get(filled, "/models", search='"><script>alert(1)</script>').text
    assert "/datasets/me/rows" in get(filled, "/datasets").text
    assert get(filled, "/models", cursor="x").status_code == 400


def test_a_repository(filled):
    page = get(filled, "/me/first")
    assert page.status_code == 200
    assert "<h1>A small model</h1>" in page.text
    assert 'src="/me/first/resolve/main/masked.png"' in page.text
    assert "import hub_mim\nfrom transformers import AutoModel" in page.text
    assert "AutoModel.from_pretrained(&#34;me/first&#34;)" in page.text
    assert f"export HF_ENDPOINT={filled.endpoint}" in page.text
    assert "tags/v1" in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "load_dataset" in get(filled, "/datasets/me/rows").text
    assert get(filled, "/me/nowhere").status_code == 404
    assert get(filled, "/style.css").headers["Content-Type"].startswith("text/css")


def test_old_lists_are_a_page_further(api, hub):
    for number in range(51):
        api.create_repo(f"me/r{number}")
    first = get(hub, "/models")
    following = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert following is not None
    assert 'href="/me/r0"' not in first.text
    assert 'href="/me/r0"' in get(hub, "/models" + following[1].replace("&amp;", "&")).text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("place", ["/models", "/me/first"])
def test_a_browser_shows_them(filled, tmp_path, place):
    """Nothing of the page is blocked by its own policy, and a picture of it can be taken."""
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,900",
             f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]  # fmt: skip
    told = subprocess.run([CHROMIUM, *flags, filled.endpoint + place], capture_output=True, text=True, timeout=60)
    assert picture.stat().st_size > 5000
    assert "Content Security Policy" not in told.stderr
