"""
The steps of TAS and Global-Local as their authors' released code has them, where this package's default does better:
`mode="paper"`.

The systems ask [`PublishedTASSteps`] and [`PublishedGlobalLocalSteps`]. From top to bottom: TAS's spatial rectifier, its negative
phrases, its images of regions, and Global-Local's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.utils import logging

from .language_expression import Expression
from .language_negatives import PREFIX, lemmas, load_wordnet
from .language_parsing import Parse
from .zero_shot_cache import CachedImage
from .zero_shot_parts import ImageText
from .zero_shot_regions import MIN_REGION_AREA, box_of, fill_around


logger = logging.get_logger(f"transformers.{__name__}")  # under transformers' verbosity


# TAS's spatial rectifier (EMNLP Findings 2023, section 3.4), defects included. It splits the regions by the median of their centres
# into four quadrants, and where the expression says "left", "top" and the like of its referent, takes the best region of the
# quadrants that this allows. Whether it says so of the referent is read off a dependency parse.

LEFT, RIGHT = {"left", "west"}, {"right", "east"}
ABOVE, BELOW = {"above", "north", "top"}, {"below", "south", "under"}
# (height, side, words)
QUADRANT_WORDS = (("", "left", LEFT), ("", "right", RIGHT), ("top", "", ABOVE), ("bottom", "", BELOW))
# Words that relate things to each other, words for parts of an image, and words that tell one thing from all others.
RELATIVE_WORDS = (
    LEFT | RIGHT | ABOVE | BELOW | {"bigger", "larger", "closer", "smaller", "tinier", "further", "inside", "between"}
)
NULL_WORDS = {"part", "image", "side", "picture", "half", "region", "section"}
SUPERLATIVES = (
    ((LEFT | RIGHT | ABOVE | BELOW) - {"under"})
    | {"leftmost", "western", "rightmost", "eastern", "underneath"}
    | {"bigger", "biggest", "larger", "largest", "closer", "closest"}
    | {"smaller", "smallest", "tinier", "tiniest", "further", "furthest"}
)


@dataclass(frozen=True)
class Mention:
    """A thing that an expression speaks of. Chains are positions of words."""

    phrase: str  # its noun chunk, with modifiers that follow it
    superlatives: tuple[tuple[int, ...], ...]  # chains that tell it from others
    relations: tuple[tuple[tuple[int, ...], "Mention"], ...]  # chains that lead to something else, and that


def widen_chunks(parse: Parse) -> dict[int, tuple[int, int]]:
    """Find (start, end) of the chunk that each word of a chunk lies in, with the modifiers that follow it and hold no other chunk."""
    inside = {position for chunk in parse.chunks for position in range(chunk.start, chunk.end)}
    blocked = inside | {above for position in inside for above in parse.ancestors(position)}
    spans: dict[int, tuple[int, int]] = {}
    for chunk in parse.chunks:
        positions, end = set(range(chunk.start, chunk.end)), chunk.end
        while end < len(parse.words) and end not in blocked and not positions.isdisjoint(parse.ancestors(end)):
            end += 1
        spans |= dict.fromkeys(positions, (chunk.start, end))
    return spans


def read_mention(parse: Parse) -> Mention | None:
    """Find what the first sentence is about, or else the head of the first chunk; `None` where neither is in a chunk."""
    if not parse.chunks:
        return None
    chunks = widen_chunks(parse)
    mention = _mention_at(parse.roots()[0], parse, chunks)
    return mention or _mention_at(parse.words[parse.chunks[0].root].head, parse, chunks)


def _mention_at(position: int, parse: Parse, chunks: dict[int, tuple[int, int]]) -> Mention | None:
    if position not in chunks:
        children = parse.children(position)
        if not children or children[0] not in chunks:
            return None
        position = children[0]
    relations: list[tuple[tuple[int, ...], Mention]] = []
    superlatives: list[tuple[int, ...]] = []

    def follow(word: int, chain: tuple[int, ...]) -> None:
        text = parse.words[word].text
        # Any other word of the referent's chunk counts as another thing, unless it is one of these.
        if word in chunks and word != position and text not in RELATIVE_WORDS | NULL_WORDS:
            other = _mention_at(word, parse, chunks)
            assert other is not None, "it lies in a chunk"
            relations.append((tuple(sorted(chain)), other))
            return
        children = parse.children(word)
        if not children and any(parse.words[each].text in SUPERLATIVES for each in (*chain, word)):
            superlatives.append((*chain, word))
        if word not in chunks or text in RELATIVE_WORDS | NULL_WORDS | SUPERLATIVES:
            chain = (*chain, word)
        for child in children:
            follow(child, chain)

    follow(position, ())
    return Mention(parse.text(*chunks[position]), tuple(superlatives), tuple(relations))


def rectify_as_published(
    expression: Expression, centres: Sequence[Sequence[int]], weights: Sequence[float] | np.ndarray
) -> int:
    """Choose a region by the (row, column) of their centres in whole pixels and by their shares; returns its number."""
    parse = expression.parse
    start = int(np.argmax(weights))
    mention = read_mention(parse)
    if (
        mention is None
        or mention.phrase != expression.noun_phrase
        or bool(mention.superlatives) == bool(mention.relations)
    ):
        return start
    quadrants = Quadrants(centres, weights, start)
    text = parse.source.lower()

    def says(*words: str) -> bool:
        return any(word in text for word in words)  # inside of other words, too

    def find_height(below: Iterable[str]) -> str:
        return "top" if says(*ABOVE) else "bottom" if says(*below) else ""

    any_side = "left" if says(*LEFT) else "right" if says(*RIGHT) else ""
    if mention.superlatives:
        height = find_height(("below", "south", "underneath"))
        return quadrants.best(height, any_side) if height or any_side else start

    choice = start
    for chain, other in mention.relations:
        words = {parse.words[position].text for position in chain}
        for height, side, meaning in QUADRANT_WORDS:
            if words.isdisjoint(meaning):
                continue
            # "on the left side" leads to the left side, and nothing else.
            if other.phrase == mention.phrase or any(word in other.phrase for word in meaning & words):
                choice = quadrants.best(height or find_height(BELOW), side or any_side)
            break
    return choice


class Quadrants:
    """Regions by the median of their centres: in row and column below it, or not. An empty quadrant points to `fallback`."""

    def __init__(self, centres: Sequence[Sequence[int]], weights: Sequence[float] | np.ndarray, fallback: int) -> None:
        is_top, is_left = (np.asarray(centres) < np.median(centres, axis=0)).T
        self.weights = np.asarray(weights)
        self.fallback = fallback
        self.members = {
            (height, side): np.flatnonzero((is_top == (height == "top")) & (is_left == (side == "left")))
            for side in ("left", "right")
            for height in ("top", "bottom")
        }

    def best(self, height: str, side: str) -> int:
        """The best region of a quadrant, or of two where one word is empty; of equal ones, the bottom or right quadrant's."""
        found = []
        for (height_of, side_of), members in self.members.items():
            if height in ("", height_of) and side in ("", side_of):
                number = int(members[np.argmax(self.weights[members])]) if len(members) else self.fallback
                found.append((float(self.weights[number]) if len(members) else 0.0, number))
        return max(reversed(found), key=lambda each: each[0])[1]


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    """(row, column), the means over what is true."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


# TAS's negative phrases (section 3.3, "N-score").

MIN_NEAR_PAIRS = 3  # so many pairs of meanings must be near for two nouns to mean the same
MIN_SIMILARITY = 0.9


def negatives_as_published(
    caption: Parse,
    noun_phrase: str,
    nouns_of: Callable[[str], list[str]],
    count_near_pairs: Callable[[str, str], int],
) -> list[str]:
    """
    List "a photo of …" for every noun chunk of a caption but near-synonyms of the referent. A noun of few meanings is not near itself.
    `nouns_of` lists a phrase's nouns in order.
    """
    referent_nouns = nouns_of(noun_phrase)
    phrases = []
    for chunk in caption.chunks:
        phrase = caption.text(chunk.start, chunk.end)
        nouns = nouns_of(phrase)
        has_nouns = bool(nouns and referent_nouns)
        if not has_nouns or count_near_pairs(nouns[0], referent_nouns[0]) < MIN_NEAR_PAIRS:
            phrases.append(PREFIX + phrase)
    return phrases


def count_near_pairs(one: str, other: str) -> int:
    """
    Count the pairs of two words' meanings that have a path similarity above 0.9 in WordNet. Where its corpus is not installed, words
    of one lemma are near, and no others.
    """
    meanings = load_wordnet()
    if meanings is None:
        logger.warning_once("WordNet is not installed: nouns mean the same only where they are the same.")
        return MIN_NEAR_PAIRS if lemmas(one) & lemmas(other) else 0
    return sum(
        (meanings.path_similarity(first, second) or 0.0) > MIN_SIMILARITY
        for first in meanings.synsets(one)
        for second in meanings.synsets(other)
    )


def list_nouns(phrase: str, parser: Callable[[str], Parse]) -> list[str]:
    """List a phrase's nouns as a parser tags them, where the released code asks NLTK's tagger: of the phrase by itself."""
    parse = parser(phrase)
    nouns = [word.text for word in parse.words if word.tag in ("NOUN", "PROPN")]
    return nouns or [parse.words[chunk.root].text for chunk in parse.chunks]


# TAS's images of regions (section 3.2).

BLUR_SIZE = 75  # pixels; the standard deviation that OpenCV chooses for it is 11.6


def cut_out_as_published(image: np.ndarray, mask: np.ndarray, filling: np.ndarray | None = None) -> np.ndarray:
    """Cut out a region like [`cut_out`], without the last row and column of its box and, where padding is odd, of the padding."""
    box = tuple(slice(side.start, max(side.stop - 1, side.start + 1)) for side in box_of(mask))
    crop = fill_around(image, mask, box, filling)
    height, width = crop.shape[:2]
    rows, columns = max(0, width - height) // 2, max(0, height - width) // 2
    return np.pad(crop, [(rows, rows), (columns, columns), (0, 0)])


def blur(image: np.ndarray) -> np.ndarray:
    """
    Blur an image of bytes, (height, width, channels), as OpenCV's Gaussian with a kernel of 75 pixels does, to the bit: in whole
    numbers, with weights in 256ths. Both modes need it.
    """
    rows, columns = (_blur_matrix(side) for side in image.shape[:2])
    # Exact: whole numbers below 2**24, however they are added up.
    states = rows @ image.transpose(2, 0, 1).astype(np.float32) @ columns.T
    return ((states.astype(np.int32) + 2**15) >> 16).astype(np.uint8).transpose(1, 2, 0)


def _blur_matrix(side: int) -> np.ndarray:
    """(side, side): which share of each pixel of a line goes into each of the blurred line, in 256ths."""
    matrix = np.zeros((side, side), np.float32)
    margin = BLUR_SIZE // 2
    # Beyond the ends the line is reflected at its first and last pixel, as often as it takes.
    reflected = np.pad(np.arange(side), margin, mode="reflect" if side > 1 else "edge")
    for start, weight in enumerate(_blur_weights()):
        np.add.at(matrix, (np.arange(side), reflected[start : start + side]), weight)
    return matrix


def _blur_weights() -> list[int]:
    """A Gaussian in 256ths: what rounding takes from one weight goes to the next, and what is left to the middle one."""
    sigma = 0.3 * ((BLUR_SIZE - 1) * 0.5 - 1) + 0.8
    exact = np.exp(-((np.arange(BLUR_SIZE) - BLUR_SIZE // 2) ** 2) / (2 * sigma**2))
    exact = 256 * exact / exact.sum()
    half: list[int] = []
    remainder = 0.0
    for weight in exact[: BLUR_SIZE // 2]:
        half.append(round(weight + remainder))
        remainder += weight - half[-1]
    return [*half, 256 - 2 * sum(half), *half[::-1]]


class PublishedTASSteps:
    """The steps of TAS in which the released code differs from [`TASSteps`], whose arguments they have."""

    min_region_area = MIN_REGION_AREA
    cut_out = staticmethod(cut_out_as_published)

    @staticmethod
    def keep_regions(regions: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return regions[kept]

    @staticmethod
    def share_out(scores: torch.Tensor) -> torch.Tensor:
        """A single region's share is not a number."""
        return ((scores - scores.min()) / (scores.max() - scores.min())).softmax(dim=0)

    @staticmethod
    def find_negatives(caption: Parse, expression: Expression) -> list[str]:
        nouns_of = partial(list_nouns, parser=expression.parser)
        return negatives_as_published(caption, expression.noun_phrase, nouns_of, count_near_pairs)

    @staticmethod
    def rectify(
        expression: Expression, cached: CachedImage, scores: torch.Tensor, shares: torch.Tensor, score_phrase: Any
    ) -> tuple[int, dict[str, Any]]:
        centres = [[int(place) for place in centre_of(region)] for region in cached.regions]
        return rectify_as_published(expression, centres, shares.tolist()), {}


