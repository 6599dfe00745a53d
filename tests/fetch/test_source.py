"""The configuration of a source, and its URLs."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
from fetch.bodies import GOOD, PATH, URL, fetch_one, wanted
from fetch.conftest import QUICK
from fetch.server import Server
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.fetch import http as http_module
from shrinkwrap.fetch.mirrors import Failure
from shrinkwrap.fetch.source import (
    MAX_TRANSFERS_PER_HOST,
    SourceConfig,
    open_source,
    production_stratum1,
    stratum1_warning,
)
from shrinkwrap.fetch.urls import check_server, escape_path, expand, shown


def test_a_configuration_survives_the_way_to_a_worker() -> None:
    config = replace(QUICK, servers=("http://a/cvmfs/@fqrn@",), external_servers=("http://e",))
    assert pickle.loads(pickle.dumps(config)) == config


def test_defaults_are_those_of_the_client() -> None:
    config = SourceConfig("x.cern.ch")
    assert (config.transfers, config.max_retries, config.backoff_init, config.backoff_max) == (16, 1, 2, 10)
    assert config.patience("") == 10
    assert config.patience("http://proxy:3128") == 5
    assert config.low_speed_limit == 1024
    assert not config.follow_redirects
    assert config.proxies == config.external_proxies == "DIRECT"


def test_too_many_transfers_are_clamped_and_told(server: Server, fetcher: str) -> None:
    told: list[str] = []
    server.files[URL] = GOOD
    source = open_source(SourceConfig("x", servers=(server.url,), transfers=500), told.append)
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    source.close()
    assert len(told) == 1
    assert str(MAX_TRANSFERS_PER_HOST) in told[0]
    assert "500" in told[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": ()},
        {"servers": ("ftp://a",)},
        {"servers": ("http://",)},
        {"servers": ("a.cern.ch",)},
        {"servers": ("http://a b",)},
        {"servers": ("http://a/x?y=1",)},
        {"servers": ("http://a:port",)},
        {"servers": ("http://[::1",)},
        {"servers": ("http://ä",)},
        {"servers": ("http://a", "file:///tmp")},
        {"servers": ("file://elsewhere/tmp",)},
        {"servers": ("file:/tmp",)},
        {"external_servers": ("gopher://a",)},
        {"proxies": "auto"},
        {"external_proxies": ""},
        {"transfers": 0},
        {"timeout_direct": 0},
        {"timeout_proxy": math.inf},
        {"timeout_proxy": math.nan},
        {"low_speed_limit": -1},
        {"max_retries": -1},
        {"backoff_init": -0.5},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_at_once(wrong: dict[str, Any]) -> None:
    config = SourceConfig("x.cern.ch", **{"servers": ("http://a",), **wrong})
    with pytest.raises(UsageError):
        open_source(config)


def test_templates_in_urls_are_filled_in(server: Server, fetcher: str) -> None:
    assert expand("http://a/@org@/@fqrn@/@x@", "sft.cern.ch") == "http://a/sft/sft.cern.ch/@x@"
    server.files["/cvmfs/sft.cern.ch" + URL] = GOOD
    source = open_source(SourceConfig("sft.cern.ch", servers=(f"{server.url}/cvmfs/@fqrn@/",)))
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert source.host == f"{server.url}/cvmfs/sft.cern.ch"
    source.close()


def test_an_unknown_fetcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRINKWRAP_FETCHER", "wget")
    source = open_source(replace(QUICK, servers=("http://a",)))
    with pytest.raises(UsageError, match="wget"):
        source.fetch([])
    source.close()


def test_without_pycurl_the_other_fetcher_does(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    import sys

    monkeypatch.delenv("SHRINKWRAP_FETCHER", raising=False)
    monkeypatch.setitem(sys.modules, "pycurl", None)
    monkeypatch.delitem(sys.modules, "shrinkwrap.fetch.bulk", raising=False)
    server.files[URL] = GOOD
    source = open_source(replace(QUICK, servers=(server.url,)))
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    source.close()
    monkeypatch.setenv("SHRINKWRAP_FETCHER", "pycurl")
    source = open_source(replace(QUICK, servers=(server.url,)))
    with pytest.raises(UsageError, match="pycurl"):
        source.fetch([])
    source.close()


# -- production servers


@pytest.mark.parametrize(
    "url",
    [
        "http://cvmfs-stratum-one.cern.ch/cvmfs/sft.cern.ch",
        "http://CVMFS-Stratum-One.cern.ch:8000/cvmfs/sft.cern.ch",
        "http://cernvmfs.gridpp.rl.ac.uk:8000/cvmfs/x",
        "http://cvmfs-s1bnl.opensciencegrid.org:8000/cvmfs/x",
        "http://cvmfs-s1fnal.opensciencegrid.org:8000/cvmfs/x",
        "http://s1cern-cvmfs.openhtc.io/cvmfs/x",
        "http://cvmfsrep.grid.sinica.edu.tw:8000/cvmfs/x",
        "http://cvmfs-stratum-one.ihep.ac.cn/cvmfs/x",
        "http://aws-eu-central-s1.eessi.science/cvmfs/software.eessi.io",
    ],
)
def test_production_servers_are_known(url: str) -> None:
    assert production_stratum1(url)


@pytest.mark.parametrize(
    "url", ["http://my-stratum1.example.org/", "http://openhtc.io.evil.org", "http://127.0.0.1", "nonsense", ""]
)
def test_other_servers_are_nobodys_concern(url: str) -> None:
    assert not production_stratum1(url)
    assert stratum1_warning([url]) == ""


@pytest.mark.parametrize(
    ("proxies", "warned"), [("DIRECT", True), ("p:3128|DIRECT", True), ("p:3128", False), ("p:3128;DIRECT", False)]
)
def test_asking_production_servers_directly_is_warned_about(proxies: str, warned: bool) -> None:
    told: list[str] = []
    servers = ("http://cvmfs-stratum-one.cern.ch/cvmfs/@fqrn@",)
    open_source(SourceConfig("sft.cern.ch", servers=servers, proxies=proxies), told.append).close()
    assert [("Stratum 1" in line) for line in told] == [True] * warned


# -- URLs


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_an_escaped_path_is_harmless_and_says_the_same(path: bytes) -> None:
    from urllib.parse import unquote_to_bytes

    try:
        escaped = escape_path(path)
    except CorruptObject:
        assert b".." in path or b"\0" in path
        return
    allowed = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/:.@+-_~[],%"
    assert set(escaped) <= set(allowed)
    assert unquote_to_bytes(escaped) == path


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_either_a_server_or_a_usage_error(text: str) -> None:
    for url in (text, "http://" + text, "https://" + text, "file://" + text):
        try:
            assert check_server(url).isascii()
        except UsageError:
            continue


def test_passwords_are_not_shown() -> None:
    assert shown("http://user:secret@host:80/x@y") == "http://host:80/x@y"
    assert shown("http://host/x") == "http://host/x"


# -- statuses


@pytest.mark.parametrize(
    ("status", "proxied", "proxy_error", "failure"),
    [
        (200, False, False, None),
        (206, True, False, None),
        (302, False, False, Failure.HOST),
        (308, True, False, Failure.HOST),
        (400, True, False, Failure.HOST),
        (403, False, False, Failure.HOST),
        (403, True, False, Failure.PROXY),
        (404, False, False, Failure.MISSING),
        (404, False, True, Failure.MISSING),
        (404, True, False, Failure.MISSING),
        (404, True, True, Failure.PROXY),
        (407, True, False, Failure.PROXY),
        (416, False, False, Failure.CORRUPT),
        (429, False, False, Failure.TRANSFER),
        (500, True, False, Failure.HOST),
        (503, True, True, Failure.PROXY),
    ],
)
def test_a_status_is_judged_by_who_sent_it(
    status: int, proxied: bool, proxy_error: bool, failure: Failure | None
) -> None:
    assert http_module.judge_status(status, proxied=proxied, proxy_error=proxy_error) is failure
