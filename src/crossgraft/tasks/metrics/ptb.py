"""The caption tokenisation of the official MS-COCO scorer, without its Java.

The official wrapper runs Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) and then drops a list of
punctuation. This is a scanner of our own for the part of the Penn Treebank rules that captions and questions meet;
docs/tasks.md says how far it agrees with the Java program.
"""

from __future__ import annotations

import re
import unicodedata

# The official list. It also holds -LRB- and its like, in capitals: the tokens come in lower case, so brackets stay.
PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))

_SIGNS = {
    "RIGHT SINGLE QUOTATION MARK": "'",
    "LEFT SINGLE QUOTATION MARK": "'",
    "RIGHT DOUBLE QUOTATION MARK": '"',
    "LEFT DOUBLE QUOTATION MARK": '"',
    "HORIZONTAL ELLIPSIS": "...",
    "EN DASH": " -- ",
    "EM DASH": " -- ",
    "EURO SIGN": "$",
    "POUND SIGN": "#",
    "CENT SIGN": " cents ",
    "VULGAR FRACTION ONE QUARTER": " 1/4",
    "VULGAR FRACTION ONE HALF": " 1/2",
    "VULGAR FRACTION THREE QUARTERS": " 3/4",
    "SUPERSCRIPT TWO": " \N{SUPERSCRIPT TWO} ",
    "SUPERSCRIPT THREE": " \N{SUPERSCRIPT THREE} ",
    "NO-BREAK SPACE": " ",
    "SOFT HYPHEN": "",
    "REPLACEMENT CHARACTER": " ",
}
_ONE_FOR_ANOTHER = {ord(unicodedata.lookup(name)): sign for name, sign in _SIGNS.items()}
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

# Words whose period belongs to them: always, only with a capital, only in front of a number.
_ABBREVIATIONS = """
    mr mrs ms drs? profs? sens? reps? lt col gen govs? adm rev maj sgt cpl pvt capt ste? ave pres hon brig cmdr det jr
    sr bros esq inc cos? corp ltd plc dept univ intl etc vs al est ext sq cf bldg rd blvd mt ft tel wm jos alex cie
    messrs jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri ariz calif conn fla mich minn okla
    va vt wis wyo ind mo ala colo ga kan ky md neb nev ph\\.d ed\\.d
"""
_CAPITAL_ABBREVIATIONS = "Mass Ore Pa Tex Wash Ill Miss Ark Del La"
_NUMBER_ABBREVIATIONS = "figs? nos? art pp? op ca"
_SPLIT_WORDS = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "wanna": ("wan", "na"), "gotta": ("got", "ta"),
    "lemme": ("lem", "me"), "gimme": ("gim", "me"), "'tis": ("'t", "is"), "'twas": ("'t", "was"),
    "y'all": ("y'", "all"), "d'ye": ("d'", "ye"), "more'n": ("more", "'n"),
}  # fmt: skip

_LETTER = r"[^\W_]"  # or a digit
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s<>"]+[^\s<>".,;:!?)'] | [\w.%+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{{2,}}
    | </?[a-z][^<>]*> | -[lr][rsc]b- | [#@][a-z]\w+
    | '(?:tis|twas)\b | '?\bn'(?=\s|$) | 'em\b | '\d0s\b | '\d\d(?=\s) | y'all\b
    | (?:[a-z]\.)+(?=[^a-z0-9]|$) | (?:[a-z]\.){{2,}}
    | (?:{"|".join(_ABBREVIATIONS.split())})\.(?!{_LETTER})
    | (?-i:{"|".join(_CAPITAL_ABBREVIATIONS.split())})\.(?!{_LETTER})
    | (?:{"|".join(_NUMBER_ABBREVIATIONS.split())})\.(?=\s+\d)
    | \d+/\d+(?:/\d+)?(?!\w) | (?:(?<![\w.])[-+])?(?:\d+(?:[.,:]\d+)+|(?<!\d)\.\d+)(?!-{_LETTER})
    | [+-](?<!\w.)\d+(?![\w-]) | c\+\+ | c\#
    | [a-z]'(?!(?:s|m|d|re|ve|ll|t)\b)[a-z]{{2,}} | ma'am\b
    | (?-i:[A-Z]+(?:&[A-Z]+)+)
    | {_LETTER}+(?:(?:[-/_.]|(?<=n)'(?=t\b)){_LETTER}+)*
    | '(?:s|m|d|re|ve|ll)\b
    | [<>]?[:;=][-o*']?[()dp](?!\w) | \.\.\.+ | [?!]{{2,}} | -+ | [()\[\]{{}}]
    | [^\w\s] | _
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NOT = re.compile(r"(.+?)(n't)")


def tokenize(caption: str) -> list[str]:
    """A caption -> its tokens in lower case, without punctuation.

    Clitics are split ("dog's" -> "dog 's", "don't" -> "do n't"), hyphens and slashes within words are kept, brackets
    become "-lrb-" and its like. An empty caption has no tokens.
    """
    tokens: list[str] = []
    for entity, sign in _ENTITIES.items():
        caption = caption.replace(entity, sign)
    for match in _TOKEN.finditer(caption.translate(_ONE_FOR_ANOTHER)):
        token = match.group().lower()
        negated = _NOT.fullmatch(token)
        if token in _SPLIT_WORDS:
            tokens += _SPLIT_WORDS[token]
        elif negated:
            tokens += negated.groups()
        elif token not in PUNCTUATION and token.strip('-."'):
            tokens.append("".join(_BRACKETS.get(letter, letter) for letter in token))
    return tokens
