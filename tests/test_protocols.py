"""Sizes that networks take."""

import pytest

from open_magvit2.protocols import SizeRule


@pytest.mark.parametrize(
    ("rule", "size", "padded"),
    [
        (SizeRule((8, 8)), (17, 8), (24, 8)),
        (SizeRule((8, 16)), (1, 1), (8, 16)),
        (SizeRule((4, 8, 8), (1, 0, 0)), (17, 8, 9), (17, 8, 16)),
        (SizeRule((4, 8, 8), (1, 0, 0)), (1, 8, 8), (1, 8, 8)),
        (SizeRule((4, 8, 8), (1, 0, 0)), (2, 8, 8), (5, 8, 8)),
        (SizeRule((16, 16), fixed=(256, 256)), (200, 256), (256, 256)),
        (SizeRule((64, 64), square=True), (64, 65), (128, 128)),
        (SizeRule((4, 8, 8), (1, 0, 0), square=True), (5, 16, 8), (5, 16, 16)),
    ],
)
def test_sizes_are_padded_to_the_next_valid_one(rule, size, padded):
    assert rule.padded(size) == padded
    rule.check(padded)
    if size != padded:
        with pytest.raises(ValueError, match=" x ".join(map(str, size))):
            rule.check(size)


def test_the_rule_is_in_the_message():
    with pytest.raises(ValueError, match=r"multiples of \(4 plus 1\) x 8 x 8, got 16 x 8 x 8"):
        SizeRule((4, 8, 8), (1, 0, 0)).check((16, 8, 8))
    with pytest.raises(ValueError, match="multiples of 64 x 64, square, got 64 x 128"):
        SizeRule((64, 64), square=True).check((64, 128))
    with pytest.raises(ValueError, match="at most 256 x 256, got 300 x 256"):
        SizeRule((16, 16), fixed=(256, 256)).padded((300, 256))
    for size in ((8,), (0, 8)):
        with pytest.raises(ValueError, match="expected 2 positive sides"):
            SizeRule((8, 8)).padded(size)
