"""Official metrics, against cases worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossgraft.errors import CrossgraftError
from crossgraft.tasks.metrics.captions import caption_scores
from crossgraft.tasks.metrics.exact import by_kind
from crossgraft.tasks.metrics.ptb import PUNCTUATION, tokenize
from crossgraft.tasks.metrics.vqa_accuracy import as_compared, normalise, soft_score, soft_scores, vqa_accuracy

WORDS = st.text("ab 1.,'!-", max_size=8)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("The red, ball.", "red ball"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("blue-green", "blue green"),
        ("1,000", "1000"),
        ("1,000 a-b", "1000 ab"),  # a comma between digits takes all marks away without a space
        ("2.5 miles.", "2.5 miles"),
        ("U.S.", "us"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("ten to eleven", "10 to eleven"),
        ("what?!", "what"),
        ("\tan\napple ", "apple"),
        ("10:30", "10:30"),
        ("", ""),
        ("the", ""),
    ],
)
def test_normal_form(raw: str, plain: str) -> None:
    assert normalise(raw) == plain


@pytest.mark.parametrize(("votes", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_scores_of_ten_people(votes: int, score: float) -> None:
    assert soft_score(votes) == pytest.approx(score)
    others = [f"other {number}" for number in range(10 - votes)]
    assert vqa_accuracy("Cat.", ["a cat"] * votes + others if votes < 10 else ["Cat."] * 10) == pytest.approx(score)


def test_unanimous_answers_are_not_normalised() -> None:
    assert vqa_accuracy("2", ["two"] * 10) == 0
    assert vqa_accuracy("two", ["two"] * 10) == 1
    assert vqa_accuracy("2", ["two"] * 9 + ["3"]) == 1


@given(st.lists(WORDS, min_size=1, max_size=10), WORDS)
def test_targets_score_what_they_promise(answers: list[str], other: str) -> None:
    """Handing in a target earns its score, unless normalising it once more changes it."""
    for answer, score in soft_scores(as_compared(answers)).items():
        assert 0 < score <= 1
        differ = len({answer.strip() for answer in answers}) > 1
        if not differ or normalise(answer) == answer:
            assert vqa_accuracy(answer, answers) == pytest.approx(score)
    assert 0 <= vqa_accuracy(other, answers) <= 1


@given(st.lists(st.sampled_from("abcdef"), min_size=10, max_size=10))
def test_accuracy_is_the_mean_over_leaving_one_out(answers: list[str]) -> None:
    for answer in set(answers):
        left = [answers[:row] + answers[row + 1 :] for row in range(10)]
        expected = sum(min(part.count(answer) / 3, 1) for part in left) / 10
        assert vqa_accuracy(answer, answers) == pytest.approx(expected)


def test_by_kind() -> None:
    assert by_kind("hits", [1, 0, 1], ["a", "b", None]) == pytest.approx({"hits": 200 / 3, "hits.a": 100, "hits.b": 0})


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [  # as the official Java tokeniser has them, punctuation taken out
        ("A dog's toy; it can't roll!", "a dog 's toy it ca n't roll"),
        ("two black-and-white cats, one t-shirt", "two black-and-white cats one t-shirt"),
        ("a black/white ball at 10:30 for $5.50", "a black/white ball at 10:30 for $ 5.50"),
        ('a "STOP" sign (red)', "a stop sign -lrb- red -rrb-"),
        ("Mr. Smith of the U.S. waits... for 5 p.m.", "mr. smith of the u.s. waits for 5 p.m."),
        ("the dogs' bowls no. 3, or no.", "the dogs bowls no. 3 or no"),
        ("I cannot -- they're gonna win it", "i can not they 're gon na win it"),
        (
            "a café\N{RIGHT SINGLE QUOTATION MARK}s \N{LEFT DOUBLE QUOTATION MARK}menu\N{EM DASH} ½ price",
            "a café 's menu 1/2 price",
        ),
        ("what?! no!! yes?", "what ?! no !! yes"),
        ("a 12-year-old in the 1970's, the '70s and 4x4s", "a 12-year-old in the 1970 's the '70s and 4x4s"),
        ("snow.The rock 'n' roll o'clock", "snow.the rock 'n' roll o'clock"),
        (" ", ""),
        (". , !", ""),
    ],
)
def test_caption_tokens(caption: str, tokens: str) -> None:
    assert tokenize(caption) == tokens.split()


@given(st.text(max_size=40))
def test_tokens_hold_neither_space_nor_punctuation(caption: str) -> None:
    for token in tokenize(caption):
        assert token
        assert token not in PUNCTUATION


def test_caption_scores() -> None:
    references = [["A dog runs on the grass.", "The dog is running"], ["Two red boats on a lake"], ["a man cooks soup"]]
    perfect = caption_scores([captions[0] for captions in references], references)
    assert list(perfect) == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]
    assert perfect["BLEU-4"] == pytest.approx(100)
    assert perfect["ROUGE-L"] == pytest.approx(100)
    mixed = caption_scores(["a dog on the street", "boats", "a man cooks soup"], references)
    wrong = caption_scores(["a man cooks soup", "The dog is running", "Two red boats"], references)
    assert perfect["CIDEr"] > mixed["CIDEr"] > wrong["CIDEr"] >= 0
    assert caption_scores([""] * 3, references) == pytest.approx(dict.fromkeys(perfect, 0), abs=1e-6)


def test_cider_of_a_single_reference_is_ten_times_the_cosine() -> None:
    """With one reference each and no word in common between images, a perfect caption has cosine 1 for all n-grams."""
    references = [["one two three four"], ["five six seven eight"]]
    assert caption_scores(["one two three four", "five six seven eight"], references)["CIDEr"] == pytest.approx(1000)
    # Half right: the mean of 1000 and 0.
    assert caption_scores(["one two three four", "nine"], references)["CIDEr"] == pytest.approx(500)


def test_caption_scores_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    caption_scores(["a"], [["a"]])
    assert capfd.readouterr() == ("", "")


def test_captions_without_pycocoevalcap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(CrossgraftError, match=r"pip install 'crossgraft\[metrics\]'"):
        caption_scores(["a"], [["a"]])


def test_importing_tasks_is_cheap() -> None:
    code = "import sys, crossgraft.tasks; print(sorted({'torch', 'pycocoevalcap'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
