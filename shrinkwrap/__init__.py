"""shrinkwrap: subtrees of CernVM-FS repositories as verified trees and images, for machines without /cvmfs.

All that is public is named here and imported when it is first asked for: ``import shrinkwrap`` costs next to nothing.
Examples: docs/python-api.md. Errors: :mod:`shrinkwrap.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from shrinkwrap.api import Change as Change
    from shrinkwrap.api import Entry as Entry
    from shrinkwrap.api import ExportResult as ExportResult
    from shrinkwrap.api import GcResult as GcResult
    from shrinkwrap.api import Hooks as Hooks
    from shrinkwrap.api import Repository as Repository
    from shrinkwrap.api import Snapshot as Snapshot
    from shrinkwrap.api import Spec as Spec
    from shrinkwrap.api import Tag as Tag
    from shrinkwrap.api import VerifyResult as VerifyResult
    from shrinkwrap.api import diff as diff
    from shrinkwrap.api import export as export
    from shrinkwrap.api import gc as gc
    from shrinkwrap.api import verify as verify
    from shrinkwrap.errors import CatalogError as CatalogError
    from shrinkwrap.errors import CorruptObject as CorruptObject
    from shrinkwrap.errors import DestinationError as DestinationError
    from shrinkwrap.errors import Interrupted as Interrupted
    from shrinkwrap.errors import LockedError as LockedError
    from shrinkwrap.errors import MissingObject as MissingObject
    from shrinkwrap.errors import NetworkError as NetworkError
    from shrinkwrap.errors import RollbackError as RollbackError
    from shrinkwrap.errors import ShrinkwrapError as ShrinkwrapError
    from shrinkwrap.errors import SpecError as SpecError
    from shrinkwrap.errors import TrustError as TrustError
    from shrinkwrap.errors import UsageError as UsageError
    from shrinkwrap.errors import VerificationFailed as VerificationFailed
    from shrinkwrap.errors import WarningsAreErrors as WarningsAreErrors
    from shrinkwrap.errors import WorkerDied as WorkerDied

__version__ = "0.1.0"

__all__ = [
    "CatalogError",
    "Change",
    "CorruptObject",
    "DestinationError",
    "Entry",
    "ExportResult",
    "GcResult",
    "Hooks",
    "Interrupted",
    "LockedError",
    "MissingObject",
    "NetworkError",
    "Repository",
    "RollbackError",
    "ShrinkwrapError",
    "Snapshot",
    "Spec",
    "SpecError",
    "Tag",
    "TrustError",
    "UsageError",
    "VerificationFailed",
    "VerifyResult",
    "WarningsAreErrors",
    "WorkerDied",
    "__version__",
    "diff",
    "export",
    "gc",
    "verify",
]

_OF_API: Final = frozenset(
    {
        "Change",
        "Entry",
        "ExportResult",
        "GcResult",
        "Hooks",
        "Repository",
        "Snapshot",
        "Spec",
        "Tag",
        "VerifyResult",
        "diff",
        "export",
        "gc",
        "verify",
    }
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("shrinkwrap.api" if name in _OF_API else "shrinkwrap.errors"), name)
    # The next one finds it without asking.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
