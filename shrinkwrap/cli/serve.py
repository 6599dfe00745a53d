"""``shrinkwrap serve``: repositories in local folders over HTTP."""

from __future__ import annotations

import os
import shlex
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say, size

if TYPE_CHECKING:
    from shrinkwrap.publish.serve import Server

_EXAMPLES = """\b
Examples:
  shrinkwrap serve srv
  shrinkwrap serve srv/demo.example.org --port 8000
  shrinkwrap serve srv/demo.example.org /srv/cvmfs/sft.cern.ch --port 0 --json
"""


def register(app: typer.Typer) -> None:
    app.command("serve", epilog=_EXAMPLES)(serve)


def serve(
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR", help="A repository's storage, or a folder with several.")
    ],
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen at; 0: any that is free.")
    ] = 8080,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="Address of this machine to listen at.")
    ] = "127.0.0.1",
    as_json: opt.Json = False,
) -> None:
    """Serve repositories over HTTP until Ctrl-C, at /NAME/ and /cvmfs/NAME/: for demos and tests.

    This is no production server; docs/serving.md has the configuration of one. With --json the first line has the URLs,
    the last one what was served.
    """
    from shrinkwrap.publish.serve import serving

    with serving(folders, bind=bind, port=port) as server:
        with suppress(KeyboardInterrupt):  # that is how it ends well
            _announce(server, as_json=as_json)
            threading.Event().wait()
        counts = server.counts()
    if as_json:
        print_json(
            {
                "command": "serve",
                "connections": counts.connections,
                "requests": counts.requests,
                "refused": counts.refused,
                "bytes": counts.sent,
                "reason": "done",
                "exit_code": 0,
            }
        )
        return
    say(f"stopped after {counts.requests} requests, {size(counts.sent)} sent")


def _announce(server: Server, *, as_json: bool) -> None:
    if as_json:
        served = [
            {"fqrn": fqrn, "url": server.url(fqrn), "storage": storage} for fqrn, storage in server.storages.items()
        ]
        print_json({"command": "serve", "url": server.address, "port": server.port, "repositories": served})
        return
    number = len(server.storages)
    print(f"serving {number} repositor{'y' if number == 1 else 'ies'} at {server.address}; Ctrl-C stops")
    for fqrn, storage in server.storages.items():
        print(clean(f"  {server.url(fqrn)}    {storage}"))
    fqrn, storage = next(iter(server.storages.items()))
    source = f"-r {fqrn} --server {server.url(fqrn)} --key {shlex.quote(public_key(fqrn, storage))}"
    print("try, in another terminal:")
    print(clean(f"  shrinkwrap ls {source} /"))
    print(clean(f"  echo '/*' > all.spec && shrinkwrap export {source} -t all.spec -z export"))
    print("This server is for demos and tests; docs/serving.md has one for production.", flush=True)


def public_key(fqrn: str, storage: str) -> str:
    """The master public key where the publisher puts it, else a word for it."""
    beside = os.path.join(os.path.dirname(storage), "keys", f"{fqrn}.pub")
    return beside if os.path.isfile(beside) else "FILE.pub"
