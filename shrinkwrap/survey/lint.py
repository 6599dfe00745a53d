"""Lint for specifications: lines that decide nothing, that mean something else than they seem to, that differ by tool.

:func:`lint` needs no repository. :func:`lint_against` adds what only a repository can tell.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.snapshot.session import Session
from shrinkwrap.spec.glob import MAGIC, read_component
from shrinkwrap.spec.grammar import RULES, Line, Mode, Spec
from shrinkwrap.survey.findings import Finding, about
from shrinkwrap.survey.idle import idle_lines
from shrinkwrap.survey.original import classic, original_findings
from shrinkwrap.survey.plan import Plan, Wish, survey
from shrinkwrap.survey.texts import BOM, Text, read_leniently

#: What people write who have the mounted path before them: /cvmfs/ and the name of a repository.
_MOUNTED: Final = re.compile(rb"/+cvmfs/+[^/]+\.[^/]+(?=/|$)")
#: Names of a directory that are looked at for one that is spelt nearly so.
_SIBLINGS: Final = 20_000


def lint(texts: Sequence[Text], *, rules: str = RULES[0]) -> tuple[Spec, list[Finding]]:
    """What is odd about specification files, read one after the other as if they were one.

    Returns:
        The specification without the lines that cannot be read, and the findings in the order of lines.

    Raises:
        UsageError: an unknown rule set.
        SpecError: this is no specification at all.
    """
    spec, wrong = read_leniently(texts, rules)
    found = [
        Finding(
            "wrong_line",
            one.file,
            one.number,
            one.text,
            one.reason,
            "a line is a path from / on, perhaps ^ or ! before it",
        )
        for one in wrong
    ]
    found.extend(_of_files(texts, spec))
    if not any(line.mode.includes for line in spec.lines) and not wrong:
        name = texts[0].name if texts else "<spec>"
        found.append(
            Finding("empty", name, 0, "", "no line brings anything: the tree will be empty", "name paths, or /*")
        )
    for line in spec.lines:
        found.extend(_of_line(line))
    found.extend(_of_rules(spec))
    found.extend(idle_lines(spec))
    found.extend(original_findings(spec.lines))
    return spec, in_order(found, texts)


def in_order(found: Sequence[Finding], texts: Sequence[Text]) -> list[Finding]:
    """By file and line; what is about no line comes last."""
    files = {text.name: number for number, text in enumerate(texts)}
    return sorted(found, key=lambda one: (files.get(one.file, len(files)), not one.number, one.number))


def _of_files(texts: Sequence[Text], spec: Spec) -> Iterator[Finding]:
    for name, data in texts:
        if data.startswith(BOM):
            reason = "begins with a byte order mark: the original tool refuses the first line"
            yield Finding("byte_order_mark", name, 1, "", reason, "shrinkwrap spec fmt --write takes it away")
        number = next((at for at, line in enumerate(data.split(b"\n"), 1) if line.endswith(b"\r")), 0)
        if number:
            reason = "has DOS line ends: to the original tool the CR belongs to the path, and an empty line is an error"
            yield Finding("dos_line_ends", name, number, "", reason, "shrinkwrap spec fmt --write takes them away")


def _of_line(line: Line) -> Iterator[Finding]:
    """What a line alone tells."""
    names = classic(line)
    sign = line.raw[:1] if line.raw[:1] in (b"^", b"!") else b""
    path = line.raw[len(sign) :]
    if any(name in (b".", b"..") for name in names):
        reason = "'.' and '..' are names like others here, and no repository has such"
        yield about("dots", line, reason, "write the path without them")
    mounted = _MOUNTED.match(path)
    if mounted is not None:
        reason = f"begins with {show(mounted[0])}: paths begin at the root of the repository"
        yield about("mount_prefix", line, reason, f"write {_shown(sign + (path[mounted.end() :] or b'/*'))}")
    comment = re.search(rb"[ \t]+#", path)
    if comment is not None:
        reason = "a # after the path begins no comment: it is part of the name"
        fix = f"put the comment on a line of its own, and write {_shown(sign + path[: comment.start()])}"
        yield about("comment_in_line", line, reason, fix)
    if path.endswith(b"*") and not path.endswith((b"/*", b"**")) and not MAGIC.intersection(path[:-1]):
        tree = path[:-1]
        reason = f"is the tree {_shown(tree)}, not all names that begin with {_shown(tree.rpartition(b'/')[2])}"
        fix = f"write {_shown(sign + tree)}/* for the tree, {_shown(sign + tree)}** for all names that begin so"
        yield about("star_without_slash", line, reason, fix)
    if sign == b"^" and not path.endswith(b"*"):
        reason = "^ without a final * says nothing: the entry alone comes out, a directory empty"
        yield about("flat_without_star", line, reason, f"write {_shown(path)}, or {_shown(line.raw.rstrip(b'/'))}/*")
    if MAGIC.intersection(path.removesuffix(b"*")):
        for name in names:
            complaint = read_component(name)[1]
            if complaint:
                reason = f"{complaint}: {_shown(name)} is taken as a plain name"
                yield about("brackets", line, reason, "close the bracket, or write \\[ for the character")


def _of_rules(spec: Spec) -> Iterator[Finding]:
    """Lines that mean something else in the other rule set."""
    last: dict[object, bool] = {}
    for line in spec.lines:
        if not _starred_exclusion(line):
            last[line.parts] = line.mode is Mode.EXCLUDE
    for line in spec.lines:
        if not _starred_exclusion(line):
            continue
        if any(last.get(line.parts[:depth]) for depth in range(len(line.parts) + 1)):
            continue  # a plain exclusion hides all of it in either
        kept = _shown(b"/" + b"/".join(classic(line)))
        reason = (
            f"hides what is below {kept} and keeps {kept} itself, and later lines may bring parts back (rules 2.14);"
            f" by the rules 2.12 it hides {kept} too, for good"
        )
        yield about("rules_differ", line, reason, f"write !{kept} to hide all of it in both")


def _starred_exclusion(line: Line) -> bool:
    return line.raw.startswith(b"!") and line.raw.endswith(b"*")


def _shown(raw: bytes) -> str:
    return show(raw)[:200] if raw else ""


# -- with a repository -----------------------------------------------------------------------------------------------


def lint_against(session: Session, wish: Wish, found: Sequence[Finding]) -> tuple[Plan, list[Finding]]:
    """What a repository tells of a specification.

    Args:
        found: what :func:`lint` says of it.

    Returns:
        What comes out, and the findings that are new.

    Raises:
        MissingObject, NetworkError, CorruptObject: a catalog cannot be had, or is wrong.
    """
    plan = survey(session.catalogs, wish)
    known = {(one.file, one.number) for one in found if one.kind in ("hidden", "hides_nothing", "dots")}
    more = []
    for one in plan.lines:
        line = one.line
        names = classic(line)
        if (line.file, line.number) in known:
            continue
        if line.mode.includes:
            if one.matched == 0:
                more.append(_unmatched(session, wish, line, names))
        elif line.classic is None and (missing := _missing(session, wish, names)):
            more.append(about("no_match", line, f"hides nothing: {missing[0]}", missing[1] or "remove it"))
    by_where = {line.where: line for line in wish.spec.lines}
    for path, where in plan.report.cases.get("directory_without_star", ()):
        line = by_where[where]
        reason = f"{show(path)} is a directory that is not empty, and comes out empty"
        more.append(
            about("directory_without_star", line, reason, f"write {_shown(line.raw.lstrip(b'^').rstrip(b'/'))}/*")
        )
    more.extend(_left_out(plan))
    return plan, more


def _unmatched(session: Session, wish: Wish, line: Line, names: tuple[bytes, ...]) -> Finding:
    if line.classic is not None:
        return about("no_match", line, "matches nothing in the repository", "correct or remove it")
    missing = _missing(session, wish, names)
    if missing is None:
        return about("no_match", line, "matches nothing in the repository", "correct or remove it")
    reason, fix = missing
    kind = "through_link" if "symbolic link" in reason else "no_match"
    return about(kind, line, f"matches nothing: {reason}", fix or "correct or remove it")


def _missing(session: Session, wish: Wish, names: tuple[bytes, ...]) -> tuple[str, str] | None:
    """Where a path ends in the repository, and what to write instead; None if it is there."""
    path = b""
    for depth, name in enumerate(names):
        above, path = path, path + b"/" + name
        found = session.find(wish.root, path)
        if found is None:
            return f"there is no {show(path)}", _spelling(session, wish, above, name, names[depth + 1 :])
        catalog, entry = found
        session.catalogs.release(catalog)
        if depth + 1 < len(names) and not entry.is_dir:
            if entry.is_link:
                return (
                    f"{show(path)} is a symbolic link (to {show(entry.target)}), and a line does not lead through it",
                    "name the path that it leads to; the link is brought as it is",
                )
            return f"{show(path)} is no directory", ""
    return None


def _spelling(session: Session, wish: Wish, folder: bytes, name: bytes, rest: tuple[bytes, ...]) -> str:
    """A name that is there and looks like the one that is not."""
    found = session.find(wish.root, folder)
    if found is None:
        return ""
    catalog, entry = found
    try:
        if not entry.is_dir:
            return ""
        there = [show(child.name) for child in itertools.islice(catalog.children(folder), _SIBLINGS)]
    finally:
        session.catalogs.release(catalog)
    close = difflib.get_close_matches(show(name), there, 1, 0.7)
    if not close:
        return ""
    below = "".join("/" + show(one) for one in rest)
    return f"did you mean {'' if not folder else show(folder)}/{close[0]}{below}?"


def _left_out(plan: Plan) -> Iterator[Finding]:
    """What makes the original tool give up in the middle (FORMAT.md §10.4)."""
    words = {
        "special_file": (
            "is left out: {detail}; the original tool stops there, but for a fifo",
            "exclude it for that tool",
        ),
        "empty_link_target": (
            "is left out: its target {detail} comes to nothing; the original tool stops there",
            "set the variable, or exclude the link",
        ),
    }
    for kind, (reason, fix) in words.items():
        for path, detail in plan.report.cases.get(kind, ()):
            yield Finding(kind, show(path), 0, "", reason.format(detail=detail), fix)


def strictly(found: Sequence[Finding]) -> list[Finding]:
    """The findings that a strict run fails for."""
    return [one for one in found if one.severity != "note"]
