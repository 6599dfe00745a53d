"""``cvmfs_shrinkwrap``: the options of the original on top of our export (FORMAT.md §10.1, docs/drop-in.md)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from shrinkwrap import __version__
from shrinkwrap.cli import options as opt
from shrinkwrap.cli import output
from shrinkwrap.cli.main import open_standard_streams
from shrinkwrap.cli.output import say
from shrinkwrap.errors import DestinationError, Interrupted, ShrinkwrapError, UsageError

if TYPE_CHECKING:
    from shrinkwrap.snapshot.view import Node
    from shrinkwrap.tree.request import ExportRequest, ExportResult

PROGRAM: Final = "cvmfs_shrinkwrap"
#: The original knows no other number for what went wrong.
FAILED: Final = 1

#: Rows of the table of statistics, in its order: by name.
STATISTICS: Final = {
    "cntByte": "bytes of the files that the specification selects",
    "cntDir": "directories that it selects",
    "cntFile": "files that it selects",
    "cntSymlink": "symbolic links that it selects",
    "dataBytes": "bytes brought from the repository and stored",
    "dataBytesDeduped": "bytes of new paths that were stored already",
    "dataFiles": "files newly stored",
    "dataFilesDeduped": "new paths whose file was stored already",
    "entriesDest": "paths of the destination that were dealt with",
    "entriesSrc": "paths of the repository that were dealt with",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {PROGRAM} --help")


def parser() -> argparse.ArgumentParser:
    """The options of the original, long and short, with its defaults."""
    made = _Parser(
        prog=PROGRAM,
        description="Export what a specification selects of a CernVM-FS repository. Takes the options of the original"
        " cvmfs_shrinkwrap; 'shrinkwrap export' has more.",
        epilog="Exit codes: 0 done, 1 anything else. What differs from the original: docs/drop-in.md.",
    )
    add = made.add_argument
    add("-r", "--repo", default="", metavar="FQRN", help="repository, e.g. sft.cern.ch")
    add("-s", "--src-type", default="cvmfs", metavar="TYPE", help="kind of the source (cvmfs)")
    add("-b", "--src-base", default="/cvmfs", metavar="DIR", help="without effect, as in the original")
    add("-c", "--src-cache", default="", metavar="DIR", help="accepted; catalogs are kept in the destination")
    add(
        *("-f", "--src-config"),
        default="cvmfs.conf:cvmfs.local",
        metavar="FILE[:FILE]",
        help="configuration of the source; all files must exist (cvmfs.conf:cvmfs.local)",
    )
    add("-d", "--dest-type", default="posix", metavar="TYPE", help="kind of the destination (posix)")
    add("-x", "--dest-base", default="/export/cvmfs", metavar="DIR", help="destination (/export/cvmfs)")
    add("-y", "--dest-cache", default="", metavar="DIR", help="store, which destinations may share (<base>/.data)")
    add("-z", "--dest-config", default="", metavar="FILE", help="an error: the destination has no configuration")
    add("-t", "--spec-file", default="", metavar="FILE", help="paths to export (<repo>.spec)")
    add(
        *("-j", "--threads"),
        default=0,
        type=_number,
        metavar="N",
        help="transfers in flight, at most 32 (0: twice the number of CPUs)",
    )
    add(
        *("-p", "--stat-period"),
        default=10,
        type=_number,
        metavar="SECONDS",
        help="between prints of the statistics; 0: none before the last (10)",
    )
    add("-g", "--gc", action="store_true", help="remove stored files that nothing needs any more")
    add("--version", action="version", version=f"shrinkwrap {__version__}")
    add("surplus", nargs="*", help=argparse.SUPPRESS)
    return made


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def run() -> None:
    """Entry point of the console script."""
    open_standard_streams()
    output.json_command = None  # the original has no such option
    sys.exit(_run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    """Run a command line; its exit code: 0 or :data:`FAILED`."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        main(words)
        return 0
    except ShrinkwrapError as exc:
        output.fail(exc, PROGRAM)
    except KeyboardInterrupt:
        output.fail(Interrupted("interrupted", hint="what came is kept; the next run goes on from there"), PROGRAM)
    except OSError as exc:
        what = os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes) else "output"
        output.fail(DestinationError(f"{what}: {exc.strerror or exc}"), PROGRAM)
    except Exception as exc:  # noqa: BLE001 - one clear line in any case
        traceback.print_exc()
        output.fail(ShrinkwrapError(f"internal error: {type(exc).__name__}: {exc}", hint="please report it"), PROGRAM)
    return FAILED


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM is Ctrl-C by other means."""
    raise KeyboardInterrupt


def main(words: list[str]) -> None:
    """What the command does.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`.
        SystemExit: after ``--help`` and ``--version``, with 0.
    """
    from shrinkwrap.tree.export import export

    given = parser().parse_intermixed_args(words)
    for word in given.surplus:
        say(f"note: {word} is no option and is left out, as in the original")
    request, notes = _request(given)
    table = Table(given.stat_period)
    for line in notes:
        say(f"note: {line}")
    result = export(request, table.hooks)
    for line in result.warnings()[len(result.notices) :]:
        say(f"warning: {line}")
    table.last(result)


def _request(given: argparse.Namespace) -> tuple[ExportRequest, list[str]]:
    """The export that is asked for, and what people should know of it. Raises UsageError, SpecError."""
    from shrinkwrap.snapshot.repository import Pin
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.tree.request import ExportRequest

    _refuse(given)
    whence = opt.Whence(
        repo=given.repo,
        files=[given.src_config],
        servers=None,
        storage=None,
        proxy=None,
        external=None,
        keys=None,
        blacklists=None,
        transfers=_transfers(given.threads),
    )
    settings = whence.settings()
    source = whence.source(settings)
    spec = read_files([given.spec_file or f"{given.repo}.spec"], rules="2.14")
    request = ExportRequest(
        source=source,
        keys=whence.master_keys(settings),
        spec=spec,
        dest=given.dest_base,
        store=given.dest_cache,
        pin=opt.pin_of(Pin(), settings),
        variables=settings.environment(os.environb, {}),
        claim=settings.claim_ownership,
        uid_map=settings.uid_map,
        gid_map=settings.gid_map,
        world_readable=settings.world_readable,
        blacklist=whence.blacklist(settings),
        marker=True,
        adopt=True,
        gc=given.gc,
    )
    return request, [*opt.notes(settings), *spec.warnings]


def _refuse(given: argparse.Namespace) -> None:
    """What is not possible. Raises UsageError."""
    if given.src_type == "posix":
        raise UsageError(
            "-s posix: a folder has no content hashes, so no file of it could be exported",
            hint="leave -s out; the original leaves out every file then, without a word",
        )
    if given.src_type != "cvmfs":
        raise UsageError(f"-s {given.src_type}: unknown kind of source", hint="only cvmfs is possible")
    if given.dest_type != "posix":
        raise UsageError(f"-d {given.dest_type}: unknown kind of destination", hint="only posix is possible")
    if given.dest_config:
        raise UsageError(f"-z {given.dest_config}: a posix destination has no configuration", hint="leave -z out")
    if not given.dest_base:
        raise UsageError("-x is empty: no destination", hint="-x DIR; is a variable not set?")


def _transfers(threads: int) -> int:
    from shrinkwrap.fetch.source import MAX_TRANSFERS_PER_HOST

    return min(threads or 2 * (os.cpu_count() or 1), MAX_TRANSFERS_PER_HOST)


class Table:
    """The statistics of the original, as text: ``name|value|description`` (FORMAT.md §10.6).

    While an export runs its rows tell how far it has come, every ``period`` seconds (0: never).
    """

    def __init__(self, period: int) -> None:
        from shrinkwrap.tree.request import Hooks

        self._period = period
        self._printed = time.monotonic()
        self._values = dict.fromkeys(STATISTICS, 0)
        self.hooks = Hooks(notice=lambda line: say(f"note: {line}"), node=self._node, objects=self._objects)

    def _node(self, node: Node) -> None:
        if not node.path:
            return  # the original does not count the root
        values = self._values
        values["entriesSrc"] += 1
        values["entriesDest"] += 1
        if node.content is not None:
            values["cntFile"] += 1
            values["cntByte"] += node.content.size
        else:
            values["cntDir" if node.kind == "d" else "cntSymlink"] += 1
        if not values["entriesSrc"] & 0xFF:
            self._show()

    def _objects(self, done: int, received: int, written: int) -> None:
        if written:
            self._values["dataFiles"] += done
            self._values["dataBytes"] += written
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if self._period and now - self._printed >= self._period:
            self._printed = now
            _print(_rows(self._values))

    def last(self, result: ExportResult) -> None:
        """The whole table, for an export that has ended."""
        counts, left_out = result.counts, result.report.counts
        files, links = counts.get("files", 0), counts.get("symlinks", 0)
        dirs = max(0, counts.get("dirs", 0) - 1)
        written = result.bytes.get("written", 0)
        stored = counts.get("fetched", 0) + counts.get("derived", 0)
        values = {
            "cntByte": counts.get("bytes", 0),
            "cntDir": dirs,
            "cntFile": files,
            "cntSymlink": links,
            "dataBytes": written,
            "dataBytesDeduped": max(0, counts.get("placed_bytes", 0) - written),
            "dataFiles": stored,
            "dataFilesDeduped": max(0, counts.get("placed", 0) - stored),
            "entriesDest": files + dirs + links + counts.get("removed", 0),
            "entriesSrc": files + dirs + links + left_out.get("special_file", 0) + left_out.get("empty_link_target", 0),
        }
        _print("Name|Value|Description\n" + _rows(values))


def _rows(values: dict[str, int]) -> str:
    return "".join(f"{name}|{values[name]}|{words}\n" for name, words in STATISTICS.items())


def _print(text: str) -> None:
    """On standard output. Nobody reading it is no reason to break off the work."""
    try:
        print(text, flush=True)
    except OSError:
        output.give_up(sys.stdout)
