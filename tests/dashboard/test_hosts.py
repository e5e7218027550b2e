"""Which Host headers are served: DNS rebinding needs a name of the attacker's."""

from __future__ import annotations

import pytest

from ajit.dashboard.hosts import is_allowed


@pytest.mark.parametrize(
    "header",
    ["127.0.0.1:8731", "localhost", "LOCALHOST:8731", "[::1]:8731", "[::1]", "10.0.0.7:80",
     "node3:8731", "Node3.", "[fe80::1]:80"],
)  # fmt: skip
def test_addresses_and_own_names_are_served(header):
    """An address cannot be rebound."""
    assert is_allowed(header, ["node3"])


@pytest.mark.parametrize(
    "header",
    ["", "evil.example", "evil.example:8731", "localhost.evil.example", "127.0.0.1.evil.example",
     "node3.evil", "[::1", "[::1]evil", "node3:80@evil", "::1", "evil\x00", "[evil]:80"],
)  # fmt: skip
def test_other_names_are_not(header):
    """Whatever they begin or end with."""
    assert not is_allowed(header, ["node3"])
