"""
TAS ("Text Augmented Spatial-aware Zero-shot Referring Image Segmentation", Suo et al., EMNLP Findings 2023).

A region's score is how well its crop fits the expression (V), plus how well its caption does (P), minus how well it fits the other
things in the picture (N); what the expression says of places then has a part in the choice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .as_published import rectify_as_published
from .configuration_zero_shot import TASConfig
from .language_negatives import count_near_pairs, negative_phrases, negatives_as_published, nouns_by_parse
from .language_parsing import Parse, target_phrase
from .language_places import names_target
from .modeling_zero_shot import Answer, ZeroShotPreTrainedModel, unit
from .tas_rectifier import Layout, rectify
from .zero_shot_cache import CachedImage
from .zero_shot_parts import CAPTIONERS, in_batches
from .zero_shot_regions import blur, blur_around, centre_of, cut_out, filter_regions


PUBLISHED_MIN_AREA = 2000  # pixels


class TASForReferringSegmentation(ZeroShotPreTrainedModel):
    """
    TAS with the parts that its configuration names.

    Args:
        config ([`TASConfig`]): Of parts and weights.
    """

    config_class = TASConfig
    part_classes = {**ZeroShotPreTrainedModel.part_classes, "captioner": CAPTIONERS}

    def _filter_regions(self, regions: np.ndarray) -> np.ndarray:
        """Section 4.1: no small ones, and of two that overlap the larger; in the default mode at least the largest."""
        area = self.config.min_region_area
        if area is None:
            area = PUBLISHED_MIN_AREA if self.config.mode == "paper" else PUBLISHED_MIN_AREA / (640 * 480)
        pixels = area if area >= 1 else area * regions.shape[1] * regions.shape[2]
        kept = regions[filter_regions(regions, pixels, self.config.max_region_overlap)]
        if not len(kept) and len(regions) and self.config.mode != "paper":
            return regions[[regions.sum(axis=(1, 2)).argmax()]]
        return kept

    def _score_expressions(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        parses = [self._parse(expression) for expression in expressions]
        phrases = [target_phrase(parse) for parse in parses]
        crops = cached.get_or_compute("crops", lambda: self.encode_crops(cached))
        texts = unit(self._encode_texts([expression.lower() for expression in expressions]))
        visual = self._compare(texts, crops)
        captions = (
            cached.get_or_compute("captions", lambda: self._caption_regions(cached)) if self._uses("caption") else None
        )
        told = None
        if captions is not None:
            told = self._compare(texts, cached.get_or_compute("told", lambda: unit(self._encode_texts(captions))))
        sentence = (
            cached.get_or_compute("sentence", lambda: self._caption_picture(cached))
            if self._uses("negative")
            else None
        )

        answers = []
        for number, (expression, parse, phrase) in enumerate(zip(expressions, parses, phrases, strict=True)):
            negatives = [] if sentence is None else self.find_negatives(sentence, phrase)
            terms = {"V": visual[number], "P": torch.zeros_like(visual[number]), "N": torch.zeros_like(visual[number])}
            if told is not None:
                terms["P"] = told[number]
            if negatives:
                terms["N"] = self._compare(unit(self._encode_texts(negatives)), crops).mean(dim=0)
            shares = self.share_out(**terms)
            if shares.isnan().any():
                shares = torch.full_like(shares, 1 / len(shares))
            own = list(captions) if captions is not None else None
            explanation: dict[str, Any] = {"phrase": phrase, "captions": own, "negatives": negatives}
            pick = int(shares.argmax())
            if self.config.spatial_rectifier:
                pick, places = self._rectify(cached, expression, parse, shares, crops)
                explanation |= places
            answers.append(Answer(pick, shares, terms, explanation))
        return answers

    def share_out(self, V: torch.Tensor, P: torch.Tensor, N: torch.Tensor) -> torch.Tensor:  # noqa: N803 - as in the paper
        """
        Section 3.3: `V + alpha P - lambda N`, from 0 for the worst region to 1 for the best, then softmax.

        Args:
            V, P, N (`torch.Tensor` of shape `(r,)`): Scaled similarities.

        Returns:
            `torch.Tensor` of shape `(r,)`: Sums to 1.
        """
        scores = V + self.config.caption_weight * P - self.config.negative_weight * N
        extent = scores.max() - scores.min()
        if extent > 0 or self.config.mode == "paper":  # a single region is not a number there
            return ((scores - scores.min()) / extent).softmax(dim=0)
        return torch.full_like(scores, 1 / len(scores))

    def find_negatives(self, sentence: Parse, phrase: str) -> list[str]:
        """What is in the picture and not meant: phrases of its caption."""
        if self.config.mode == "paper":
            return negatives_as_published(sentence, phrase, nouns_by_parse(self._parse), count_near_pairs)
        return negative_phrases(sentence, self._parse(phrase))

    def encode_crops(self, cached: CachedImage) -> torch.Tensor:
        """Features of length 1 of regions on black, (r, d)."""
        is_published = self.config.mode == "paper"
        inputs = [
            self.image_text.prepare([cut_out(cached.image, region, is_published) for region in batch])
            for batch in in_batches(cached.regions, self.config.batch_size)
        ]
        return unit(self._encode_pictures(torch.cat(inputs)))

    def _uses(self, term: str) -> bool:
        return self.captioner is not None and getattr(self.config, f"{term}_weight") > 0

    def _caption_regions(self, cached: CachedImage) -> list[str]:
        blurred = blur(cached.image)
        is_published = self.config.mode == "paper"
        captions: list[str] = []
        for batch in in_batches(cached.regions, self.captioner.batch_size):
            captions += self.captioner.caption(
                [blur_around(cached.image, blurred, region, is_published) for region in batch]
            )
        return captions

    def _caption_picture(self, cached: CachedImage) -> Parse:
        return self._parse(self.captioner.caption([cached.image])[0])

    def _compare(self, texts: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """(k, d) and (r, d), of length 1 -> (k, r), scaled."""
        return self.image_text.scale.float() * texts @ others.T

    def _rectify(
        self, cached: CachedImage, expression: str, parse: Parse, shares: torch.Tensor, crops: torch.Tensor
    ) -> tuple[int, dict[str, Any]]:
        """The chosen region, and how it was chosen."""
        weights = shares.cpu().numpy()
        if self.config.mode == "paper":
            centres = [[int(place) for place in centre_of(region)] for region in cached.regions]
            return rectify_as_published(parse, target_phrase(parse), centres, weights.tolist()), {}

        def score_phrase(text: str) -> np.ndarray:
            return _fits(self._compare(unit(self._encode_texts([text])), crops)[0].cpu().numpy())

        layout = cached.get_or_compute("layout", lambda: Layout.of(cached.regions))
        # The shares are softmaxes of what lies between 0 and 1: their logarithms are that again.
        rectified = rectify(expression, layout, _fits(np.log(weights)), score_phrase, names_target(parse))
        directions = [f"{each.kind}: {each.words}" for each in rectified.directions]
        return rectified.pick, {"directions": directions, "candidates": list(rectified.candidates)}


def _fits(scores: np.ndarray) -> np.ndarray:
    """From 0 for the worst to 1 for the best; ones where all are equal."""
    extent = scores.max() - scores.min()
    return (scores - scores.min()) / extent if extent > 0 else np.ones(len(scores))


__all__ = ["TASForReferringSegmentation"]
