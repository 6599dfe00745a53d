"""Variant symlinks, by the rules (FORMAT.md §9) and as the reference client shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import golden

from shrinkwrap.cvmfs.variants import expand

VALUES = {b"ARCH": b"x86_64", b"EMPTY": b"", b"SLY": b"$(ARCH)", b"ODD NAME": b"odd"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"plain/path", b"plain/path"),
        (b"", b""),
        (b"$(ARCH)", b"x86_64"),
        (b"a/$(ARCH)/b", b"a/x86_64/b"),
        (b"$(ARCH)-$(ARCH)", b"x86_64-x86_64"),
        (b"a/$(UNSET)/b", b"a//b"),
        (b"$(UNSET)", b""),
        (b"$(UNSET:-default)", b"default"),
        (b"$(UNSET:-)", b""),
        (b"$(UNSET:-a:-b)", b"a:-b"),
        (b"$(ARCH:-default)", b"x86_64"),
        (b"$(EMPTY:-default)", b""),
        (b"$(UNSET:default)", b""),
        (b"$(UNSET-default)", b""),
        # No nesting: the first ) ends the expression.
        (b"$(UNSET:-$(ARCH))", b"$(ARCH)"),
        (b"$(UNSET:-$(ARCH)/x)", b"$(ARCH/x)"),
        (b"$($(ARCH))", b")"),
        (b"$(ARCH))", b"x86_64)"),
        # Values are taken as they are.
        (b"$(SLY)", b"$(ARCH)"),
        # Not special.
        (b"$ARCH", b"$ARCH"),
        (b"${ARCH}", b"${ARCH}"),
        (b"$", b"$"),
        (b"$()x", b"x"),
        (b"$(ARCH", b"$(ARCH"),
        (b"$(ARCH)/$(ARCH", b"x86_64/$(ARCH"),
        (b"$$(ARCH)", b"$x86_64"),
        (b"$(ODD NAME)", b"odd"),
        (b"$( ARCH)", b""),
        (b"$(arch)", b""),
        (b"\xff$(ARCH)\xfe", b"\xffx86_64\xfe"),
    ],
)
def test_rules(target: bytes, expected: bytes) -> None:
    assert expand(target, VALUES) == expected


def test_used_variables_are_told_with_their_values_and_none_for_unset_ones() -> None:
    used: dict[bytes, bytes | None] = {}
    expand(b"$(ARCH)/$(EMPTY)/$(UNSET:-x)/$(OPEN", VALUES, used)
    assert used == {b"ARCH": b"x86_64", b"EMPTY": b"", b"UNSET": None}


@given(st.lists(st.sampled_from([b"$(", b")", b"$", b":-", b"ARCH", b"EMPTY", b"/", b"x"]), max_size=12))
def test_expansion_takes_one_pass_from_left_to_right(pieces: list[bytes]) -> None:
    def slowly(rest: bytes) -> bytes:
        before, opened, after = rest.partition(b"$(")
        body, closed, after = after.partition(b")")
        if not (opened and closed):
            return rest
        name, colon, default = body.partition(b":-")
        return before + VALUES.get(name, default if colon else b"") + slowly(after)

    target = b"".join(pieces)
    assert expand(target, VALUES) == slowly(target)


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_targets_come_out_as_in_the_reference_mount(at: golden.Pinned) -> None:
    values = {name.encode(): value.encode() for name, value in golden.ENVIRONMENT.items()}
    links = [row for row in golden.rows(f"{at.fqrn}/{at.rev}.jsonl") if "rawlink" in row and "target_b64" not in row]
    for row in links:
        assert expand(row["rawlink"].encode(), values).decode() == row["target"], row["path"]
    if at.fqrn == "small.cern.ch":
        assert len(links) > 10
