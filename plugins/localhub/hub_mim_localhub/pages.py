"""Two plain pages for people, without JavaScript: the list of repositories, and one with its card, files and snippet."""

from functools import cache
from typing import Any
from urllib.parse import quote, urljoin

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hub_mim_localhub import metadata
from hub_mim_localhub.asking import hub_of, kind_of, number, repository_of, user_of
from hub_mim_localhub.errors import HubError
from hub_mim_localhub.hub import Hub
from hub_mim_localhub.repositories import Repository

PAGE = 50
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(
        loader=PackageLoader("hub_mim_localhub"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def _render(template: str, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_templates().get_template(template).render(**values), status, HEADERS)


def listed(request: Request) -> Response:
    """Show the repositories that anyone may see, newest first, with a search."""
    search, tag = request.query_params.get("search", "")[:200], request.query_params.get("filter", "")[:200]
    start, kind = number(request, "cursor", 0, 10**9), kind_of(request)
    wanted = {"search": search, "filter": [tag] if tag else []}
    found, more = hub_of(request).repositories.listed(kind, user_of(request), wanted, "lastModified", True, start, PAGE)
    following = request.url.include_query_params(cursor=start + PAGE).query if more else ""
    return _render("list.html", kind=kind, found=found, search=search, tag=tag, following=following, start=start)


def shown(request: Request) -> Response:
    """Show one repository: what to type, its card, its files."""
    hub = hub_of(request)
    try:
        repository = repository_of(request)
    except HubError as error:
        return _render("missing.html", error.status, message=error.message)
    commit = hub.history.resolve(repository, "main")
    files = hub.history.files(repository, commit)
    place = f"/{quote(repository.place)}"
    return _render(
        "repository.html",
        repository=repository,
        commit=commit,
        commits=hub.history.commits(repository, commit, 0, 5)[0],
        refs=sorted(name.split("/", 1)[1] for name in hub.history.refs(repository) if not name.endswith("/main")),
        files={path: (file, f"{place}/resolve/main/{quote(path)}") for path, file in files.items()},
        snippet=_snippet(repository),
        card=render_card(_card(hub, files), f"{place}/resolve/main/"),
        endpoint=str(request.base_url).rstrip("/"),
    )


def _snippet(repository: Repository) -> str:
    if repository.kind == "dataset":
        return f'from datasets import load_dataset\n\nrows = load_dataset("{repository.id}")'
    first = "import hub_mim\n" if "hub-mim" in repository.tags else ""
    return f'{first}from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{repository.id}")'


def _card(hub: Hub, files: Any) -> str:
    file = files.get("README.md")
    content = None if file is None else hub.objects.read(file.sha256, metadata.MAX_CARD)
    return "" if content is None else metadata.split_card(content.decode("utf-8", "replace"))[1]


def render_card(text: str, place: str) -> str:
    """Return Markdown as HTML that can do no harm: no scripts, no styles, no frames, pictures from this Hub only.

    Args:
        text: Markdown by anyone.
        place: address that relative links and pictures begin from.
    """
    import nh3
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def attribute(tag: str, name: str, value: str) -> str | None:
        if name not in ("href", "src"):
            return value
        address = value if value.startswith("#") else urljoin(place, value) if _relative(value) else value
        return address if tag != "img" or address.startswith(place) else None

    return nh3.clean(
        html,
        attributes={"a": {"href", "title"}, "img": {"src", "alt", "title"}, "th": {"align"}, "td": {"align"}},
        attribute_filter=attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )


def _relative(value: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return not parts.scheme and not parts.netloc


def style(request: Request) -> Response:
    """Give the one style sheet."""
    from importlib.resources import files

    text = (files("hub_mim_localhub") / "templates" / "style.css").read_text(encoding="utf-8")
    return Response(text, media_type="text/css", headers=HEADERS | {"Cache-Control": "max-age=3600"})


def home(request: Request) -> Response:
    """Lead to the list of models."""
    return RedirectResponse("/models", headers=HEADERS)


def commit(request: Request) -> Response:
    """Lead from the address of a commit, as uploads print it, to the repository's page."""
    return RedirectResponse(f"/{quote(repository_of(request).place)}", headers=HEADERS)


def routes() -> list[Route]:
    """Return the addresses of the pages."""
    return [
        Route("/", home, methods=["GET"]),
        Route("/style.css", style, methods=["GET"]),
        Route("/models", listed, methods=["GET"]),
        Route("/datasets", listed, methods=["GET"]),
        Route("/datasets/{owner}/{name}", shown, methods=["GET"]),
        Route("/datasets/{owner}/{name}/commit/{revision}", commit, methods=["GET"]),
        Route("/{owner}/{name}", shown, methods=["GET"]),
        Route("/{owner}/{name}/commit/{revision}", commit, methods=["GET"]),
    ]
