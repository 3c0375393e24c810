"""Templates of texts: what is fixed is fixed in real matches, what is in the slots is what stood there."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.tools.agents.builtin.templates import MOST_TOKENS, find_template


def template(texts: list[str]) -> Any:
    return find_template(texts, lambda: None)


def test_slots_stand_where_the_texts_differ() -> None:
    texts = [
        f"GET /users/{number} took {number % 7 + 10} ms on host-{host}"
        for number, host in zip(range(101, 131), "abc" * 10, strict=True)
    ]
    assert template(texts) == {
        "template": "GET /users/{1} took {2} ms on host-{3}",
        "texts": 30,
        "matches": 30,
        "fixedShare": 0.75,
        "slotCount": 3,
        "slots": [
            {"slot": 1, "filled": 30, "distinct": 30, "examples": ["101", "102", "103"]},
            {"slot": 2, "filled": 30, "distinct": 7, "examples": ["13", "14", "15"]},
            {"slot": 3, "filled": 30, "distinct": 3, "examples": ["a", "b", "c"]},
        ],
    }


def test_what_some_leave_out_is_a_slot_too() -> None:
    texts = ["Ship sunk near Crete.", "Ship sunk deep down near Malta.", "Ship sunk near Rhodes at dawn."]
    found = template(texts)
    assert found["template"] == "Ship sunk {1} near {2}"
    assert found["matches"] == 3
    assert found["slots"] == [
        {"slot": 1, "filled": 1, "distinct": 1, "examples": ["deep down"]},
        {"slot": 2, "filled": 3, "distinct": 3, "examples": ["Crete.", "Malta.", "Rhodes at dawn."]},
    ]


def test_a_stranger_does_not_spoil_it_and_does_not_match() -> None:
    texts = [f"User {name} logged in" for name in ("ann", "bob", "cyd", "dan", "eve", "fay", "gus")]
    found = template([*texts, "Something else altogether"])
    assert (found["template"], found["texts"], found["matches"]) == ("User {1} logged in", 8, 7)


def test_texts_without_anything_in_common_have_none() -> None:
    assert template(["Whales sing.", "Ships carry tea.", "It rains!"]) is None
    assert template(["one", "one", "one"]) is None  # a single word is no template
    assert template(["?!", "?!", "?!"]) is None


def test_equal_texts_are_a_template_without_slots() -> None:
    found = template(["All hands on deck!"] * 3)
    assert (found["template"], found["slots"], found["fixedShare"]) == ("All hands on deck!", [], 1.0)


def test_long_texts_are_read_to_a_limit_and_end_in_a_slot() -> None:
    head = " ".join(f"w{number}" for number in range(MOST_TOKENS))
    found = template([f"{head} tail {number}" for number in range(3)])
    assert found["matches"] == 3
    assert found["slots"] == [{"slot": 1, "filled": 3, "distinct": 3, "examples": ["tail 0", "tail 1", "tail 2"]}]


FIXED = [f"fixed{letter}" for letter in "abcdef"]
FILL = st.lists(st.sampled_from(["x", "yy", "zzz", "42"]), max_size=3)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 6), st.data())
def test_a_template_takes_apart_every_text_that_it_matches(words: int, data: st.DataObject) -> None:
    """Few texts of the same words in the same order, with words of their own in between: none is outvoted, all match,
    and the slots hold what is their own."""
    rows = data.draw(st.lists(st.tuples(*[FILL] * (words + 1)), min_size=3, max_size=4))
    texts: list[str] = []
    for number, row in enumerate(rows):
        own = [" ".join(f"{word}of{number}" for word in gap) for gap in row]
        texts.append(" ".join(part for pair in zip(own, [*FIXED[:words], ""], strict=True) for part in pair if part))
    found = template(texts)
    assert found is not None
    assert found["matches"] == len(texts)
    assert [word for word in FIXED[:words] if word in found["template"]] == FIXED[:words]
    gaps = [[row[place] for row in rows if row[place]] for place in range(words + 1)]
    assert [slot["filled"] for slot in found["slots"]] == [len(filled) for filled in gaps if filled]
    assert all(f"{{{slot['slot']}}}" in found["template"] for slot in found["slots"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("ab .{1}é\n", max_size=30).filter(str.strip), min_size=3, max_size=6))
def test_any_texts_are_answered(texts: list[str]) -> None:
    found = template(texts)
    if found is not None:
        assert 0 <= found["matches"] <= found["texts"] == len(texts)
        assert 0 < found["fixedShare"] <= 1


def test_the_order_of_the_others_does_not_matter() -> None:
    texts = [f"{a} sails {b} to {c}" for a, b, c in product("AB", ("fast", "slowly"), ("Crete", "Malta"))]
    first, *others = texts
    found, turned = template(texts), template([first, *reversed(others)])
    assert (
        (found["template"], found["matches"]) == (turned["template"], turned["matches"]) == ("{1} sails {2} to {3}", 8)
    )
