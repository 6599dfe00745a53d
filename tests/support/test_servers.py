"""The servers serve what they should, and count it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from support.processes import living
from support.servers import Proxy, RepoServer, own_proxy, proxy, serve

NAME = "small.cern.ch/.cvmfspublished"


def get(url: str, **options: object) -> httpx.Response:
    with httpx.Client(trust_env=False, **options) as client:  # type: ignore[arg-type]
        return client.get(url)


def test_repositories_are_served_as_they_are(repo_server: RepoServer, repos: Path) -> None:
    assert get(f"{repo_server.url}/{NAME}").content == (repos / NAME).read_bytes()
    assert get(f"{repo_server.repo('small.cern.ch')}/data/00/nothing").status_code == 404


def test_ranges_and_odd_names_are_served(repo_server: RepoServer, repos: Path) -> None:
    name = "ext/sub%20dir/three%2B%2541.txt"
    whole = get(f"{repo_server.external('external.cern.ch')}/{name}")
    assert whole.content == (repos / "external-data/external.cern.ch/ext/sub dir/three+%41.txt").read_bytes()
    variant = repo_server.with_files()
    assert get(f"{variant.external('external.cern.ch')}/{name}").content == whole.content
    part = httpx.get(
        f"{repo_server.external('external.cern.ch')}/ext/chunked.bin",
        headers={"Range": "bytes=10-19"},
        trust_env=False,
    )
    assert (part.status_code, len(part.content)) == (206, 10)
    assert variant.requests()[-1].path == "external-data/external.cern.ch/ext/sub dir/three+%41.txt"


def test_a_variant_differs_only_where_it_was_told_to(repo_server: RepoServer, repos: Path) -> None:
    objects = sorted(path.relative_to(repos).as_posix() for path in (repos / "small.cern.ch/data/00").iterdir())
    flipped, cut, gone, refused = objects[:4]
    variant = repo_server.with_files({NAME: b"not a manifest"}, missing=[gone], answers={refused: 503})
    variant.flip(flipped)
    variant.cut(cut, 10)

    assert get(f"{variant.url}/{NAME}").content == b"not a manifest"
    assert get(f"{variant.url}/{gone}").status_code == 404
    assert get(f"{variant.url}/{refused}").status_code == 503
    assert get(f"{variant.url}/{cut}").content == (repos / cut).read_bytes()[:10]
    old, new = (repos / flipped).read_bytes(), get(f"{variant.url}/{flipped}").content
    assert len(old) == len(new)
    assert [a ^ b for a, b in zip(old, new, strict=True) if a != b] == [1]
    other = "small.cern.ch/.cvmfswhitelist"
    assert get(f"{variant.url}/{other}").content == (repos / other).read_bytes()
    assert get(f"{repo_server.url}/{gone}").status_code == 200

    for path in (gone, refused, flipped, cut, NAME):
        variant.restore(path)
        assert get(f"{variant.url}/{path}").content == (repos / path).read_bytes()


def test_a_variant_can_change_while_it_is_served(repo_server: RepoServer) -> None:
    variant = repo_server.with_files({NAME: b"one"})
    assert get(f"{variant.url}/{NAME}").content == b"one"
    variant.write(NAME, b"two")
    assert get(f"{variant.url}/{NAME}").content == b"two"
    variant.answer(NAME, 404)
    assert get(f"{variant.url}/{NAME}").status_code == 404
    variant.write(NAME, b"three")
    assert get(f"{variant.url}/{NAME}").content == b"three"


def test_variants_do_not_see_each_other(repo_server: RepoServer) -> None:
    one, two = repo_server.with_files({"new": b"1"}), repo_server.with_files({"new": b"2"})
    assert (get(f"{one.url}/new").content, get(f"{two.url}/new").content) == (b"1", b"2")
    assert [(seen.method, seen.path, seen.status, seen.sent) for seen in one.requests()] == [("GET", "new", 200, 1)]


def test_every_request_is_counted_once(repo_server: RepoServer) -> None:
    variant = repo_server.with_files(answers={NAME: 500})
    for _ in range(20):
        get(f"{variant.url}/{NAME}")
    with httpx.Client(trust_env=False) as client:
        for _ in range(20):
            client.get(f"{variant.url}/small.cern.ch/.cvmfswhitelist", headers={"User-Agent": "tests"})
    seen = variant.requests()
    assert [one.status for one in seen] == [500] * 20 + [200] * 20
    assert {one.agent for one in seen[20:]} == {"tests"}


def forwards(started: Proxy, server: RepoServer) -> None:
    url = f"{server.url}/{NAME}"
    direct = get(url)
    for _ in range(3):
        answer = get(url, proxy=started.url)
        assert (answer.status_code, answer.content) == (200, direct.content)
    assert get(f"{server.url}/nothing", proxy=started.url).status_code == 404
    assert started.urls().count(url) == 3


def test_the_proxy_forwards_and_counts(repo_server: RepoServer) -> None:
    with proxy() as started:
        forwards(started, repo_server)


def test_our_own_proxy_forwards_and_counts(repo_server: RepoServer) -> None:
    with own_proxy() as started:
        forwards(started, repo_server)


def test_a_server_is_gone_after_its_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with serve(tmp_path) as server, proxy() as started:
        assert get(f"{server.url}/file", proxy=started.url).text == "x"
        home = server.home
        assert living(lambda one: str(home) in one.command or "nginx" in one.command)
    assert not living(lambda one: str(home) in one.command)
    for url in (server.url, started.url):
        with pytest.raises(httpx.ConnectError):
            get(url)
    assert not home.exists()


def test_two_servers_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with serve(tmp_path) as one, serve(tmp_path) as two:
        assert one.port != two.port
        get(f"{two.url}/file")
        assert (len(one.requests("/file")), len(two.requests("/file"))) == (0, 1)
