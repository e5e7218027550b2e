"""What is taken out of a support file."""

from __future__ import annotations

import pytest

from ajit.cli.redaction import REMOVED, Redactor

REDACTOR = Redactor(
    secrets=["correct horse battery staple", "short", "correct horse"],
    homes=["/home/ann", "/srv/users/ann"],
    names={"ann": "USER", "gpu-17": "HOST"},
)


@pytest.mark.parametrize(
    "text",
    [
        "AWS_SECRET_ACCESS_KEY=abc/def+ghi",
        "api_key: abcdef",
        '"hf_token": "abcdef"',
        "Authorization: Bearer abcdef.ghi",
        "curl -H 'x: Bearer abcdefghijkl'",
        "PASSWORD = abcdef",
        "ghp_abcdefghijklmnopqrstuvwxyz0123",
        "hf_abcdefghijklmnopqrstuvwx",
        "glpat-abcdefghijklmnopqrst",
        "sk-abcdefghijklmnopqrstuvwxyz",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhYmNkZWYifQ.abcdef",
        "https://ann:abcdef@proxy:8080/x",
        "-----BEGIN PRIVATE KEY-----\nabcdef\n-----END PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabcdef",
        "key: correct horse battery staple.",
    ],
)
def test_secrets_and_what_looks_like_one_are_removed(text):
    """It is better to take out too much."""
    shown = REDACTOR.text(text)

    assert REMOVED in shown
    assert "abc" not in shown.lower()
    assert "horse" not in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/.cache/ajit", "~/.cache/ajit"),
        ("/srv/users/ann:/home/ann", "~:~"),
        ("/home/anna/x and /home/bob/y", "/home/USER/x and /home/USER/y"),
        ("/scratch/ann/cache on gpu-17.example.com", "/scratch/USER/cache on HOST.example.com"),
        ("the planner of channel 17", "the planner of channel 17"),
        ("expected token ';' before a short one", "expected token ';' before a short one"),
    ],
)
def test_homes_and_names_are_replaced_and_other_words_stay(text, expected):
    """A compiler's log has to be readable still."""
    assert REDACTOR.text(text) == expected


def test_data_is_cleaned_through_and_through():
    """Names of fields as well; numbers stay numbers."""
    value = {"/home/ann": [1, ("ann", None, True)], "n": {"x": "gpu-17"}}

    assert REDACTOR.value(value) == {"~": [1, ["USER", None, True]], "n": {"x": "HOST"}}
