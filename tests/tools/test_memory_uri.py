"""Memory URIs: any name goes through one and back, whatever it holds; nothing else is taken for one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp.shared.uri_template import UriTemplate

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.memory.checks import MAX_KEY, MAX_NAMESPACE, check_names
from quarterdeck.tools.memory.uri import TEMPLATE, name_of, uri_of

CHARACTERS = st.characters(exclude_categories=["Cc", "Cs"])
NAMESPACES = st.text(CHARACTERS, min_size=1, max_size=MAX_NAMESPACE)
KEYS = st.text(CHARACTERS, min_size=1, max_size=MAX_KEY)


@given(NAMESPACES, KEYS)
@example("../..", "/etc/passwd")
@example("a/b", "%2F%00?x#y")
@example(" ", "🚢\U0010ffff\u202e" * 100)
def test_a_name_goes_through_its_uri_as_the_protocol_expands_it(namespace: str, key: str) -> None:
    uri = uri_of(namespace, key)
    assert uri.isascii()
    assert uri == UriTemplate.parse(TEMPLATE).expand({"namespace": namespace, "key": key})
    assert name_of(uri) == (namespace, key)


@given(st.one_of(st.text(), st.from_regex(r"memory://[^/]{1,9}/(%?.){1,9}")))
def test_any_text_is_a_valid_name_or_refused(text: str) -> None:
    with suppress(InvalidArgumentError):
        check_names(*name_of(text))


@pytest.mark.parametrize("uri", ["memory://a%2fb/k:1 ü", "memory://%61%2Fb/%6b%3A1%20%C3%BC"])
def test_a_name_may_be_encoded_more_or_less(uri: str) -> None:
    assert name_of(uri) == ("a/b", "k:1 ü")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "memory:",
        "memory://n",
        "memory://n/",
        "memory:///k",
        "memory://n/k/l",
        "memory://n/k?x",
        "memory://n/k#x",
        "memory://n/100%",
        "memory://n/%zz",
        "memory://n/%ff",
        "memory://n/%ED%A0%80",
        "memory://n/%0A",
        "memory://n/k\n",
        f"memory://n/{'k' * (MAX_KEY + 1)}",
        "other://n/k",
    ],
)
def test_what_names_no_entry_is_refused(uri: str) -> None:
    with pytest.raises(InvalidArgumentError):
        name_of(uri)
