"""The configuration of a client, as an exporter takes it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import CHECKOUT

from shrinkwrap.cvmfs.parameters import IGNORED, USED, unknown, why_ignored
from shrinkwrap.errors import ShrinkwrapError, UsageError
from shrinkwrap.fetch.mirrors import parse_proxies
from shrinkwrap.snapshot.client import ClientSettings, client_settings

DEFAULT_CONF = """\
# Defaults of the package
CVMFS_CACHE_BASE=/var/lib/cvmfs
CVMFS_QUOTA_LIMIT=4000
CVMFS_TIMEOUT=5
CVMFS_TIMEOUT_DIRECT=10
CVMFS_CLAIM_OWNERSHIP=yes
CVMFS_KEYS_DIR=/etc/cvmfs/keys
CVMFS_PROXY_RESET_AFTER=300   # seconds
CVMFS_HOST_RESET_AFTER=1800

# Once only
if [ "x$CVMFS_BASE_ENV" = "x" ]; then
  readonly CVMFS_MOUNT_DIR=/cvmfs
  readonly CVMFS_BASE_ENV=1
fi
"""
CERN_CONF = """\
if [ "$CVMFS_CONFIG_REPO_DEFAULT_ENV" != "" ]; then
  return
fi
if [ "$CVMFS_USE_CDN" = "yes" ]; then
  CVMFS_SERVER_URL="http://cdn.example.org/cvmfs/@fqrn@"
else
  CVMFS_SERVER_URL="http://one.example.org/cvmfs/@fqrn@;http://two.example.org:8000/cvmfs/@org@"
fi
CVMFS_KEYS_DIR=/etc/cvmfs/keys/cern.ch
CVMFS_USE_GEOAPI=yes
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def installed(root: Path, files: dict[str, str], fqrn: str = "cms.cern.ch", **environ: str) -> ClientSettings:
    write(root, {f"etc/cvmfs/{name}": text for name, text in files.items()})
    variables = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    return client_settings(fqrn, root=str(root), environ=variables)


def given_file(root: Path, text: str, fqrn: str = "sft.cern.ch") -> ClientSettings:
    write(root, {"given.conf": text})
    return client_settings(fqrn, [str(root / "given.conf")], root=str(root))


# -- which files, in which order


def test_the_files_of_a_site_are_read_in_the_order_of_the_client(tmp_path: Path) -> None:
    names = [
        "default.conf",
        "default.d/10-a.conf",
        "default.d/20-b.conf",
        "default.local",
        "domain.d/cern.ch.conf",
        "domain.d/cern.ch.local",
        "config.d/cms.cern.ch.conf",
        "config.d/cms.cern.ch.local",
    ]
    files = {name: f'CVMFS_ORDER="${{CVMFS_ORDER}} {number}"\nCVMFS_LAST={name}\n' for number, name in enumerate(names)}
    extra = {"default.d/README": "A=1", "domain.d/example.org.conf": "A=1", "config.d/sft.cern.ch.conf": "A=1"}
    found = installed(tmp_path, files | extra)
    assert found.files == tuple(str(tmp_path / "etc/cvmfs" / name) for name in names)
    assert found.variables[b"CVMFS_ORDER"] == b" 0 1 2 3 4 5 6 7"
    assert found.variables[b"CVMFS_LAST"] == b"config.d/cms.cern.ch.local"
    assert b"A" not in found.variables
    assert ("CVMFS_LAST", names[-1], f"{tmp_path}/etc/cvmfs/{names[-1]}:2") in found.in_force


