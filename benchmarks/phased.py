"""The command line of shrinkwrap, which also writes when the phases of an export began.

    python benchmarks/phased.py FILE ARGUMENT...

Each line of FILE has a phase and the time; ``start`` and ``end`` are the first and the last one.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

_begin = time.perf_counter()


def main() -> None:
    path = sys.argv.pop(1)
    sys.argv[0] = "shrinkwrap"
    from shrinkwrap.cli.main import run
    from shrinkwrap.tree import export as module
    from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks

    with open(path, "w", encoding="utf-8", buffering=1) as file:
        file.write(f"start {_begin}\n")
        plain = module.export

        def export(request: ExportRequest, hooks: Hooks | None = None) -> ExportResult:
            hooks = hooks or Hooks()
            told = hooks.phase

            def phase(name: str) -> None:
                file.write(f"{name} {time.perf_counter()}\n")
                told(name)

            result = plain(request, replace(hooks, phase=phase))
            file.write(f"end {time.perf_counter()}\n")
            return result

        module.export = export
        run()


if __name__ == "__main__":
    main()
