from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.runtime import wire

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
headers = st.dictionaries(st.text().filter(lambda k: k != "blobs"), values, max_size=4)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(headers, st.lists(st.binary(max_size=50), max_size=3)), max_size=3),
    st.integers(1, 40),
)
def test_messages_survive_any_chopping(messages, step):
    stream = b"".join(wire.encode(h, b) for h, b in messages)
    decoder = wire.Decoder()
    got = []
    for at in range(0, len(stream), step):
        got += decoder.feed(stream[at : at + step])
    assert [(m.header, list(m.blobs)) for m in got] == messages


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.binary(min_size=1, max_size=60).filter(lambda b: not wire.MAGIC.startswith(b[:4])))
def test_anything_else_is_garbage(data):
    with pytest.raises(wire.Garbage, match="expected a frame, found"):
        list(wire.Decoder().feed(data))


def test_broken_frames():
    good = wire.encode({"id": 1}, [b"abc"])
    size = wire._PREFIX.size
    for bad, message in (
        (wire._PREFIX.pack(wire.MAGIC, 2**31, 0), "too long"),
        (wire._PREFIX.pack(wire.MAGIC, 4, 0) + b"nope", "broken header"),
        (wire._PREFIX.pack(wire.MAGIC, 2, 0) + b"[]", "broken header"),
        (wire._PREFIX.pack(wire.MAGIC, 2, 0) + b"{}", "broken header"),
        (good[:size] + good[size:].replace(b"[3]", b"[4]"), "do not add up"),
        (good[:size] + good[size:].replace(b"[3]", b'"3"'), "broken header"),
    ):
        with pytest.raises(wire.Garbage, match=message):
            list(wire.Decoder().feed(bad))


def test_numbers_that_are_no_json_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.encode({"x": float("nan")})
