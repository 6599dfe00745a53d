"""The errors that shrinkwrap raises on purpose.

Each class carries the exit code that the command line ends with; ``docs/exit-codes.md`` is the same table for people::

    ShrinkwrapError
    ├── WarningsAreErrors      1   --strict: there were warnings, and nothing was touched
    ├── UsageError             2   the command line or a configuration value makes no sense
    ├── TrustError             3   a signature, fingerprint, expiry, name or revision was refused
    │   └── RollbackError      3   the head is older than one that was seen before
    ├── NetworkError           4   no server could be reached, or none answered in time
    ├── MissingObject          5   the servers answer, but all say that they do not have it
    ├── CorruptObject          6   the bytes do not fit their digest, size or format
    │   ├── CatalogError       6   a verified catalog says something that cannot be
    │   └── VerificationFailed 6   an export is not what its record says
    ├── SpecError              7   a specification file cannot be read as one
    ├── DestinationError       8   the destination cannot be written, is full, or is not ours
    ├── LockedError            9   another run is working on the same store
    └── Interrupted           10   stopped by the user; the next run goes on from there
        └── WorkerDied        10   a process of the run was killed, perhaps for want of memory; likewise

"Missing" and "corrupt" are different errors because people react differently to them: a missing object is a matter
for the repository's or replica's owner (or of a revision that was garbage collected meanwhile), a corrupt one for
whoever runs the cache in between.
"""

from __future__ import annotations

__all__ = [
    "CatalogError",
    "CorruptObject",
    "DestinationError",
    "Interrupted",
    "LockedError",
    "MissingObject",
    "NetworkError",
    "RollbackError",
    "ShrinkwrapError",
    "SpecError",
    "TrustError",
    "UsageError",
    "VerificationFailed",
    "WarningsAreErrors",
    "WorkerDied",
]


class ShrinkwrapError(Exception):
    """Base of all errors that end a command with one clear line.

    ``message`` names the thing, what was expected and what was found; ``hint`` says what to do next.
    """

    exit_code = 70
    #: A short name of the class of error, for ``--json``.
    reason = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are lost by the default pickling, and workers send errors to their parent.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[ShrinkwrapError], message: str, hint: str) -> ShrinkwrapError:
    return cls(message, hint=hint)


class WarningsAreErrors(ShrinkwrapError):
    exit_code = 1
    reason = "warnings"


class UsageError(ShrinkwrapError):
    exit_code = 2
    reason = "usage"


class TrustError(ShrinkwrapError):
    exit_code = 3
    reason = "trust"


class RollbackError(TrustError):
    reason = "rollback"


class NetworkError(ShrinkwrapError):
    exit_code = 4
    reason = "network"


class MissingObject(ShrinkwrapError):
    exit_code = 5
    reason = "missing"


class CorruptObject(ShrinkwrapError):
    exit_code = 6
    reason = "corrupt"


class CatalogError(CorruptObject):
    reason = "catalog"


class VerificationFailed(CorruptObject):
    reason = "differs"


class SpecError(ShrinkwrapError):
    exit_code = 7
    reason = "spec"


class DestinationError(ShrinkwrapError):
    exit_code = 8
    reason = "destination"


class LockedError(ShrinkwrapError):
    exit_code = 9
    reason = "locked"


class Interrupted(ShrinkwrapError):
    exit_code = 10
    reason = "interrupted"


class WorkerDied(Interrupted):
    reason = "worker"
