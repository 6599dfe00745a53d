"""The grammar of shell as configurations use it: words, lists of commands, ``if`` (FORMAT.md §8.2).

Nothing is run here; :mod:`shrinkwrap.cvmfs.shellconf` works out what assignments come to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

#: How deep conditions and defaults may lie in each other.
DEPTH: Final = 20

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_OPERATOR: Final = re.compile(r"&&|\|\||;;|>>|<<|[;&|()<>\n]")
_WORD_OPERATOR: Final = re.compile(r":?[-=+]|(?=\})")
_KEYWORDS: Final = frozenset({"if", "then", "elif", "else", "fi"})
#: Compound commands that are skipped whole, with the word that ends each.
_SKIPPED: Final = {"for": "done", "while": "done", "until": "done", "case": "esac", "{": "}"}


class Unreadable(Exception):
    """The text cannot be taken apart from this line on."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class Expansion(NamedTuple):
    """``${name<operator>word}``; an operator of None is something only a shell can work out."""

    name: str
    operator: str | None
    word: tuple[Piece, ...]
    quoted: bool


class Text(NamedTuple):
    text: str
    quoted: bool


Piece = Text | Expansion


class Token(NamedTuple):
    """A word (``pieces``) or an operator (``operator``)."""

    line: int
    operator: str
    pieces: tuple[Piece, ...]

    @property
    def bare(self) -> str:
        """The text of a word that holds nothing but unquoted text, else nothing."""
        if len(self.pieces) == 1 and isinstance(self.pieces[0], Text) and not self.pieces[0].quoted:
            return self.pieces[0].text
        return ""

    @property
    def assigned(self) -> str:
        """The name that the word assigns to, if it is an assignment."""
        if self.pieces and isinstance(self.pieces[0], Text) and not self.pieces[0].quoted:
            found = _ASSIGNMENT.match(self.pieces[0].text)
            return found[1] if found else ""
        return ""


@dataclass(slots=True)
class Simple:
    """Words up to the next separator; ``odd``: a pipe, redirection or the like among them."""

    line: int
    words: list[Token]
    odd: bool = False


@dataclass(slots=True)
class Skipped:
    """A compound command that is not interpreted, and the names it assigns to."""

    line: int
    names: list[str]


@dataclass(slots=True)
class Chain:
    """``first && second || third``: each command with the operator before it, and whether a ``!`` stands there."""

    links: list[tuple[str, bool, Command]] = field(default_factory=list)


@dataclass(slots=True)
class If:
    line: int
    branches: list[tuple[list[Chain], list[Chain]]]
    otherwise: list[Chain]


Command = Simple | Skipped | If


