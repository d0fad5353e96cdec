"""The troubleshooting table quotes real messages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def messages():
    table = (ROOT / "docs/sglang.md").read_text().split("| message |")[1]
    return [row.split("|")[1].strip()[1:-1] for row in table.splitlines()[2:] if row.startswith("| `")]


def test_there_are_messages():
    assert len(messages()) > 10


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_real(message):
    sources = [*ROOT.glob("crates/*/src/**/*.rs"), *ROOT.glob("crates/hicache-py/python/**/*.py")]
    plain = re.sub(r"\{[^{}]*\}", "{}", message)
    for source in sources:
        # Texts of several lines are one text.
        text = re.sub(r'"\s*\n\s*f?"', "", source.read_text()).replace("\\\n", " ")
        text = re.sub(r"\{FIRST_RELEASE\}", "0.5.3", re.sub(r"[ \t]+", " ", text))
        if plain in text:
            return
    raise AssertionError(f"no source says {message!r}")