def test_a_configuration_like_that_of_cms(tmp_path: Path) -> None:
    found = installed(
        tmp_path,
        {
            "default.conf": DEFAULT_CONF,
            "default.local": "CVMFS_HTTP_PROXY='http://a:3128|http://b:3128;DIRECT'\nCVMFS_REPOSITORIES=cms.cern.ch\n",
            "domain.d/cern.ch.conf": CERN_CONF,
            "config.d/cms.cern.ch.conf": "export CMS_LOCAL_SITE\n",
            "config.d/cms.cern.ch.local": "export CMS_LOCAL_SITE=T1_XX_Site\n",
        },
    )
    assert found.servers == ("http://one.example.org/cvmfs/cms.cern.ch", "http://two.example.org:8000/cvmfs/cms")
    assert found.keys == ("/etc/cvmfs/keys/cern.ch",)
    assert found.variables[b"CMS_LOCAL_SITE"] == b"T1_XX_Site"
    assert found.variables[b"CVMFS_FQRN"] == b"cms.cern.ch"
    assert found.claim_ownership
    assert (found.timeout_proxy, found.timeout_direct) == (5, 10)
    assert (found.proxy_reset_after, found.host_reset_after) == (300, 1800)
    assert found.cache_dir == "/var/lib/cvmfs"
    assert (found.notes, found.unknown) == ((), ())
    config = found.source()
    assert config.proxies == "http://a:3128|http://b:3128;DIRECT"
    assert (config.timeout_direct, config.timeout_proxy) == (10, 5)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_given_list_of_files_replaces_those_of_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"etc/cvmfs/default.conf": "CVMFS_TIMEOUT=99\nCVMFS_NOT_READ=1\n"})
    write(tmp_path, {"a.conf": "CVMFS_SERVER_URL='http://h/@fqrn@'\nX=1\n", "b.local": "X=2\n", "c.local": "Y=3\n"})
    monkeypatch.chdir(tmp_path)
    found = client_settings("sft.cern.ch", ["a.conf:b.local", "c.local"], root=str(tmp_path))
    assert found.files == ("a.conf", "b.local", "c.local")
    assert found.timeout_proxy == 5
    assert found.servers == ("http://h/sft.cern.ch",)
    assert (found.variables[b"X"], found.variables[b"Y"]) == (b"2", b"3")
    assert b"CVMFS_FQRN" not in found.variables


@pytest.mark.parametrize("text", ["a.conf:missing", "missing", "a.conf:", ":a.conf", "a.conf:.", "fifo", "nul\0"])
def test_every_file_of_a_given_list_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    write(tmp_path, {"a.conf": "X=1\n"})
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be read|empty file name"):
        client_settings("sft.cern.ch", [text])


def test_given_files_are_not_shell(tmp_path: Path) -> None:
    found = given_file(tmp_path, 'A=1\nB="$A"\nif [ "$A" = "2" ]; then\nCVMFS_TIMEOUT=7\nfi\nCVMFS_USER="a#b"\n')
    assert found.variables[b"B"] == b"$A"
    assert found.timeout_proxy == 7
    assert found.variables[b"CVMFS_USER"] == b'"a'
    assert len(found.notes) == 2


def test_a_config_repository_is_used_where_it_is_mounted(tmp_path: Path) -> None:
    files = {
        "default.conf": DEFAULT_CONF,
        "default.d/50-cern.conf": "CVMFS_CONFIG_REPO_DEFAULT_ENV=\nCVMFS_CONFIG_REPOSITORY=cvmfs-config.cern.ch\n",
        "default.local": "CVMFS_HTTP_PROXY=DIRECT\nCVMFS_CONFIG_REPOSITORY=other.cern.ch\n",
        "domain.d/cern.ch.conf": CERN_CONF,
    }
    found = installed(tmp_path, files)
    assert found.keys == ("/etc/cvmfs/keys/cern.ch",)
    (note,) = found.notes
    assert "CVMFS_CONFIG_REPOSITORY is cvmfs-config.cern.ch" in note
    assert "is not used" in note

    mounted = "cvmfs/cvmfs-config.cern.ch/etc/cvmfs"
    write(
        tmp_path,
        {
            f"{mounted}/default.conf": "CVMFS_HTTP_PROXY='http://central:3128'\nCVMFS_CONFIG_REPO_DEFAULT_ENV=1\n",
            f"{mounted}/common.conf": 'if [ -z "$CVMFS_USE_CDN" ]; then CVMFS_USE_CDN=no; fi\n',
            f"{mounted}/domain.d/cern.ch.conf": 'CVMFS_USE_CDN="$CVMFS_USE_CDN"\n. ../common.conf\n'
            "CVMFS_SERVER_URL=http://central/@fqrn@\n"
            "CVMFS_KEYS_DIR=$CVMFS_MOUNT_DIR/$CVMFS_CONFIG_REPOSITORY/etc/cvmfs/keys/cern.ch\n",
            f"{mounted}/config.d/cms.cern.ch.conf": "X=$CVMFS_FQRN\n",
        },
    )
    found = installed(tmp_path, files)
    assert found.proxies == "DIRECT"  # the site's default.local comes after the repository's default.conf
    assert found.servers == ("http://central/cms.cern.ch",)
    assert found.variables[b"CVMFS_USE_CDN"] == b"no"
    assert found.variables[b"X"] == b"cms.cern.ch"
    assert found.keys == ("/cvmfs/other.cern.ch/etc/cvmfs/keys/cern.ch",)
    assert found.blacklists[-1] == str(tmp_path / mounted / "blacklist")
    assert found.notes == ()
    assert len(found.files) == 7