class Reader:
    """Words and operators of a text."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._line = 1

    def tokens(self) -> Iterator[Token]:
        """All tokens; raises Unreadable for an unclosed quote."""
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char in " \t":
                self._at += 1
            elif text.startswith("\\\n", self._at):
                self._at += 2
                self._line += 1
            elif char == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif found := _OPERATOR.match(text, self._at):
                self._at = found.end()
                yield Token(self._line, found[0], ())
                self._line += found[0] == "\n"
            else:
                line = self._line
                yield Token(line, "", self._word(" \t\n;&|()<>", 0, False))

    def _word(self, ends: str, depth: int, quoted: bool) -> tuple[Piece, ...]:
        """Pieces up to one of the characters ``ends`` (not consumed) or the end of the text."""
        if depth > DEPTH:
            raise Unreadable(self._line)
        text = self._text
        pieces: list[Piece] = []
        while self._at < len(text) and text[self._at] not in ends:
            char = text[self._at]
            if char == "\\":
                escaped = text[self._at + 1 : self._at + 2]
                self._at += 2
                self._line += escaped == "\n"
                if escaped != "\n":
                    pieces.append(Text(escaped, True))
            elif char == "'" and not quoted:
                end = text.find("'", self._at + 1)
                if end < 0:
                    raise Unreadable(self._line)
                pieces.append(self._passed(Text(text[self._at + 1 : end], True), end + 1))
            elif char == '"' and not quoted:
                pieces.extend(self._double(depth))
            elif char == "$":
                pieces.append(self._dollar(depth, quoted))
            elif char == "`":
                end = text.find("`", self._at + 1)
                if end < 0:
                    raise Unreadable(self._line)
                pieces.append(self._passed(Expansion("", None, (), quoted), end + 1))
            else:
                end = self._at + 1
                while end < len(text) and text[end] not in ends and text[end] not in "\\'\"$`":
                    end += 1
                pieces.append(self._passed(Text(text[self._at : end], quoted), end))
        return tuple(pieces)

    def _passed(self, piece: Piece, end: int) -> Piece:
        self._line += self._text.count("\n", self._at, end)
        self._at = end
        return piece

    def _double(self, depth: int) -> list[Piece]:
        text = self._text
        line = self._line
        self._at += 1
        pieces: list[Piece] = [Text("", True)]  # "" is a word too
        while self._at < len(text) and text[self._at] != '"':
            char = text[self._at]
            if char == "\\" and text[self._at + 1 : self._at + 2] in ("$", "`", '"', "\\", "\n"):
                escaped = text[self._at + 1]
                pieces.append(self._passed(Text("" if escaped == "\n" else escaped, True), self._at + 2))
            elif char == "$":
                pieces.append(self._dollar(depth, True))
            elif char == "`":
                end = text.find("`", self._at + 1)
                if end < 0:
                    raise Unreadable(line)
                pieces.append(self._passed(Expansion("", None, (), True), end + 1))
            else:
                end = self._at + 1
                while end < len(text) and text[end] not in '"\\$`':
                    end += 1
                pieces.append(self._passed(Text(text[self._at : end], True), end))
        if self._at >= len(text):
            raise Unreadable(line)
        self._at += 1
        return pieces

    def _dollar(self, depth: int, quoted: bool) -> Piece:
        text = self._text
        after = text[self._at + 1 : self._at + 2]
        if after == "(":
            return self._passed(Expansion("", None, (), quoted), self._closing(self._at + 1))
        if after == "{":
            return self._braces(depth, quoted)
        if found := NAME.match(text, self._at + 1):
            return self._passed(Expansion(found[0], "", (), quoted), found.end())
        if after and after in "0123456789@*#?$!-":
            return self._passed(Expansion("", None, (), quoted), self._at + 2)
        return self._passed(Text("$", True), self._at + 1)

    def _braces(self, depth: int, quoted: bool) -> Piece:
        line = self._line
        found = NAME.match(self._text, self._at + 2)
        if found is None:
            return self._passed(Expansion("", None, (), quoted), self._closing(self._at + 1))
        operator = _WORD_OPERATOR.match(self._text, found.end())
        if operator is None:
            return self._passed(Expansion(found[0], None, (), quoted), self._closing(self._at + 1))
        self._at = operator.end()
        word = self._word("}", depth + 1, False)
        if self._at >= len(self._text):
            raise Unreadable(line)
        self._at += 1
        return Expansion(found[0], operator[0], word, quoted)

    def _closing(self, start: int) -> int:
        """Where the bracket that opens at ``start`` has been closed. Quotes in it are not looked into."""
        opening = self._text[start]
        closing = {"(": ")", "{": "}"}[opening]
        depth = 0
        for found in re.compile(f"[{re.escape(opening + closing)}]").finditer(self._text, start):
            depth += 1 if found[0] == opening else -1
            if depth == 0:
                return found.end()
        raise Unreadable(self._line)


class Parser:
    """Commands of a list of tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _done(self) -> bool:
        return self._at >= len(self._tokens)

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _separators(self) -> None:
        while not self._done() and self._peek().operator in (";", "\n"):
            self._at += 1

    def _newlines(self) -> None:
        while not self._done() and self._peek().operator == "\n":
            self._at += 1

    def commands(self, *ends: str, depth: int = 0) -> list[Chain]:
        """Up to one of the words ``ends``, which is not consumed; without any: one chain."""
        chains: list[Chain] = []
        self._separators()
        while not self._done() and self._peek().bare not in ends:
            chains.append(self.chain(depth))
            self._separators()
        if self._done():
            raise Unreadable(self._tokens[-1].line)
        return chains

    def next_chain(self) -> Chain | None:
        """The next top-level chain; None at the end."""
        self._separators()
        return None if self._done() else self.chain(0)

    def chain(self, depth: int) -> Chain:
        chain = Chain()
        operator = ""
        while True:
            self._newlines()
            negated = False
            while not self._done() and self._peek().bare == "!":
                self._at += 1
                negated = not negated
            if self._done():
                raise Unreadable(self._tokens[-1].line)
            chain.links.append((operator, negated, self._command(depth)))
            if self._done() or self._peek().operator not in ("&&", "||"):
                return chain
            operator = self._peek().operator
            self._at += 1

    def _command(self, depth: int) -> Command:
        token = self._peek()
        if token.bare == "if":
            return self._if(depth + 1)
        if token.bare in _SKIPPED:
            return self._skipped()
        if token.bare in _KEYWORDS:
            raise Unreadable(token.line)
        simple = Simple(token.line, [])
        brackets = 0
        while not self._done():
            token = self._peek()
            if token.operator in (";", "\n", "&&", "||") and not brackets:
                break
            if token.operator == "<<" or (token.operator == ")" and not brackets):
                raise Unreadable(token.line)
            if token.bare == "{" and simple.odd:  # the body of a function
                names = [word.assigned for word in simple.words if word.assigned]
                return Skipped(simple.line, names + self._skipped().names)
            self._at += 1
            brackets += (token.operator == "(") - (token.operator == ")")
            if token.operator:
                simple.odd = True
            else:
                simple.words.append(token)
        if brackets:
            raise Unreadable(simple.line)
        return simple

    def _if(self, depth: int) -> If:
        line = self._peek().line
        if depth > DEPTH:
            raise Unreadable(line)
        try:
            return self._branches(line, depth)
        except Unreadable:
            raise Unreadable(line) from None

    def _branches(self, line: int, depth: int) -> If:
        branches: list[tuple[list[Chain], list[Chain]]] = []
        otherwise: list[Chain] = []
        while self._peek().bare in ("if", "elif"):
            self._at += 1
            condition = self.commands("then", depth=depth)
            self._at += 1
            branches.append((condition, self.commands("elif", "else", "fi", depth=depth)))
        if self._peek().bare == "else":
            self._at += 1
            otherwise = self.commands("fi", depth=depth)
        self._at += 1
        return If(line, branches, otherwise)

    def _skipped(self) -> Skipped:
        line = self._peek().line
        names: list[str] = []
        ends: list[str] = []
        while not self._done():
            token = self._peek()
            self._at += 1
            if token.bare in _SKIPPED:
                ends.append(_SKIPPED[token.bare])
            elif ends and token.bare == ends[-1]:
                ends.pop()
                if not ends:
                    return Skipped(line, names)
            elif token.assigned:
                names.append(token.assigned)
        raise Unreadable(line)


def names_in(chain: Chain) -> Iterator[str]:
    for _, _, command in chain.links:
        yield from names_of(command)


def names_of(command: Command) -> Iterator[str]:
    """The names that a command would assign to."""
    if isinstance(command, Skipped):
        yield from command.names
    elif isinstance(command, Simple):
        for word in command.words:
            if word.assigned:
                yield word.assigned
    else:
        for condition, body in command.branches:
            for chain in (*condition, *body):
                yield from names_in(chain)
        for chain in command.otherwise:
            yield from names_in(chain)
