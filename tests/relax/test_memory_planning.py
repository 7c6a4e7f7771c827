"""Do tensors that are needed together lie apart, and do the others share memory?"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.relax.memory import ALIGNMENT, Lifetime, place

LIVES = st.builds(
    lambda n, first, length: Lifetime(n, first, first + length),
    st.sampled_from([0, 1, 63, 64, 65, 100, 4096]) | st.integers(0, 10_000),
    st.integers(0, 20),
    st.integers(0, 6),
)


def together(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.lists(LIVES, max_size=25))
def test_what_is_needed_together_lies_apart(lives: list[Lifetime]) -> None:
    offsets, total = place(lives)
    for k, a in enumerate(lives):
        assert offsets[k] % ALIGNMENT == 0
        assert 0 <= offsets[k] <= offsets[k] + a.nbytes <= total
        for j in range(k):
            b = lives[j]
            if together(a, b) and a.nbytes and b.nbytes:
                apart = offsets[k] + a.nbytes <= offsets[j] or offsets[j] + b.nbytes <= offsets[k]
                assert apart, (a, offsets[k], b, offsets[j])
    aligned = [-(-a.nbytes // ALIGNMENT) * ALIGNMENT for a in lives]
    assert total <= sum(aligned)
    for step in range(30):
        assert total >= sum(a.nbytes for a in lives if a.first <= step <= a.last)


def test_a_chain_needs_two_places() -> None:
    offsets, total = place([Lifetime(256, k, k + 1) for k in range(50)])
    assert total == 512
    assert set(offsets) == {0, 256}


def test_a_short_tensor_fits_between_long_ones() -> None:
    long = [Lifetime(128, 0, 9), Lifetime(64, 0, 3), Lifetime(64, 0, 9)]
    offsets, total = place([*long, Lifetime(64, 5, 6)])
    assert offsets == [0, 128, 192, 128]
    assert total == 256


def test_nothing_needs_nothing() -> None:
    assert place([]) == ([], 0)
    assert place([Lifetime(0, 0, 3)]) == ([0], 0)
