"""No password is shown."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.remote import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:pass@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql://u@h/db?host=/tmp&password=pass&x=1", "postgresql://u@h/db?host=/tmp&password=***&x=1"),
        ("redis://:pass@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://h/0?ssl_password=pass", "rediss://h/0?ssl_password=***"),
        ("unix:///tmp/redis.sock?db=1", "unix:///tmp/redis.sock?db=1"),
        ("sqlite:///home/me/memory.db", "sqlite:///home/me/memory.db"),
        ("postgresql://u:pa/ss@h/db", "postgresql://***"),  # not encoded: "pa" looks like a port
        ("postgresql://u:p@ss@h/db", "postgresql://u:***@h/db"),
        ("u:pass@h", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@given(password=st.text(min_size=1), encoded=st.booleans())
def test_no_password_is_ever_shown(password: str, encoded: bool) -> None:
    secret = f"<{password}>"  # occurs nowhere else
    url = f"postgresql://user:{quote(secret, safe='') if encoded else secret}@host/db"
    shown = without_password(url)
    assert secret not in shown
    assert quote(secret, safe="") not in shown
