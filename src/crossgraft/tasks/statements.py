"""Captions told anew as statements that end with what can be seen.

"A brown dog runs" names the colour before the dog, so that a causal model has to guess it before it can know what it is
of. "The color of the dog is brown." has it last.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from crossgraft.errors import InputError

PLACES = ("next", "word")  # of a template: the word behind a grounded word, and the grounded word
_PLACE = re.compile(r"\{([^{}]*)\}")
_PAIR = re.compile(r"([^\W\d_]+(?:-[^\W\d_]+)*)(?=\s+([^\W\d_]+(?:-[^\W\d_]+)*))")

# Words behind a colour that it is not of: "dressed in red and", "a man in blue is", "in white standing".
NO_NOUNS = frozenset(
    ("a", "an", "and", "are", "as", "at", "behind", "by", "color", "colored", "colour", "coloured", "for", "from",
     "has", "have", "in", "into", "is", "it", "its", "near", "of", "off", "on", "one", "ones", "onto", "or", "out",
     "over", "that", "the", "their", "to", "under", "up", "was", "were", "while", "who", "with")
)  # fmt: skip
THINGS = frozenset(
    ("awning", "building", "ceiling", "clothing", "earring", "king", "lightning", "painting", "railing", "ring",
     "string", "swing", "wing")
)  # fmt: skip


def check_template(template: str, words: Collection[str]) -> None:
    """Raises:
    InputError: a template without {next} or {word}, with another place, or with a grounded word of its own; {word}
        stands before {next}, or in one word with something else.
    """
    found = _PLACE.findall(template)
    own = re.findall(r"[^\W_]+", template.replace("{next}", " ").replace("{word}", " ").lower())
    if grounded := [word for word in own if word in words]:
        raise InputError(f"statement: says {grounded[0]!r} of whatever is told; leave it out of {template!r}")
    alone = re.search(r"(?:^|[\s\"'(]){word}(?![\w{-])", template)
    if sorted(found) != sorted(PLACES) or not alone or template.index("{next}") > template.index("{word}"):
        raise InputError(
            f"statement: expected a sentence with {{next}} and behind it {{word}}, such as 'The color of the {{next}} "
            f"is {{word}}.', found {template!r}"
        )


def statements(caption: str, words: Collection[str], template: str) -> list[str]:
    """A statement for every grounded word of a caption and the word behind it, in order, each once.

    Nothing is parsed. What can be no noun (`NO_NOUNS`, forms in -ing but for `THINGS`, other grounded words) is passed
    over, so "a black and white dog" tells of the white dog alone; of "a red life jacket" it is the life that is red.

    Args:
        words: grounded words, in small letters.
        template: as `check_template` has it.
    """
    found: dict[str, None] = {}
    for match in _PAIR.finditer(caption):
        word, following = match.group(1).lower(), match.group(2).lower()
        verb = following.endswith("ing") and following not in THINGS
        if word in words and following not in words and following not in NO_NOUNS and not verb:
            found[template.replace("{next}", following).replace("{word}", word)] = None
    return list(found)
