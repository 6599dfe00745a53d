"""Progress: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shrinkwrap.cli.output import clean, say, size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from shrinkwrap.tree.request import ExportResult


class Progress:
    """Shows how an export gets on.

    Args:
        period: seconds between lines where there is no terminal; 0: none.
        quiet: show nothing.
    """

    def __init__(self, *, period: float, quiet: bool) -> None:
        from shrinkwrap.tree.request import Hooks

        self._period = period
        self._quiet = quiet
        self._start = self._last = time.monotonic()
        self._phase = ""
        self._paths = self._expected = self._wanted = self._done = self._received = 0
        self._bars: Bars | None = None
        self._task: Any = None
        if quiet:
            self.hooks = Hooks()
        else:
            self.hooks = Hooks(self._notice, self._enter, self._expect, self._node, self._want, self._objects)

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
            self._task = self._bars.add_task("starting", total=None, paths=0, received="0 B", rate="", left="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    # -- hooks -------------------------------------------------------------------------------------------------------

    def _notice(self, line: str) -> None:
        if self._bars is not None:
            from rich.text import Text

            self._bars.console.print(Text(f"note: {clean(line)}"))
        else:
            say(f"note: {line}")

    def _enter(self, name: str) -> None:
        self._phase = name
        if name == "tree":
            self._expected = self._paths
        self._show(force=self._bars is not None)

    def _expect(self, paths: int) -> None:
        self._expected = paths

    def _node(self, node: object) -> None:
        self._paths += 1
        if not self._paths & 0xFF:
            self._show()

    def _want(self) -> None:
        self._wanted += 1

    def _objects(self, done: int, received: int, written: int) -> None:
        self._done += done
        self._received += received
        self._show()

    def _total(self) -> int:
        """Objects that there will be, guessed from how far the walk has come; 0 while nothing is known."""
        if not self._paths:
            return 0
        return max(self._wanted, self._wanted * max(self._expected, self._paths) // self._paths)

    def _left(self, seconds: float) -> str:
        total = self._total()
        if not self._done or total <= self._done:
            return ""
        left = int(seconds * (total - self._done) / self._done)
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def _show(self, *, force: bool = False) -> None:
        now = time.monotonic()
        period = 0.1 if self._bars is not None else self._period
        if not force and (not period or now - self._last < period):
            return
        self._last = now
        seconds = max(now - self._start, 1e-6)
        rate = f"{size(self._received / seconds)}/s"
        left = self._left(seconds)
        if self._bars is not None:
            self._bars.update(
                self._task,
                description=self._phase,
                total=self._total() or None,
                completed=self._done,
                paths=self._paths,
                received=size(self._received),
                rate=rate,
                left=left,
            )
        else:
            say(
                f"{self._phase}: {self._paths} paths, {self._done} of {self._total()} objects,"
                f" {size(self._received)} received, {rate}, {seconds:.0f} s{', ' if left else ''}{left}"
            )

    def summary(self, result: ExportResult) -> list[str]:
        """What people read at the end."""
        seconds = time.monotonic() - self._start
        counts = result.counts
        what = f"{result.fqrn} revision {result.revision}" + (f" ({result.tag})" if result.tag else "")
        holds = (
            f"{counts.get('files', 0)} files, {counts.get('dirs', 0)} directories,"
            f" {counts.get('symlinks', 0)} symbolic links, {size(counts.get('bytes', 0))}"
        )
        to = [f"current leads to {result.snapshot} now"] if result.switched else []
        if result.reason == "unchanged":
            return [f"{what}: nothing new ({holds}), {seconds:.1f} s", f"root hash {result.root_hash}", *to]
        return [
            f"{what}: {holds}",
            f"changes: {counts.get('added', 0)} added, {counts.get('changed', 0)} changed,"
            f" {counts.get('removed', 0)} removed; {counts.get('fetched', 0)} objects fetched,"
            f" {size(result.bytes.get('received', 0))}, {seconds:.1f} s",
            f"root hash {result.root_hash}",
            f"destination: {result.dest} ({result.abilities})",
            *to,
        ]


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description:<8}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed} objects, {task.fields[paths]} paths", markup=False),
        TextColumn("{task.fields[received]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
