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
        "Authorization: Token abcdef0123456789",
        "Proxy-Authorization: Digest username=x, response=abcdef",
        "Set-Cookie: session=abcdef; Path=/",
        "password='two words, abcdef'",
        "password='two\nlines abcdef'",
        "{'api_key': 'it\\'s abcdef'}",
        'api_key: str = "abcdef"',
        "token => 'abcdef'",
        "token := abcdef",
        "secret:\n  abcdef",
        "nvcc --password abcdef -c k.cu",
        "curl --api-key 'x abcdef'",
        '#define API_KEY "x abcdef"',
        "#  define ACCESS_KEY abcdef",
        "setenv DB_PASS abcdef",
        "machine h login u password abcdef",
        "private_key=abcdef",
        "hmac_key = abcdef",
        "AJIT_HMACKEY=abcdef",
        "DB_PASS=abcdef",
        "https://u:p/ss-abcdef@host/",
        "https://u:p@ss@abc:d@host/x",
        "redis://:abcdef'x\"abc@host/0",
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
        ("/scratch/bob/x and /scratch2/bob/x", "/scratch/USER/x and /scratch2/USER/x"),
        ("hmac_key_file: /etc/ajit.key", "hmac_key_file: /etc/ajit.key"),
        ("the key: 3f2a of https://host/x", "the key: 3f2a of https://host/x"),
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


def test_what_a_field_has_is_a_secret_if_its_name_says_so():
    """A name and its value are looked at together, as in a text."""
    value = {"DB_TOKEN": "hunter2", "api_keys": ["hunter2", 1], "x": {"password": "hunter2"}}

    shown = REDACTOR.value(value)

    assert shown == {"DB_TOKEN": REMOVED, "api_keys": REMOVED, "x": {"password": REMOVED}}


@pytest.mark.parametrize("text", ["x" * 200_000, "token" * 40_000, "a=" * 100_000, "'" * 200_000])
def test_a_long_text_takes_no_longer_than_its_length_asks(text):
    """A log is what a compiler was made to print; quadratic, these take minutes."""
    REDACTOR.text(text)