def test_the_environment_is_seen_by_the_files_of_the_site_only(tmp_path: Path) -> None:
    assert installed(tmp_path, {"default.conf": "A=${B:=c}\n"}, B="e").variables[b"A"] == b"e"
    assert given_file(tmp_path, "A=$PATH\n").variables[b"A"] == b"$PATH"


def test_without_any_configuration_the_message_says_what_to_give(tmp_path: Path) -> None:
    found = client_settings("sft.cern.ch", root=str(tmp_path), environ={})
    assert (found.files, found.keys, found.variables) == ((), (), {})
    with pytest.raises(UsageError, match=r"no server for sft\.cern\.ch: there is no configuration") as caught:
        found.source()
    for option in ("--server", "--key", "-f", "--storage"):
        assert option in caught.value.hint
    assert found.source(servers=["http://h/x"]).proxies == "DIRECT"
    assert found.source(servers=["http://h/x"]).timeout_direct == 10


# -- proxies


def test_no_proxy_is_an_error_as_in_the_reference(tmp_path: Path) -> None:
    for text in ("", "CVMFS_HTTP_PROXY=\n", 'CVMFS_HTTP_PROXY=""\n', "CVMFS_FALLBACK_PROXY=http://f:1\n"):
        found = given_file(tmp_path, "CVMFS_SERVER_URL=http://h/x\n" + text)
        assert found.proxies is None
        with pytest.raises(UsageError, match="CVMFS_HTTP_PROXY is not set") as caught:
            found.source()
        assert "--proxy DIRECT" in caught.value.hint
        assert "CVMFS_HTTP_PROXY=DIRECT" in caught.value.hint
        assert found.source(proxies="DIRECT").proxies == "DIRECT"
        assert found.source(storage="/srv/x").storage == "/srv/x"


def test_local_servers_need_no_proxy(tmp_path: Path) -> None:
    assert given_file(tmp_path, "CVMFS_SERVER_URL=file:///srv/x\nCVMFS_HTTP_PROXY=auto").source().proxies == "DIRECT"


def test_fall_back_proxies_take_direct_away(tmp_path: Path) -> None:
    text = "CVMFS_SERVER_URL=http://h/x\nCVMFS_HTTP_PROXY='a:1;DIRECT'\nCVMFS_FALLBACK_PROXY='f:1;DIRECT'\n"
    assert parse_proxies(given_file(tmp_path, text).source().proxies) == (("http://a:1",), ("http://f:1",))


def test_proxy_discovery_is_refused_by_file_and_line_unless_a_proxy_is_named(tmp_path: Path) -> None:
    found = given_file(tmp_path, "CVMFS_SERVER_URL=http://h/x\nCVMFS_HTTP_PROXY='auto;DIRECT'\n")
    with pytest.raises(UsageError, match=r"given.conf:2: proxy 'auto' .* not supported") as caught:
        found.source()
    assert "--proxy" in caught.value.hint
    assert found.source(proxies="http://p:1").proxies == "http://p:1"


def test_external_servers_do_not_inherit_proxies(tmp_path: Path) -> None:
    text = (
        "CVMFS_SERVER_URL=http://h/x\nCVMFS_HTTP_PROXY=http://a:1\nCVMFS_EXTERNAL_URL='http://e/;http://g;http://k'\n"
    )
    found = given_file(tmp_path, text + "CVMFS_EXTERNAL_MAX_SERVERS=2\n")
    assert found.source().external_servers == ("http://e/", "http://g")
    assert found.source().external_proxies == "DIRECT"
    text += "CVMFS_EXTERNAL_HTTP_PROXY='http://q:1;DIRECT'\nCVMFS_EXTERNAL_FALLBACK_PROXY=http://f:1\n"
    assert given_file(tmp_path, text).source().external_proxies == "http://q:1;http://f:1"


# -- what is given explicitly wins


