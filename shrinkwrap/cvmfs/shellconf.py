"""The files of ``/etc/cvmfs``, which the client feeds to a shell, read without one (FORMAT.md §8.2).

Understood is what configurations really use: assignments with quotes and with ``$NAME``, ``${NAME:-default}``,
``${NAME:=default}`` and their kin; ``export``, ``readonly``, ``unset``, ``:``; ``if`` with ``[ … ]`` tests, ``&&``,
``||`` and ``!``; ``return``; ``. FILE``. Nothing is ever executed. What cannot be told without a shell, such as
``$(command)`` or a loop, is unknown: an assignment that hangs on it is left out and noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from shrinkwrap.cvmfs.options import FILE_LIMIT, Parameter, Parsed, decode
from shrinkwrap.cvmfs.shelltext import (
    DEPTH,
    NAME,
    Chain,
    Command,
    Expansion,
    If,
    Parser,
    Piece,
    Reader,
    Simple,
    Skipped,
    Text,
    Token,
    Unreadable,
    names_in,
    names_of,
)

#: Most commands that one file and what it includes may run; without loops only includes could reach it.
_COMMANDS: Final = 20_000
#: Values longer than this are nobody's; doubling ones would fill the memory otherwise.
_VALUE: Final = 64 * 1024
#: Characters that all values and all included files together may have.
_ROOM: Final = 16 * FILE_LIMIT

#: Gives name and content of a file that is included (``. FILE``), None if it cannot be read.
Include = Callable[[str], tuple[str, bytes] | None]


class _Return(Exception):
    """``return`` was met: the rest of the file does not count."""


def read_shell(
    data: bytes, file: str, known: Mapping[str, str] | None = None, include: Include | None = None
) -> Parsed:
    """Read a file of ``/etc/cvmfs``.

    Args:
        file: its name, for origins and notes.
        known: variables that have a value already: the environment and the files before.
        include: reads files for ``. FILE``; without it these lines are noted. Names that only an included file
            assigns count within this file, but are no parameters: the client looks for names in the file itself.

    Raises:
        UsageError: not a text, or too large (:func:`~shrinkwrap.cvmfs.options.decode`). Never for its grammar: what
            cannot be read is noted.
    """
    run = _Run(dict(known or {}), include)
    run.file(data, file, own=True)
    return Parsed(tuple(run.parameters), tuple(dict.fromkeys(run.notes)))


class _Run:
    """Carries out what was read: values of variables, parameters found, notes."""

    def __init__(self, values: dict[str, str], include: Include | None) -> None:
        self._values = values
        self._include = include
        self.parameters: list[Parameter] = []
        self.notes: list[str] = []
        self._file = ""
        self._own = True
        self._names: set[str] = set()
        self._depth = 0
        self._budget = _COMMANDS
        self._room = _ROOM
        self._unknown: set[str] = set()

    def file(self, data: bytes, file: str, *, own: bool) -> None:
        """Run one file; ``own`` is False for an included one."""
        before = self._file, self._own
        self._file, self._own = file, own
        try:
            tokens: list[Token] = []
            broken: int | None = None
            try:
                for token in Reader(decode(data, file)).tokens():
                    tokens.append(token)  # noqa: PERF402 - what came before an error is kept
            except Unreadable as exc:
                broken = exc.line
                while tokens and tokens[-1].operator != "\n":
                    tokens.pop()
            if own:
                self._names |= {token.assigned for token in tokens if token.assigned}
            parser = Parser(tokens)
            try:
                while (chain := parser.next_chain()) is not None:
                    self._chain(chain)
            except Unreadable as exc:
                broken = exc.line if broken is None else min(broken, exc.line)
            if broken is not None:
                self.notes.append(
                    f"line {broken} of {file} is shell that cannot be read without a shell (a quote, bracket or if"
                    " without its end?); what belongs to it is ignored"
                )
        except _Return:
            pass  # what follows it does not count
        finally:
            self._file, self._own = before

    def _note(self, line: int, names: list[str]) -> None:
        """An assignment that cannot be worked out: say so, and forget what the name was."""
        self._unknown.update(names)
        what = f" ({', '.join(dict.fromkeys(names))})" if names else ""
        self.notes.append(f"line {line} of {self._file} is shell that cannot be read without a shell; ignored{what}")

    def _all(self, chains: list[Chain]) -> bool | None:
        status: bool | None = True
        for chain in chains:
            status = self._chain(chain)
        return status

    def _chain(self, chain: Chain) -> bool | None:
        status: bool | None = True
        for operator, negated, command in chain.links:
            if operator:
                if status is None:
                    self._leave_out(command)
                    continue
                if status is (operator == "||"):
                    continue
            status = self._command(command)
            if negated and status is not None:
                status = not status
        return status

    def _command(self, command: Command) -> bool | None:
        self._budget -= 1
        if self._budget < 0:
            self.notes.append(f"{self._file}: more than {_COMMANDS} commands; the rest is ignored")
            raise _Return
        if isinstance(command, If):
            return self._if(command)
        if isinstance(command, Skipped):
            self._leave_out(command)
            return None
        return self._simple(command)

    def _if(self, command: If) -> bool | None:
        for number, (condition, body) in enumerate(command.branches):
            status = self._all(condition)
            if status:
                return self._all(body)
            if status is None:
                rest = [chain for _, later in command.branches[number:] for chain in later] + command.otherwise
                names = [name for chain in rest for name in names_in(chain)]
                if names:
                    self._note(command.line, names)
                return None
        return self._all(command.otherwise)

    def _leave_out(self, command: Command) -> None:
        names = list(names_of(command))
        if names:
            self._note(command.line, names)

    def _simple(self, command: Simple) -> bool | None:
        words = command.words
        count = 0
        while count < len(words) and words[count].assigned:
            count += 1
        if command.odd or (0 < count < len(words)):
            # A pipe, a redirection, or a command with variables of its own.
            self._leave_out(command)
            return None
        if count:
            return self._assign(words)
        if not words:
            return True
        verb = words[0].bare
        if verb in ("export", "readonly", "eval"):
            if any(not word.assigned and not NAME.fullmatch(word.bare) for word in words[1:]):
                self._leave_out(command)
                return None
            return self._assign([word for word in words[1:] if word.assigned])
        if verb in ("return", "exit"):
            raise _Return
        fields = self._fields(words)
        if fields is None:
            self._leave_out(command)
            return None
        if verb in ("[", "test"):
            return _tested(verb, fields)
        if verb in (":", "true"):
            return True
        if verb == "false":
            return False
        if verb == "unset":
            for name in fields[1:]:
                self._values.pop(name, None)
                self._unknown.discard(name)
                self.parameters = [one for one in self.parameters if one.name != name]
            return True
        if verb in (".", "source") and len(fields) == 2:
            return self._source(words[0].line, fields[1])
        if "://" in verb or verb == "DIRECT":
            self.notes.append(
                f"line {command.line} of {self._file}: {ascii(verb)[:200]} stands there as a command: a list with"
                " ';' or '|' needs quotes"
            )
        return None

    def _source(self, line: int, name: str) -> bool | None:
        found = self._include(name) if self._include is not None and self._depth < DEPTH else None
        if found is None:
            self.notes.append(
                f"line {line} of {self._file} includes {ascii(name)[:200]}, which cannot be read; ignored"
            )
            return None
        self._spend(len(found[1]))
        self._depth += 1
        try:
            self.file(found[1], found[0], own=False)
        finally:
            self._depth -= 1
        return True

    def _assign(self, words: list[Token]) -> bool | None:
        status: bool | None = True
        for word in words:
            name = word.assigned
            first = word.pieces[0]
            assert isinstance(first, Text)  # so says .assigned
            rest = Text(first.text[len(name) + 1 :], False)
            value = self._value((rest, *word.pieces[1:]), word.line)
            if value is None:
                self._note(word.line, [name])
                status = None
            else:
                self._set(name, value, word.line)
        return status

    def _spend(self, characters: int) -> None:
        self._room -= characters
        if self._room < 0:
            self.notes.append(f"{self._file}: more than {_ROOM} characters of values and files; the rest is ignored")
            raise _Return

    def _set(self, name: str, value: str, line: int) -> None:
        self._spend(len(value))
        self._values[name] = value
        self._unknown.discard(name)
        if self._own or name in self._names:
            self.parameters.append(Parameter(name, value, f"{self._file}:{line}"))

    def _value(self, pieces: tuple[Piece, ...], line: int) -> str | None:
        """The text of a word; None if only a shell can tell."""
        parts: list[str] = []
        total = 0
        for piece in pieces:
            text = piece.text if isinstance(piece, Text) else self._expanded(piece, line)
            if text is None:
                return None
            total += len(text)
            if total > _VALUE:
                return None
            parts.append(text)
        return "".join(parts)

    def _expanded(self, piece: Expansion, line: int) -> str | None:
        operator = piece.operator
        if operator is None or piece.name in self._unknown:
            return None
        value = self._values.get(piece.name)
        if operator == "":
            return value or ""
        there = bool(value) if operator[0] == ":" else value is not None
        if operator[-1] == "+":
            return self._value(piece.word, line) if there else ""
        if there:
            return value
        word = self._value(piece.word, line)
        if operator[-1] == "=" and word is not None:
            if self._own:
                self._names.add(piece.name)
            self._set(piece.name, word, line)
        return word

    def _fields(self, words: list[Token]) -> list[str] | None:
        """Words as a command gets them: unquoted expansions are split at blanks, and vanish if empty."""
        fields: list[str] = []
        for word in words:
            text = self._value(word.pieces, word.line)
            if text is None:
                return None
            split = any(isinstance(piece, Expansion) and not piece.quoted for piece in word.pieces)
            if not split or any(piece.quoted for piece in word.pieces):
                fields.append(text)
            else:
                fields.extend(text.split())
        return fields


def _tested(verb: str, fields: list[str]) -> bool | None:
    words = fields[1:]
    if verb == "[" and (not words or words.pop() != "]"):
        return None
    negations = 0
    while negations + 1 < len(words) and words[negations] == "!":
        negations += 1
    result = _test(words[negations:])
    return result if result is None else result ^ bool(negations % 2)


def _test(words: list[str]) -> bool | None:
    """``[ … ]``; None for tests of files and others that are not understood."""
    if not words:
        return False
    if len(words) == 1:
        return words[0] != ""
    if len(words) == 2:
        return {"-z": words[1] == "", "-n": words[1] != ""}.get(words[0])
    if len(words) == 3:
        left, operator, right = words
        if operator in ("=", "=="):
            return left == right
        if operator == "!=":
            return left != right
        if re.fullmatch(r"-?[0-9]{1,18}", left) and re.fullmatch(r"-?[0-9]{1,18}", right):
            one, two = int(left), int(right)
            return {
                "-eq": one == two,
                "-ne": one != two,
                "-lt": one < two,
                "-le": one <= two,
                "-gt": one > two,
                "-ge": one >= two,
            }.get(operator)
    return None
