"""The files that configure a CernVM-FS client, in their order (FORMAT.md §8.1)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs.options import FILE_LIMIT, Parsed, last, read_simple, shorten
from shrinkwrap.cvmfs.shellconf import read_shell
from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import UsageError

FOLDER: Final = "etc/cvmfs"
#: Where repositories are mounted unless CVMFS_MOUNT_DIR says otherwise.
MOUNTS: Final = "/cvmfs"


@dataclass(slots=True)
class ConfigFiles:
    """Reads files and keeps what was in them.

    Attributes:
        root: the folder that stands for ``/``.
        names, parsed: of the files that were read, in order.
        notes: what was not understood.
        blacklists: that come with the configuration.
    """

    root: str
    names: list[str] = field(default_factory=list)
    parsed: list[Parsed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blacklists: list[str] = field(default_factory=list)

    def given(self, lists: Sequence[str]) -> ConfigFiles:
        """Read the files of ``-f``. Raises UsageError for one that cannot be read."""
        for name in (name for one in lists for name in one.split(":")):
            if not name:
                raise UsageError("an empty file name in -f", hint="-f FILE or -f FILE:FILE, without a colon at an end")
            try:
                data = read_regular(name, FILE_LIMIT)
            except OSError as exc:
                raise UsageError(
                    f"{name}: the configuration file cannot be read: {exc.strerror or exc}",
                    hint="all files of -f must exist; they are looked for in the working directory",
                ) from None
            self._add(name, read_simple(data, name))
        return self

    def installed(self, fqrn: str, variables: dict[str, str]) -> ConfigFiles:
        """Read those of ``/etc/cvmfs`` that exist, where ``variables`` is their environment. Raises UsageError."""
        known = {**variables, "CVMFS_FQRN": fqrn}
        here = os.path.join(self.root, FOLDER)
        self._shell(os.path.join(here, "default.conf"), known)
        folder = os.path.join(here, "default.d")
        for name in self._listed(folder):
            self._shell(os.path.join(folder, name), known)
        central = self._config_repository(fqrn)
        if central:
            self._shell(os.path.join(central, "default.conf"), known)
            self.blacklists.append(os.path.join(central, "blacklist"))
        self._shell(os.path.join(here, "default.local"), known)
        domain = fqrn.partition(".")[2]
        for kind, name in (("domain.d", domain), ("config.d", fqrn)):
            if name:
                if central:
                    self._shell(os.path.join(central, kind, f"{name}.conf"), known)
                self._shell(os.path.join(here, kind, f"{name}.conf"), known)
                self._shell(os.path.join(here, kind, f"{name}.local"), known)
        return self

    def _config_repository(self, fqrn: str) -> str:
        """The folder of the config repository; empty if there is none, or it is not mounted."""
        found = last(self.parsed)
        parameter = found.get("CVMFS_CONFIG_REPOSITORY")
        if parameter is None or not parameter.meant or parameter.meant == fqrn:
            return ""
        mounts = found["CVMFS_MOUNT_DIR"].meant if "CVMFS_MOUNT_DIR" in found else ""
        name = check_fqrn(parameter.meant)
        folder = os.path.join(self.root, (mounts or MOUNTS).lstrip("/"), name, FOLDER)
        if os.path.isdir(folder):
            return folder
        self.notes.append(
            f"{parameter.origin}: CVMFS_CONFIG_REPOSITORY is {name}, but {folder} cannot be read: the configuration in"
            " it is not used"
        )
        return ""

    def _listed(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(folder) if name.endswith(".conf"))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise UsageError(f"{folder}: the folder cannot be listed: {exc.strerror}") from None

    def _shell(self, name: str, known: dict[str, str]) -> None:
        try:
            data = read_regular(name, FILE_LIMIT)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise UsageError(f"{name}: the configuration file cannot be read: {exc.strerror or exc}") from None
        folder = os.path.dirname(name)

        def include(other: str) -> tuple[str, bytes] | None:
            if os.path.isabs(other):
                path = os.path.join(self.root, other.lstrip("/"))
            else:  # the client's working directory is the folder of the file it reads
                path = os.path.normpath(os.path.join(folder, other))
            try:
                return path, read_regular(path, FILE_LIMIT)
            except (OSError, ValueError):
                return None

        parsed = read_shell(data, name, known, include)
        self._add(name, parsed)
        known.update((one.name, one.value) for one in parsed.parameters)

    def _add(self, name: str, parsed: Parsed) -> None:
        self.names.append(name)
        self.parsed.append(parsed)
        self.notes.extend(parsed.notes)


def read_regular(name: str, limit: int) -> bytes:
    """The content of a regular file, at most ``limit`` + 1 bytes. Raises OSError."""
    try:
        # Without O_NONBLOCK a named pipe would hang the run.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:
        raise OSError(f"not a file name: {shorten(name)}") from None
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        return stream.read(limit + 1)