# Global-Local (CVPR 2023): its detector's input, and CLIP's made of it, in ImageNet's colours.

DETECTOR_SIDE, DETECTOR_LONGEST = 800, 1333  # pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def detector_input(image: np.ndarray) -> torch.Tensor:
    """Resize and normalise an image for the detector, (1, 3, H, W): shorter side 800 pixels, ImageNet's colours."""
    height, width = image.shape[:2]
    scale = min(DETECTOR_SIDE / min(height, width), DETECTOR_LONGEST / max(height, width))
    size = (round(width * scale), round(height * scale))
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    mean, deviation = (np.array(each, np.float32) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.from_numpy((pixels - mean) / deviation).permute(2, 0, 1)[None]


def published_images(pixels: torch.Tensor, masks: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Make CLIP's input, the whole image (1, 3, side, side) and crops of its regions (r, 3, side, side), of the detector's, (1, 3, H, W),
    and masks (r, height, width) at the image's size.
    """
    squeeze = partial(nn.functional.interpolate, mode="bilinear")
    height, width = masks.shape[1:]
    original = squeeze(pixels, (height, width))[0]
    # Put in after normalisation, where it is nearly no colour at all.
    around = torch.tensor(IMAGENET_MEAN)[:, None, None]
    crops = []
    for mask in masks:
        left, top, right, bottom = published_box(mask)
        inside = (..., slice(max(0, top), bottom), slice(max(0, left), right))
        beyond = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
        crop = nn.functional.pad(torch.where(mask[inside], original[inside], around), beyond)
        crops.append(squeeze(crop[None], (side, side))[0])
    return squeeze(pixels, (side, side)), torch.stack(crops)


def published_box(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """
    Left, top, right, bottom of a mask as the detector has them: half the number of columns (rows) that it fills to either side of
    their centre of mass, cut to whole pixels; at least one pixel each way.
    """
    edges = []
    for axis in (0, 1):
        counts = mask.any(axis).float()
        number = float(counts.sum())
        centre = float((counts * torch.arange(len(counts))).sum()) / number
        first, last = int(centre - number / 2), int(centre + number / 2)
        edges.append((first, max(last, first + 1)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


class PublishedGlobalLocalSteps:
    """The steps of Global-Local in which the released code differs from [`GlobalLocalSteps`], whose arguments they have."""

    @staticmethod
    def prepare(
        image: np.ndarray, regions: np.ndarray, image_text: ImageText, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        whole, crops = published_images(detector_input(image), torch.from_numpy(regions), image_text.image_size)
        device, dtype = image_text.device, image_text.network.dtype
        return whole.to(device, dtype), crops.to(device, dtype)

    @staticmethod
    def shrink(masks: torch.Tensor, grid: int) -> torch.Tensor:
        return nn.functional.interpolate(masks, (grid, grid), mode="bilinear")

    @staticmethod
    def normalize(features: torch.Tensor, stage: str, image_text: ImageText) -> torch.Tensor:
        """Mixtures alone with one kind of network; with the other crops and texts, before they are mixed."""
        stages = ("mixture",) if image_text.normalizes_mixtures else ("local", "text")
        return nn.functional.normalize(features, dim=-1) if stage in stages else features


__all__ = ["PublishedGlobalLocalSteps", "PublishedTASSteps", "blur", "rectify_as_published"]
