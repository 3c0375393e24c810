"""Words, sentences and syllables of running text, and the terms that matter in it. English where a language matters."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

STOPWORDS = frozenset(
    """a about above after again all also although always am an and another any are aren't as at be because been before
    being below between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during
    each either else even every few first for from further get gets getting given go had has hasn't have haven't having
    he her here hers him his how however i i'm if in instead into is isn't it it's its itself just last less let let's
    like made make makes many may me might more most much must my need needs neither new next no nor not now of off
    often on once one only onto or other our ours out over own per please same see set several shall she should since
    so some still such take than that that's the their theirs them then there therefore these they they're this those
    though through thus to together too toward two under until up upon us use used useful uses using usually very via
    want was wasn't way we well were weren't what when where whether which while who whose why will with within without
    won't would yes yet you you're your yours e.g i.e etc""".split()  # noqa: SIM905  a page of quotes reads worse
)

_URL = re.compile(r"\b[a-z]{2,10}://\S{1,2000}")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # noqa: RUF001  the typographic apostrophe is meant
_TERM = re.compile(r"[^\W_][\w.+#'’-]*")  # noqa: RUF001
_SENTENCE_END = re.compile(r"[.!?…]['\")\]’”*_]{0,3}(?=\s|$)|[。！？]")  # noqa: RUF001
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|vs|cf|approx|resp|incl|ca|mr|mrs|ms|dr|prof|st|no|fig|sec|vol|inc|ltd|co|jr|sr|[a-z])\.$", re.I
)
_NUMBER = re.compile(r"\d{1,30}")
_VOWELS = re.compile(r"[aeiouyà-öø-ÿ]+")
_ABBREVIATION_REACH = 12  # characters before a full stop in which an abbreviation is looked for


def words(text: str) -> list[str]:
    """The words of `text` as they stand: runs of letters, apostrophes inside included; web addresses are none."""
    return _WORD.findall(_URL.sub(" ", text))


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Split at full stops, question and exclamation marks; yields (offset, sentence). Knows common abbreviations."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        before = text[max(0, end.start() - _ABBREVIATION_REACH) : end.start() + 1]
        if before.endswith(".") and _continues(before, text[end.end() : end.end() + 3].lstrip()[:1]):
            continue
        yield from _piece(text, start, end.end())
        start = end.end()
    yield from _piece(text, start, len(text))


def _continues(before: str, following: str) -> bool:
    """Whether the full stop that ends `before` does not end a sentence."""
    return following.islower() or (bool(following) and _ABBREVIATION.search(before) is not None)


def _piece(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        yield start + piece.index(stripped[0]), stripped


def syllables(word: str) -> int:
    """An estimate: groups of vowels, without a silent final e; at least one."""
    word = word.lower()
    count = len(_VOWELS.findall(word))
    silent = word.endswith("e") and not word.endswith(("le", "ee", "ye"))
    silent = silent or (word.endswith("ed") and not word.endswith(("ted", "ded")))
    silent = silent or (word.endswith("es") and not word.endswith(("ses", "zes", "xes", "ches", "shes", "ges", "ces")))
    return max(1, count - 1 if silent and count > 1 else count)


def reading_ease(word_list: Sequence[str], sentence_count: int) -> float | None:
    """Flesch reading ease: 206.835 - 1.015 words/sentence - 84.6 syllables/word; 60-70 is plain English, below 30 very
    hard. None for no words. (R. Flesch, "A new readability yardstick", Journal of Applied Psychology 32(3), 1948.)"""
    if not word_list or not sentence_count:
        return None
    per_word = sum(map(syllables, word_list)) / len(word_list)
    return round(206.835 - 1.015 * len(word_list) / sentence_count - 84.6 * per_word, 1)


def terms(text: str) -> Counter[str]:
    """How often each term occurs: lower case, at least three characters, no stop words, no bare numbers."""
    found: Counter[str] = Counter()
    for match in _TERM.findall(_URL.sub(" ", text)):
        term = match.lower().rstrip(".-'’").removesuffix("'s")  # noqa: RUF001
        if len(term) >= 3 and term not in STOPWORDS and not term.replace(".", "").isdigit():
            found[term] += 1
    return found


def weigh(counts: Sequence[Counter[str]]) -> list[dict[str, float]]:
    """Weigh each document's terms: by frequency alone for one document, else tf-idf with idf = ln((1+N)/(1+df)) + 1."""
    total = len(counts)
    containing: Counter[str] = Counter()
    for count in counts:
        containing.update(count.keys())
    return [
        {term: number * (math.log((1 + total) / (1 + containing[term])) + 1) for term, number in count.items()}
        for count in counts
    ]


def key_terms(weights: dict[str, float], count: Counter[str], limit: int) -> list[dict[str, object]]:
    """The heaviest terms: `[{term, count, weight}]`, heaviest first, ties in alphabetical order."""
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return [{"term": term, "count": count[term], "weight": round(weight, 2)} for term, weight in ranked[:limit]]


def summarise(text_sentences: Sequence[str], weights: dict[str, float], limit: int) -> list[str]:
    """Extract the sentences whose words weigh most on average, in their order (after H. P. Luhn, 1958).

    What stands early counts up to twice as much. Left out are sentences under 6 or over 50 words, those that announce
    what follows, and those that recur, numbers apart.
    """
    patterns = Counter(_NUMBER.sub("0", sentence) for sentence in text_sentences)
    scored: list[tuple[float, int, str]] = []
    for position, sentence in enumerate(text_sentences):
        found = words(sentence)
        if 6 <= len(found) <= 50 and not sentence.endswith(":") and patterns[_NUMBER.sub("0", sentence)] == 1:
            weight = sum(weights.get(term, 0.0) * number for term, number in terms(sentence).items())
            scored.append((weight / len(found) * (2 - position / len(text_sentences)), -position, sentence))
    best = sorted(scored, reverse=True)[:limit]
    return [sentence for _, _, sentence in sorted(best, key=lambda item: -item[1])]


def shorten(text: str, limit: int) -> str:
    """The text on one line, cut to `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
