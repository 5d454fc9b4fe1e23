"""VQA accuracy: how answers are normalised, and how far an answer agrees with ten people.

Source of the rules: the official evaluator, github.com/GT-Vision-Lab/VQA (vqaEval.py), and https://visualqa.org/evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}

# As they should be written. The official table has each of them with one apostrophe left out; "I'm" and its like are in
# it too, but with a capital, so that no lower-case word ever meets them.
_PROPER = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    proper[:place] + proper[place + 1 :]: proper
    for proper in _PROPER.split()
    for place, letter in enumerate(proper)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # sic


@lru_cache(maxsize=1 << 18)  # millions of answers, few of them different
def normalise(answer: str) -> str:
    """The official normal form: no punctuation, articles or capitals, numbers up to ten in digits, apostrophes set.

    A punctuation mark goes without trace where a space stands next to one of its kind, or where the answer holds a
    number such as 1,000; elsewhere it becomes a space. Periods go unless a digit follows.
    """
    answer = tidy(answer)
    thousands = _DIGIT_COMMA_DIGIT.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        if mark in text:
            gone = thousands or f"{mark} " in answer or f" {mark}" in answer
            text = text.replace(mark, "" if gone else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", text).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def tidy(answer: str) -> str:
    """Line breaks and tabs as spaces, and none around the answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def as_compared(answers: Sequence[str]) -> list[str]:
    """People's answers as the official evaluator compares them: normalised, but only where people differ."""
    answers = [tidy(answer) for answer in answers]
    return [normalise(answer) for answer in answers] if len(set(answers)) > 1 else answers


def soft_score(votes: int, people: int = 10) -> float:
    """The score of an answer that `votes` of `people` gave: min(votes / 3, 1), mean over leaving out each of them.

    Of ten people: 1 vote 0.3, 2 votes 0.6, 3 votes 0.9, 4 and more 1.
    """
    if people == 1:  # nobody is left to agree with
        return float(votes)
    left_out = votes * min((votes - 1) / 3, 1) + (people - votes) * min(votes / 3, 1)
    return left_out / people


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Each different answer and its score, in the order in which people gave them."""
    return {answer: soft_score(votes, len(answers)) for answer, votes in Counter(answers).items()}


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official accuracy (0 to 1) of one prediction, given the raw answers of (ten) people.

    Where all of them gave the same answer, the evaluator normalises neither side and wants that very answer.
    """
    differ = len({tidy(answer) for answer in answers}) > 1
    prediction = normalise(prediction) if differ else tidy(prediction)
    return soft_scores(as_compared(answers)).get(prediction, 0.0)
