"""
TAS ("Text Augmented Spatial-aware Zero-shot Referring Image Segmentation", Suo et al., EMNLP Findings 2023).

A region's score is how well its crop fits the expression (V), plus how well its caption does (P), minus how well it fits the other
things in the image (N). What the expression says of places then has a part in the choice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .as_published import PublishedTASSteps, blur
from .configuration_zero_shot import TASConfig
from .language_expression import Expression
from .language_negatives import negative_phrases
from .language_parsing import Parse
from .modeling_zero_shot import Answer, ZeroShotPreTrainedModel, unit
from .tas_rectifier import Layout, rectify
from .zero_shot_cache import CachedImage
from .zero_shot_parts import CAPTIONERS, in_batches
from .zero_shot_regions import MIN_REGION_AREA, cut_out, filter_regions


class TASSteps:
    """The steps of TAS that the default mends; [`PublishedTASSteps`] has the released code's."""

    min_region_area = MIN_REGION_AREA / (640 * 480)
    cut_out = staticmethod(cut_out)
    find_negatives = staticmethod(negative_phrases)

    @staticmethod
    def keep_regions(regions: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Take the regions that a filter kept, or else the largest one."""
        if not len(kept) and len(regions):
            kept = np.array([regions.sum(axis=(1, 2)).argmax()])
        return regions[kept]

    @staticmethod
    def share_out(scores: torch.Tensor) -> torch.Tensor:
        """Share 1 among regions, (r,), by their scores."""
        return rescale(scores).softmax(dim=0)

    @staticmethod
    def rectify(
        expression: Expression,
        cached: CachedImage,
        scores: torch.Tensor,
        shares: torch.Tensor,
        score_phrase: Callable[[str], np.ndarray],
    ) -> tuple[int, dict[str, Any]]:
        """Choose a region by places, and say how it was chosen."""
        layout = cached.get_or_compute("layout", lambda: Layout.of(cached.regions))
        pick, candidates = rectify(expression, layout, rescale(scores).cpu().numpy(), score_phrase)
        places = [f"{place.kind}: {place.words}" for place in expression.places]
        return pick, {"directions": places, "candidates": candidates}


class TASForReferringSegmentation(ZeroShotPreTrainedModel):
    """
    TAS with the parts that its configuration names.

    Args:
        config ([`TASConfig`]): Parts and weights.
    """

    config_class = TASConfig
    part_classes = {**ZeroShotPreTrainedModel.part_classes, "captioner": CAPTIONERS}

    @property
    def _steps(self) -> type[TASSteps] | type[PublishedTASSteps]:
        return PublishedTASSteps if self.config.mode == "paper" else TASSteps

    def _filter_regions(self, regions: np.ndarray) -> np.ndarray:
        """Leave out small regions, and of two that overlap the smaller (section 4.1)."""
        area = self.config.min_region_area
        if area is None:
            area = self._steps.min_region_area
        pixels = area if area >= 1 else area * regions.shape[1] * regions.shape[2]
        return self._steps.keep_regions(regions, filter_regions(regions, pixels, self.config.max_region_overlap))

    def _score_expressions(self, cached: CachedImage, expressions: Sequence[str]) -> list[Answer]:
        crops = cached.get_or_compute("crops", lambda: self.encode_crops(cached))
        texts = unit(self._encode_texts([text.lower() for text in expressions]))
        visual_scores = self._compare(texts, crops)
        captions, caption_scores, image_caption = None, None, None
        if self._uses("caption"):
            captions = cached.get_or_compute("captions", lambda: self._caption_regions(cached))
            features = cached.get_or_compute("caption_features", lambda: unit(self._encode_texts(captions)))
            caption_scores = self._compare(texts, features)
        if self._uses("negative"):
            image_caption = cached.whole.get_or_compute("image_caption", lambda: self._caption_image(cached))

        def score_phrase(phrase: str) -> np.ndarray:
            return rescale(self._compare(unit(self._encode_texts([phrase])), crops)[0]).cpu().numpy()

        detector_scores = self._detector_term(cached)
        answers = []
        for number, text in enumerate(expressions):
            expression = Expression(text, self._parse)
            negatives = [] if image_caption is None else self._steps.find_negatives(image_caption, expression)
            nothing = torch.zeros_like(visual_scores[number])
            terms = {
                "V": visual_scores[number],
                "P": nothing if caption_scores is None else caption_scores[number],
                "N": self._compare(unit(self._encode_texts(negatives)), crops).mean(dim=0) if negatives else nothing,
            }
            if detector_scores is not None:
                terms["D"] = detector_scores
            scores = self.combine(**terms)
            shares = self._steps.share_out(scores)
            if shares.isnan().any():
                shares = torch.full_like(shares, 1 / len(shares))
            pick = int(shares.argmax())
            explanation: dict[str, Any] = {
                "phrase": expression.noun_phrase,
                "captions": None if captions is None else list(captions),
                "negatives": negatives,
            }
            if self.config.spatial_rectifier:
                pick, reasons = self._steps.rectify(expression, cached, scores, shares, score_phrase)
                explanation |= reasons
            answers.append(Answer(pick, shares, terms, explanation))
        return answers

    def combine(  # noqa: D417
        self,
        V: torch.Tensor,  # noqa: N803 - as in the paper
        P: torch.Tensor,  # noqa: N803
        N: torch.Tensor,  # noqa: N803
        D: torch.Tensor | None = None,  # noqa: N803
    ) -> torch.Tensor:
        """
        Combine the terms, (r,) scaled similarities each, to scores (section 3.3): `V + alpha P - lambda N`. A detector's scores, (r,) from
        0 to 1, are added with `detector_weight`.
        """
        scores = V + self.config.caption_weight * P - self.config.negative_weight * N
        return scores if D is None else scores + self.config.detector_weight * D

    def encode_crops(self, cached: CachedImage) -> torch.Tensor:
        """Encode regions on black, (r, d), with length 1."""
        inputs = [
            self.image_text.prepare([self._steps.cut_out(cached.image, region) for region in batch])
            for batch in in_batches(cached.regions, self.config.batch_size)
        ]
        return unit(self._encode_images(torch.cat(inputs)))

    def _uses(self, term: str) -> bool:
        return self.captioner is not None and getattr(self.config, f"{term}_weight") > 0

    def _caption_regions(self, cached: CachedImage) -> list[str]:
        """Caption the regions within their boxes, whose rest is blurred."""
        blurred = blur(cached.image)
        captions: list[str] = []
        for batch in in_batches(cached.regions, self.captioner.batch_size):
            captions += self.captioner.caption(
                [self._steps.cut_out(cached.image, region, blurred) for region in batch]
            )
        return captions

    def _caption_image(self, cached: CachedImage) -> Parse:
        return self._parse(self.captioner.caption([cached.image])[0])

    def _compare(self, texts: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """(k, d) and (r, d), of length 1 -> (k, r), scaled."""
        return self.image_text.scale.float() * texts @ others.T


def rescale(scores: torch.Tensor) -> torch.Tensor:
    """Rescale scores (r,) from 0 for the worst to 1 for the best; ones where all are equal."""
    extent = scores.max() - scores.min()
    return (scores - scores.min()) / extent if extent > 0 else torch.ones_like(scores)


__all__ = ["TASForReferringSegmentation"]
