"""Parts that are not of the text: running heads and feet, page numbers, licences, navigation, emptied link lists."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, pstdev
from typing import ClassVar, Literal

from innovator.curate.clean.base import BlockRule, Mend
from innovator.curate.clean.blocks import Block, Kind

LONGEST_HEAD, LONGEST_BOILERPLATE = 100, 300
FEWEST_PAGES, FEWEST_REGULAR = 2, 8
MOST_MISSING = 3  # pages to each that is found
SHORTEST_PAGE = 400  # characters
MOST_UNEVEN = 0.1  # standard deviation of the distances between running heads over their mean

PAGE_NUMBER = re.compile(
    r"(?:[-\u2013—] ?|\[ ?|(?:page|p\.) )?(\d{1,4})(?: of \d{1,4})?(?: ?[-\u2013—]| ?\])?", re.IGNORECASE
)
SITES = r"(?:facebook|twitter|linkedin|reddit|whatsapp|pinterest|instagram|e-?mail)"
PLACES = (
    r"(?:home|about(?: us)?|contact(?: us)?|privacy(?: policy)?|terms(?: of (?:use|service))?|log ?in|sign (?:in|up)"
    r"|site ?map|help|faqs?|search|blog|news|cookies?)"
)
PAGE = r"(?: (?:page|article|post))?"
BOILERPLATE = re.compile(
    r"(?:copyright|©|\(c\) ?(?:19|20)\d\d)[^\n]*(?:(?:19|20)\d\d|rights reserved)[^\n]*|all rights reserved\.?"
    r"|[^\n]{0,60}\blicen[sc]ed under (?:an?|the) (?:creative commons|cc[ -]by|gnu)\b[^\n]*"
    r"|no part of this (?:publication|book|work)\b[^\n]* may be reproduced\b[^\n]*"
    r"|[^\n]{0,60}\b(?:uses?|accept)\b[^\n]{0,30}\bcookies\b[^\n]*"
    rf"|(?:share|tweet|follow us|like us)\b[^\n]{{0,40}}\b{SITES}\b[^\n]{{0,60}}"
    rf"|{PLACES}(?: ?[|·•\u203a»>/] ?{PLACES})+|(?:previous|next){PAGE} ?[|·] ?next{PAGE}"
    r"|(?:skip|jump) to (?:main |page )?(?:content|navigation)|back to (?:the )?top|downloaded (?:from|by) [^\n]{0,120}"
    r"|(?:sign up|subscribe) (?:for|to) (?:our|the) [^\n]{0,30}newsletter[^\n]{0,40}"
    r"|this (?:page|article) was last (?:edited|modified|updated) [^\n]{0,60}"
    r"|see discussions, stats, and author profiles[^\n]*",
    re.IGNORECASE,
)
EMPTY_ITEMS = re.compile(r"(?:\s*[-*•](?: *\[ ?\]\( ?\))? *(?:\n|$)){2,}")


@dataclass(frozen=True, kw_only=True)
class Irrelevant(BlockRule):
    """Removes what repeats from page to page, and lines that belong to a publisher or a web site."""

    kind: Literal["irrelevant"] = "irrelevant"
    touches: ClassVar[frozenset[Kind]] = frozenset(("heading", "paragraph", "list", "break"))

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Removes the blocks that are the document's furniture, and lines that are boilerplate anywhere."""
        furniture = _furniture(blocks)

        def mend(block: Block) -> Block:
            if block.kind == "break" or block.text.strip() in furniture or EMPTY_ITEMS.fullmatch(block.text):
                return block.removed()
            return _without_boilerplate(block) if len(block.text) < LONGEST_BOILERPLATE else block

        return mend


def _without_boilerplate(block: Block) -> Block:
    lines = block.text.split("\n")
    kept = [line for line in lines if not BOILERPLATE.fullmatch(line.strip())]
    if not any(kept):
        return block.removed() if block.text else block
    return block.mended("\n".join(kept), len(lines) - len(kept))


def _furniture(blocks: Sequence[Block]) -> set[str]:
    """The texts of running heads, feet and page numbers.

    A line that comes again is one where it stands beside numbers that count, or beside page breaks, or at even
    distances; a number is one beside such a line or break.
    """
    starts = [0, *accumulate(len(block.text) + len(block.gap) for block in blocks)]
    places = defaultdict(list)
    for i, block in enumerate(blocks):
        if 0 < len(block.text) <= LONGEST_HEAD and "\n" not in block.text and block.kind in Irrelevant.touches:
            places[block.text.strip()].append(i)
    again = {line: found for line, found in places.items() if len(found) >= FEWEST_PAGES and line != "\f"}
    numbers = {found[0]: int(match[1]) for line, found in places.items() if (match := PAGE_NUMBER.fullmatch(line))}
    breaks = {i for i, block in enumerate(blocks) if block.kind == "break"}
    furniture: set[str] = set()
    for line, found in again.items():
        beside = [(i, number) for i in found for number in (i - 1, i + 1) if number in numbers]
        counting = _count_on([numbers[number] for _, number in beside])
        if counting and 2 * len(beside) > len(found) and _far_apart([starts[i] for i, _ in beside]):
            furniture |= {line, *(blocks[number].text.strip() for _, number in beside)}
        elif 2 * len(_beside(found, breaks)) > len(found) or (" " in line and _even([starts[i] for i in found])):
            furniture.add(line)
    at_breaks = _beside(numbers, breaks)
    if _count_on([numbers[i] for i in at_breaks]):
        furniture |= {blocks[i].text.strip() for i in at_breaks}
    return furniture


def _beside(places: Iterable[int], breaks: set[int]) -> list[int]:
    return [i for i in places if i - 1 in breaks or i + 1 in breaks]


def _count_on(numbers: Sequence[int]) -> bool:
    """Whether the numbers are those of pages: each more than the one before, and few of them missing."""
    rising = len(numbers) >= FEWEST_PAGES and all(before < after for before, after in pairwise(numbers))
    return rising and numbers[-1] - numbers[0] <= MOST_MISSING * len(numbers)


def _far_apart(starts: Sequence[int]) -> bool:
    return fmean(after - before for before, after in pairwise(starts)) >= SHORTEST_PAGE


def _even(starts: Sequence[int]) -> bool:
    if len(starts) < FEWEST_REGULAR:
        return False
    distances = [after - before for before, after in pairwise(starts)]
    return fmean(distances) >= SHORTEST_PAGE and pstdev(distances) <= MOST_UNEVEN * fmean(distances)