def test_explicit_options_win(tmp_path: Path) -> None:
    found = given_file(
        tmp_path,
        "CVMFS_SERVER_URL=http://h/x\nCVMFS_HTTP_PROXY=http://a:1\nCVMFS_MAX_RETRIES=3\nCVMFS_BACKOFF_INIT=4\n"
        "CVMFS_BACKOFF_MAX=40\nCVMFS_LOW_SPEED_LIMIT=512\nCVMFS_FOLLOW_REDIRECTS=Yes\nCVMFS_TIMEOUT=20\n",
    )
    config = found.source()
    assert (config.max_retries, config.backoff_init, config.backoff_max, config.low_speed_limit) == (3, 4, 40, 512)
    assert (config.follow_redirects, config.timeout_proxy, config.timeout_direct) == (True, 20, 5)
    config = found.source(
        servers=["http://i/y"],
        proxies="http://b:1",
        external_servers=["http://e"],
        retries=0,
        timeout=2,
        redirects=False,
    )
    assert (config.servers, config.proxies, config.external_servers) == (("http://i/y",), "http://b:1", ("http://e",))
    assert (config.max_retries, config.timeout_proxy, config.timeout_direct) == (0, 2, 2)
    assert not config.follow_redirects
    with pytest.raises(UsageError, match="servers and a storage folder"):
        found.source(servers=["http://i/y"], storage="/srv")


def test_variables_of_the_configuration_hide_the_environment_and_given_ones_hide_both(tmp_path: Path) -> None:
    found = given_file(tmp_path, "A=conf\nB=conf\n")
    seen = found.environment({b"A": b"env", b"B": b"env", b"C": b"env"}, {b"A": b"given"})
    assert seen == {b"A": b"given", b"B": b"conf", b"C": b"env"}


# -- the rest of the parameters


def test_public_keys_win_over_a_folder_of_keys(tmp_path: Path) -> None:
    text = "CVMFS_KEYS_DIR=/k\nCVMFS_PUBLIC_KEY=/a.pub:/@org@.pub\n"
    assert given_file(tmp_path, text).keys == ("/a.pub", "/sft.pub")
    assert given_file(tmp_path, "CVMFS_KEYS_DIR=/k\nCVMFS_PUBLIC_KEY=\n").keys == ("/k",)


def test_without_a_word_on_keys_those_of_the_client_count(tmp_path: Path) -> None:
    keys = tmp_path / "etc/cvmfs/keys"
    write(tmp_path, {"etc/cvmfs/keys/cern.ch/one.pub": "k", "etc/cvmfs/keys/readme": ""})
    assert given_file(tmp_path, "").keys == (str(keys / "cern.ch"),)
    write(tmp_path, {"etc/cvmfs/keys/two.pub": "k"})
    assert given_file(tmp_path, "").keys == (str(keys / "cern.ch"), str(keys))
    assert given_file(tmp_path, "", "plain").keys == (str(keys),)


def test_pins_have_the_precedence_of_a_mount(tmp_path: Path) -> None:
    date = "CVMFS_REPOSITORY_DATE=2024-02-03T04:05:06Z\n"
    tag = "CVMFS_REPOSITORY_TAG=LCG_105\n"
    root = f"CVMFS_ROOT_HASH={'a' * 40}\n"
    assert given_file(tmp_path, date).pin().at == "2024-02-03T04:05:06Z"
    found = given_file(tmp_path, date + tag)
    assert (found.pin().tag, found.pin().at) == ("LCG_105", "")
    assert "CVMFS_REPOSITORY_DATE does not count: CVMFS_REPOSITORY_TAG wins" in found.notes[0]
    found = given_file(tmp_path, date + tag + root)
    assert (found.pin().root_hash, found.pin().tag, found.pin().unsigned) == ("a" * 40, "", False)
    assert len(found.notes) == 2
    assert given_file(tmp_path, "CVMFS_REPOSITORY_TAG=trunk\n").pin().follows_head
    assert given_file(tmp_path, "").pin().follows_head


@pytest.mark.parametrize("date", ["2024-02-03", "2024-02-03T04:05:06", "2024-02-03 04:05:06Z", "2024-02-30T04:05:06Z"])
def test_a_date_of_another_form_is_refused(tmp_path: Path, date: str) -> None:
    with pytest.raises(UsageError, match="2024-02"):
        given_file(tmp_path, f"CVMFS_REPOSITORY_DATE='{date}'\n")


