"""
Noun chunks by rules, for where no parser is installed.

How people point at things is a narrow language: what is meant comes first ("left guy in the blue shirt", "the bear closest to us"),
and ends where a preposition, a verb or a place begins. The rules were fitted on half of RefCOCO's expressions.
"""

import re

from .expression_parsing import Chunk, Parse, Word


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREPOSITIONS = _words(
    "in on at of with from to by near behind beside besides above below under underneath beneath over next between against along "
    "around across inside outside into onto off up down toward towards for without about through like as per beyond within out away "
    "infront inbetween ontop thru except iwth eith wih wth"
)
# Pronouns, auxiliary verbs, conjunctions and adverbs.
LINKS = _words(
    "or but that who which whose whom what where when while w wit is are was were has have having isnt not s he she it they we you i "
    "whos thats its can cant all just almost partially partly mostly directly straight there here no any sorry lol haha please again "
    "barely after facing"
)
VERBS = _words(
    "flipped crossed marked surround had cut took wear wears hold holds sit sits stand stands look looks eats says ridden go bent laying lying hidden shown seen made"
)
NOUNS_IN_ING = _words(
    "building painting railing awning ceiling clothing string thing ring king wing morning evening something anything everything "
    "nothing icing stuffing frosting pudding siding swing wedding parking bowling ending earring covering topping serving paneling "
    "landing opening lighting darling sibling sting spring bling sling outing drawing"
)
NOT_PARTICIPLES = _words("red bed sled shed seed weed striped checkered polka")
DISTANCES = _words("nearest closest furthest farthest nearer closer further farther far")
SIDES = _words("left right upper lower leftmost rightmost far")
PLACES = _words("left right top bottom middle center centre back front upper lower corner leftmost rightmost")
TRAILING = _words("left right back far upper lower leftmost rightmost")  # of a chunk, they tell its place
ORDINALS = _words("second third fourth fifth first 2nd 3rd 4th")
DETERMINERS = _words("the a an this that my your his her one two")
STATES = _words("empty full tall only visible stacked")
AFTERTHOUGHTS = _words(
    "close together tiny upside yet creepily anywhere thanks high highest very smack either okay last pic partially curly gloves "
    "sunglasses slanted"
)
MISSPELT = _words(
    "frt frm let thrid direcly closes cloestest onright farleft picleft whands wfolded shes"
)  # of such words
COLOURS = _words(
    "red green blue yellow orange purple pink brown black white gray grey tan gold silver beige maroon teal dark light striped plaid"
)


def parse_by_rules(text: str) -> Parse:
    """
    Finds the noun chunks of an expression or a caption.

    Args:
        text (`str`): In lower case.

    Returns:
        `Parse`: The first chunk's noun is the root of all; where nothing is a noun, the last word is.
    """
    words = re.findall(r"[^\s,.;]+|[,.;]", text)
    chunks: list[Chunk] = []
    start = 0
    while start < len(words):
        if _ends(words, start, start):
            start += 1
            continue
        end = next((place for place in range(start + 1, len(words)) if _ends(words, start, place)), len(words))
        last = _trim(words, start, end)
        chunks.append(Chunk(start, last, last - 1))
        start = end
    root = chunks[0].root if chunks else len(words) - 1
    heads = [root] * len(words)
    for chunk in chunks:
        heads[chunk.start : chunk.end] = [chunk.root] * (chunk.end - chunk.start)
        heads[chunk.root] = root
    roles = ["ROOT" if place == root else "dep" for place in range(len(words))]
    return Parse(
        text,
        tuple(Word(word, "", role, head) for word, role, head in zip(words, roles, heads, strict=True)),
        tuple(chunks),
    )


def _ends(words: list[str], start: int, place: int) -> bool:
    """Whether a chunk that began at `start` ends before the word at `place`; at `start` itself, whether none begins."""
    word = words[place]
    following = words[place + 1] if place + 1 < len(words) else ""
    before = words[start:place]
    is_verb = word in VERBS or (word.endswith("ing") and word not in NOUNS_IN_ING)
    is_participle = word.endswith("ed") and word not in COLOURS | NOT_PARTICIPLES
    if word in ",.;" or word in PREPOSITIONS or word in LINKS:
        return True
    if word == "and":  # "black and white" is one look
        return not (before and before[-1] in COLOURS and following in COLOURS)
    if not before:
        return start > 0 and (is_verb or is_participle)
    previous = before[-1]
    is_last = not following or following in PREPOSITIONS
    modifies = previous in DETERMINERS | ORDINALS | PLACES  # "the standing man", but "the man standing"
    return (
        (word in AFTERTHOUGHTS | MISSPELT and previous not in DETERMINERS | PLACES | COLOURS)
        or (word in DISTANCES and previous not in DETERMINERS)
        or (is_verb and (not modifies or is_last or following in PLACES | DETERMINERS))
        or (word in SIDES and not modifies and previous not in DISTANCES | {"very", "most", "extreme"})
        or (word in ("the", "a", "an", "my") and previous not in ("all", "half"))
        # "top row second from left", but "top row second donut"
        or (word in ORDINALS and (is_last if previous == "row" else not set(before) <= DETERMINERS | PLACES))
        or ((is_participle or word in STATES) and is_last)
    )


def _trim(words: list[str], start: int, end: int) -> int:
    """Where a chunk ends without the numbers and places that follow its noun."""
    while end - start > 1 and words[end - 1].isdigit():
        end -= 1
    while end - start > 1 and words[end - 1] in TRAILING:
        if all(word in PLACES | DETERMINERS for word in words[start : end - 1]):
            break
        end -= 1
    return end


__all__ = ["parse_by_rules"]
