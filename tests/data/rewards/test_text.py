import pytest

from aer_lightning.data.rewards.text import answer_region, clean


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("４２", "42"),
        ("٤٢", "42"),
        ("𝟒𝟐", "42"),
        ("4\u200b2", "42"),
        ("\u202e42", "42"),
        ("\x0042\x00", "42"),
        ("x²", "x^{2}"),
        ("x¹⁰", "x^{10}"),
        ("H₂", "H_{2}"),
        ("3½", r"3\frac{1}{2}"),
        ("−5", "-5"),
        ("a×b", r"a\times b"),
        ("１，０００", "1,000"),
        ("\ud800", "\ufffd"),
        ("a\r\nb\tc", "a\n\nb c"),
        ("\u00a042", " 42"),
        ("𝑥", "x"),
    ],
)
def test_clean(raw, plain):
    assert clean(raw) == plain


@pytest.mark.parametrize(
    ("completion", "region"),
    [
        ("no tags", "no tags"),
        ("<think>a</think>b", "b"),
        ("a</think>b</think>c", "c"),
        ("<thinking>a</thinking> b", " b"),
        ("before <think>never closed", "before "),
        ("a<|im_end|>\n<|im_start|>user\nb", "a"),
        ("<|im_start|>a<|im_end|>b", "a"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "b"),
    ],
)
def test_only_what_follows_the_thought_counts(completion, region):
    assert answer_region(completion) == region


def test_the_end_of_a_long_text_is_what_is_read():
    assert answer_region("a" * 100 + "b", max_chars=3) == "aab"