def test_maps_are_read_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"uid.map": "0 1000\n* 99\n", "bad.map": "0\t1\n"})
    found = given_file(tmp_path, f"CVMFS_UID_MAP={tmp_path}/uid.map\n")
    assert found.uid_map is not None
    assert (found.uid_map.map(0), found.uid_map.map(5), found.gid_map) == (1000, 99, None)
    with pytest.raises(UsageError, match=r"given.conf:1: CVMFS_GID_MAP: .*gone.map cannot be read"):
        given_file(tmp_path, f"CVMFS_GID_MAP={tmp_path}/gone.map\n")
    with pytest.raises(UsageError, match=r"bad.map:1: "):
        given_file(tmp_path, f"CVMFS_GID_MAP={tmp_path}/bad.map\n")


def test_switches_numbers_and_folders(tmp_path: Path) -> None:
    found = given_file(
        tmp_path,
        "CVMFS_ALT_ROOT_PATH=on\nCVMFS_WORLD_READABLE=1\nCVMFS_CLAIM_OWNERSHIP=maybe\nCVMFS_BLACKLIST=/b\n"
        "CVMFS_CACHE_BASE=/base\nCVMFS_CACHE_DIR=/dir\nCVMFS_SERVER_URL='a;b;c'\nCVMFS_MAX_SERVERS=2\n",
    )
    assert (found.alt_root_path, found.world_readable, found.claim_ownership) == (True, True, False)
    assert any("neither yes nor no" in note for note in found.notes)
    assert (found.blacklists, found.cache_dir, found.servers) == (("/b",), "/dir", ("a", "b"))
    nothing = given_file(tmp_path, "")
    switches = (nothing.alt_root_path, nothing.world_readable, nothing.claim_ownership, nothing.follow_redirects)
    assert not any(switches)
    assert (nothing.low_speed_limit, nothing.max_retries, nothing.backoff_init, nothing.backoff_max) == (1024, 1, 2, 10)
    assert nothing.blacklists == (str(tmp_path / "etc/cvmfs/blacklist"),)


@pytest.mark.parametrize(
    "name",
    [
        "CVMFS_TIMEOUT",
        "CVMFS_TIMEOUT_DIRECT",
        "CVMFS_LOW_SPEED_LIMIT",
        "CVMFS_MAX_RETRIES",
        "CVMFS_BACKOFF_INIT",
        "CVMFS_BACKOFF_MAX",
        "CVMFS_MAX_SERVERS",
        "CVMFS_EXTERNAL_MAX_SERVERS",
        "CVMFS_PROXY_RESET_AFTER",
        "CVMFS_HOST_RESET_AFTER",
    ],
)
def test_a_number_that_is_none_is_named_with_file_and_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"given.conf:2: {name} is 'soon'"):
        given_file(tmp_path, f"\n{name}=soon\n")


def test_unknown_parameters_are_told_from_known_ones_without_a_use(tmp_path: Path) -> None:
    found = given_file(
        tmp_path,
        "CVMFS_SERVER_ULR=http://h\nCVMFS_QUOTA_LIMIT=1\nCVMFS_TRACEFILE=/t\nCVMFS_CACHE_hpc_TYPE=tiered\nOTHER=1\n",
    )
    assert found.unknown == (("CVMFS_SERVER_ULR", f"{tmp_path}/given.conf:1"),)
    assert [name for name, _ in found.ignored] == ["CVMFS_CACHE_hpc_TYPE", "CVMFS_QUOTA_LIMIT", "CVMFS_TRACEFILE"]
    assert all(why for _, why in found.ignored)
    assert [name for name, _, _ in found.in_force] == sorted(name for name, _, _ in found.in_force)
    assert len(found.in_force) == 5


def test_the_page_on_configuration_lists_the_parameters_of_the_code() -> None:
    text = (CHECKOUT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for table in (USED, IGNORED):
        for name, what in table.items():
            assert f"| `{name}` | {what} |\n" in text
    rows = [line for line in text.splitlines() if line.startswith(("| `CVMFS", "| `X509", "| `_CVMFS"))]
    assert len(rows) == len(USED) + len(IGNORED)
    assert not set(USED) & set(IGNORED)
    assert not any(unknown(name) for name in [*USED, *IGNORED])
    assert not any(why_ignored(name) for name in USED)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(USED)), st.text(alphabet="ab01/:;|@$'\"= .-yes\tDIRECT\u00e9", max_size=12)),
        max_size=8,
    )
)
def test_any_values_give_settings_or_an_error_of_our_own(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    text = "".join(f"{name}={value}\n" for name, value in pairs)
    for read in (lambda: given_file(root, text), lambda: installed(root, {"default.conf": text})):
        try:
            found = read()
            found.source()
        except ShrinkwrapError as exc:
            assert "\n" not in exc.message  # noqa: PT017
