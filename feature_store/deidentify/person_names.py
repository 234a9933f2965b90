"""Names of people and hospitals in texts, found by what stands beside them: a title, a label, a degree, the word hospital.

Nothing says of a word alone that it is a name, so a name without such a neighbour is not found. Where a name ends is told by
its capitals; in texts of capitals alone, by the words that reports are made of. RE2 marks the places; few words are looked at.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import polars as pl

from feature_store.deidentify.dates import BOUNDARY as B
from feature_store.deidentify.report_words import NO_NAME, OF_A_NAME, OF_A_PLACE, SURNAMES_TOO

_LABEL = (
    r"patient(?:'s)?(?: name)?|pt(?: name)?|(?:last |first |middle |maiden |family |given |full )?name|surname|surgeon|"
    r"physicians?|clinicians?|attending|resident|fellow|consultant|provider|prosector|assistant|[a-z]{4,}ists?|dictat(?:or|ion)|"
    r"author|signature|initials|witness|to|from|cc|attn|attention|dear|cop(?:y|ies) to|report to|subject|re|regarding|contact|"
    r"next of kin|mother|father|spouse|husband|wife|son|daughter|guardian|sister|brother|ordering md"
)
_DONE = (
    "signed|dictated|reported|reviewed|verified|transcribed|interpreted|submitted|requested|ordered|examined|performed|read|seen|"
    "referred|authenticated|released|approved|collected|received|grossed|prepared|diagnosed|typed|entered|called|notified|cut"
)
_WITH = "discussed with|(?:conveyed|reported|communicated|called|given|phoned|relayed|shown) to"
_ROLE = "(?:attending|referring|ordering|requesting|consulting) (?:physician|provider|surgeon|pathologist)|pathologist|resident"
_DEGREE = r"M\. ?D\.?|MD|D\. ?O\.|Ph\. ?D\.?|PhD|M\.?B\.?B\.?S\.?|M\.?B\.?,? ?Ch\.?B\.?|FRCPath|FCAP|FRCP|R\. ?N\.?|PA-C|P\.A\."
_PLACE = "hospitals?|medical cent(?:er|re)|clinic|cancer cent(?:er|re)|infirmary|university|health(?:care)? systems?"


@dataclass(frozen=True)
class _Neighbour:
    """What a name stands beside. `is_sure`: that can be nothing but a name, be it a common word too."""

    pattern: str
    follows: bool  # whether the name does
    kind: str = "name"
    fewest_words: int = 1
    most_words: int = 3
    links: frozenset[str] = OF_A_NAME
    is_sure: bool = False

    @property
    def common(self) -> frozenset[str]:
        """Words that end a name."""
        return NO_NAME - SURNAMES_TOO if self.is_sure else NO_NAME


_TITLE = _Neighbour(
    rf"(?i){B}(?:drs?|prof|mr|mrs|ms|miss|doctor|professor|doktor){B}\s?[.,;:]{{0,2}}\s{{0,3}}",
    follows=True,
    links=OF_A_NAME | {"and"},
    is_sure=True,
)
_NEIGHBOURS = (
    _TITLE,
    _Neighbour(rf"(?i){B}(?:{_LABEL})(?: ?\([a-z, ]{{1,20}}\))?\s?[:;=]+\s{{0,3}}", follows=True),
    _Neighbour(rf"(?i){B}(?:(?:{_DONE})(?: out| off)? by|{_WITH}|the name(?: of)?){B}\s?[:;,]?\s{{0,3}}", follows=True),
    _Neighbour(rf"(?i){B}(?:{_ROLE}){B}\s{{1,3}}", follows=True, fewest_words=2),
    _Neighbour(rf"[ ,.]{{0,4}}{B}(?:{_DEGREE})(?:[^0-9A-Za-z]|$)", follows=False, is_sure=True),
    _Neighbour(r" ?[(/,;]? ?\[record\]", follows=False, fewest_words=2),
    _Neighbour(rf"(?i)[ ,.]{{1,3}}(?:{_PLACE}){B}", follows=False, kind="hospital", most_words=4, links=OF_A_PLACE),
)
# A mark stands between a neighbour and where the name is looked for: a character of a plane of Unicode that is nobody's.
_BESIDE = {chr(0xF0000 + number): neighbour for number, neighbour in enumerate(_NEIGHBOURS)}
_ANY_MARK = f"[{min(_BESIDE)}-{max(_BESIDE)}]"
_MARK = re.compile(_ANY_MARK)
_NEXT = re.compile(r"(?P<gap>[\s,.&]{0,4})(?P<word>[^\W\d_](?:[^\W_]|['\u2019`-])*)")
# What a name that is looked for elsewhere is made of; what is read off a bar code or counts stages is no name.
_SPELLED = re.compile(r"[^\W\d_](?:[^\W\d_]|['\u2019-]){2,}")
_STROKES = re.compile(r"[IVXl1|!]+")
_MOST_SIGNS = 90
Words = Iterable[tuple[re.Match[str], bool]]


def without_names(texts: pl.Series, people: Collection[str] = ()) -> tuple[pl.Series, Counter[str]]:
    """Return texts with `[name]` and `[hospital]` for what stands beside such a neighbour, and how many of each.

    `people`: names that are known, first and last in one or apart; their words are looked for wherever they stand.
    """
    counts = Counter[str]()
    known = {word for name in people for _, word in _NEXT.findall(name)}
    texts = texts.str.replace_all(_ANY_MARK, "")
    for mark, neighbour in _BESIDE.items():
        texts = texts.str.replace_all(neighbour.pattern, f"${{0}}{mark}" if neighbour.follows else f"{mark}${{0}}")
    new = [None if text is None else _MARK.sub("", _tagged(text, known, counts)) for text in texts]
    return pl.Series(texts.name, new, dtype=pl.String), counts


def _tagged(text: str, known: Collection[str], counts: Counter[str]) -> str:
    parts, end, people = [], 0, set(known)
    for begin, stop, kind in sorted(filter(None, (_beside(text, mark) for mark in _MARK.finditer(text)))):
        if begin >= end:
            words = [word for _, word in _NEXT.findall(text, begin, stop)]
            if kind == "name" and (len(words) > 1 or _BESIDE.get(text[begin - 1]) is _TITLE):
                people.update(words)
            parts += [text[end:begin], f"[{kind}]"]
            end = stop
            counts[kind] += 1
    return _without_people("".join([*parts, text[end:]]), people, counts)


def _without_people(text: str, people: Collection[str], counts: Counter[str]) -> str:
    """Replace the names of people elsewhere in the text, unless they are common words or stand there in small letters too."""
    names = {word.title() for word in people if _SPELLED.fullmatch(word) and word.lower() not in NO_NAME}
    found = {word for _, word in _NEXT.findall(text)} if names else set()
    again = {word for word in found if word.title() in names and word.lower() not in found}
    if not again:
        return text
    text, num_again = re.subn(rf"\b(?:{'|'.join(map(re.escape, sorted(again)))})\b(?!\])", "[name]", text)
    counts["name"] += num_again
    return text


def _beside(text: str, mark: re.Match[str]) -> tuple[int, int, str] | None:
    """Return where the name beside a mark begins and ends, and what it is a name of; None where none is there."""
    neighbour = _BESIDE[mark[0]]
    is_lower = neighbour is _TITLE and text[max(0, mark.start() - _MOST_SIGNS) : mark.start()].rsplit(maxsplit=1)[-1].islower()
    words = _name(
        _onwards(text, mark.end()) if neighbour.follows else _backwards(text, mark.start()), neighbour, is_lower=is_lower
    )
    if not words:
        return None
    first, last = (words[0], words[-1]) if neighbour.follows else (words[-1], words[0])
    return first.start("word"), last.end("word"), neighbour.kind


def _name(words: Words, neighbour: _Neighbour, *, is_lower: bool) -> list[re.Match[str]]:
    """Return the words, in the order given, that are a name: the first ones, as long as each is joined to the one before.

    `is_lower`: the title is in small letters, so one word in small letters may be a name.
    """
    kept: list[re.Match[str]] = []
    waiting: list[re.Match[str]] = []
    num_whole = 0
    for match, is_joined in words:
        word = match["word"]
        if not is_joined or num_whole == (1 if is_lower else neighbour.most_words):
            break
        if word.lower() in neighbour.links:
            waiting.append(match)
            continue
        is_initial = len(word) == 1 and word.isupper()
        is_common = word.lower() in neighbour.common or _STROKES.fullmatch(word) is not None
        if not is_initial and (is_common or not (word[0].isupper() or is_lower)):
            break
        kept += [*waiting, match]
        waiting = []
        num_whole += len(word) > 1
    return kept if num_whole >= neighbour.fewest_words else []


def _onwards(text: str, at: int) -> Words:
    before = None
    while match := _NEXT.match(text, at):
        yield match, before is None or _is_joined(match["gap"], before)
        before, at = match["word"], match.end()


def _backwards(text: str, stop: int) -> Words:
    for match in reversed(list(_NEXT.finditer(text, max(0, stop - _MOST_SIGNS), stop))):
        yield match, _is_joined(text[match.end() : stop], match["word"])
        stop = match.start("word")


def _is_joined(gap: str, before: str) -> bool:
    """Say whether what stands between two words of a text may stand within a name: `Smith, J. Q.`, but not `Smith. Received`."""
    sign = gap.strip(" ")
    return sign in {"", ","} or (sign == "." and (len(before) == 1 or before.lower() in {"st", "dr"}))
