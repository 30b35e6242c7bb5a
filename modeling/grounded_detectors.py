"""Detectors, which find boxes of what a text names: Grounding DINO, MM Grounding DINO (and LLMDet), OWLv2."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForZeroShotObjectDetection

from .zero_shot_parts import Part, pad_slender


class Detections(NamedTuple):
    """
    Boxes that a detector found.

    Attributes:
        boxes (`torch.Tensor` of shape `(m, 4)`): Left, top, right and bottom, in pixels of the image.
        shares (`torch.Tensor` of shape `(m, 4)`): The boxes in shares of the image's sides.
        scores (`torch.Tensor` of shape `(m,)`): How sure the detector is, from 0 to 1.
        phrase_scores (`dict[str, torch.Tensor]`): Scores for phrases of the expression alone, (m,) each.
    """

    boxes: torch.Tensor
    shares: torch.Tensor
    scores: torch.Tensor
    phrase_scores: dict[str, torch.Tensor]


class DetectorImage(NamedTuple):
    """
    An image as a detector sees it.

    Attributes:
        inputs (`dict[str, torch.Tensor]`): The network's inputs.
        features (`Any`): Output of the network's image encoder.
        unit (`torch.Tensor` of shape `(4,)`): The pixels of the image that the network's boxes are shares of.
        size (`tuple[int, int]`): Height and width of the image in pixels.
    """

    inputs: dict[str, torch.Tensor]
    features: Any
    unit: torch.Tensor
    size: tuple[int, int]


class Detector(Part):
    """
    Base class of the detectors.

    Attributes:
        encoder (`str`): The network's module that encodes an image without its text.
        threshold (`float`): The score that transformers keeps boxes above by default.
    """

    network_class = AutoModelForZeroShotObjectDetection
    encoder: str
    threshold: float

    def encode(self, image: np.ndarray) -> DetectorImage:
        """Encode an RGB image of bytes, (height, width, 3), once for all expressions."""
        padded = pad_slender(image)
        inputs = self.processor.image_processor(padded, return_tensors="pt", input_data_format="channels_last")
        tensors = {
            name: values.to(self.device, self.network.dtype if values.is_floating_point() else None)
            for name, values in inputs.items()
        }
        with self.weights_at_hand():
            features = self._encode(tensors)
        return DetectorImage(tensors, features, self._unit(padded.shape[:2]).to(self.device), image.shape[:2])

    @torch.no_grad()
    def detect(
        self, image: DetectorImage, expression: str, least: float, phrases: Sequence[str] = (), most: int = 20
    ) -> Detections:
        """
        Find what an expression names.

        Args:
            image (`DetectorImage`): The image.
            expression (`str`): The expression; one that is too long is cut, with a warning.
            least (`float`): Boxes with a score above this are kept.
            phrases (`Sequence[str]`, *optional*): Phrases of it that are scored for themselves, too.
            most (`int`, *optional*, defaults to 20): Boxes with the highest scores are kept, at most so many.
        """
        texts, spans = self._prepare(expression, phrases)
        texts = {name: values.to(self.device) for name, values in texts.items()}
        with self.weights_at_hand():
            # An offloaded network keeps its encoder: accelerate's hooks call the modules that they were attached to.
            network = replace_module(self.network, self.encoder, _Known(image.features))
            outputs = network(**image.inputs, **texts)
        probabilities = outputs.logits[0].float().sigmoid()  # (boxes, tokens or texts)
        scores = self._scores(probabilities)
        kept = (scores > least).nonzero()[:, 0]
        kept = kept[scores[kept].argsort(descending=True, stable=True)[:most]].sort().values
        centres, sides = outputs.pred_boxes[0, kept].float().chunk(2, dim=-1)
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1) * image.unit
        phrase_scores = {phrase: probabilities[kept][:, span].amax(-1) for phrase, span in spans.items()}
        shares = boxes / torch.tensor([image.size[1], image.size[0]] * 2, device=boxes.device)
        return Detections(boxes, shares, scores[kept], phrase_scores)

    def _encode(self, inputs: dict[str, torch.Tensor]) -> Any:
        raise NotImplementedError

    def _prepare(
        self, expression: str, phrases: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """The network's inputs, and for each phrase that it can score the columns of its probabilities."""
        raise NotImplementedError

    def _scores(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The boxes' scores for the whole expression."""
        raise NotImplementedError

    def _unit(self, size: tuple[int, int]) -> torch.Tensor:
        """Pixels that boxes are shares of, (4,)."""
        raise NotImplementedError


class GroundingDinoDetector(Detector):
    """
    Grounding DINO ("Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection", Liu et al., ECCV 2024),
    MM Grounding DINO or LLMDet. A box's score is the highest probability of a token of the expression, which is one caption: in lower
    case, closed by a full stop, and without others, which would split it.
    """

    encoder = "model.backbone.conv_encoder"
    uncalled = ("model.query_position_embeddings",)
    threshold = 0.25

    def _encode(self, inputs: dict[str, torch.Tensor]) -> Any:
        return self.network.get_submodule(self.encoder)(inputs["pixel_values"], inputs["pixel_mask"])

    def _prepare(
        self, expression: str, phrases: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        caption = as_caption(expression)
        encoded = self.processor.tokenizer(caption, verbose=False, return_offsets_mapping=True)
        ids = self.cut(expression, encoded["input_ids"], self.config.max_text_len)
        spans = {}
        for phrase in phrases:
            start = caption.find(as_caption(phrase)[:-1])
            ends = (start, start + len(as_caption(phrase)) - 1)
            span = [
                number
                for number, (first, last) in enumerate(encoded["offset_mapping"][: len(ids) - 1])
                if ends[0] <= first < last <= ends[1]
            ]
            if start >= 0 and span:
                spans[phrase] = span
        tokens = torch.tensor([ids])
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, spans

    def _scores(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities.amax(-1)

    def _unit(self, size: tuple[int, int]) -> torch.Tensor:
        return torch.tensor([size[1], size[0]] * 2)


class Owlv2Detector(Detector):
    """OWLv2 ("Scaling Open-Vocabulary Object Detection", Minderer et al., NeurIPS 2023). It reads 16 tokens."""

    encoder = "owlv2.vision_model.encoder"
    threshold = 0.1

    def _encode(self, inputs: dict[str, torch.Tensor]) -> Any:
        vision = self.network.owlv2.vision_model
        return vision.encoder(vision.pre_layernorm(vision.embeddings(inputs["pixel_values"])))

    def _prepare(
        self, expression: str, phrases: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        tokenizer, most = self.processor.tokenizer, self.config.text_config.max_position_embeddings
        texts = [expression, *phrases]
        encoded = tokenizer([text.lower() for text in texts], verbose=False)["input_ids"]
        cut = [self.cut(text, ids, most) for text, ids in zip(texts, encoded, strict=True)]
        tokens = torch.tensor([ids + [tokenizer.pad_token_id] * (most - len(ids)) for ids in cut])
        mask = torch.arange(most) < torch.tensor([[len(ids)] for ids in cut])
        return {"input_ids": tokens, "attention_mask": mask.long()}, {
            phrase: [number] for number, phrase in enumerate(phrases, 1)
        }

    def _scores(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities[:, 0]

    def _unit(self, size: tuple[int, int]) -> torch.Tensor:
        return torch.full((4,), max(size))  # it pads images to a square


class _Known(nn.Module):
    """Stands for a module whose output is known."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


def replace_module(network: Any, path: str, module: nn.Module) -> Any:
    """Make a shallow copy of a network in which the module at a path is another. Weights are shared; the network stays as it is."""
    name, _, rest = path.partition(".")
    twin = copy.copy(network)
    twin._modules = dict(network._modules)
    twin._modules[name] = replace_module(network._modules[name], rest, module) if rest else module
    return twin


def as_caption(expression: str) -> str:
    """An expression as Grounding DINO's captions are written: "St. Bernard" -> "st bernard."."""
    return " ".join(expression.lower().replace(".", " ").split()) + "."


DETECTORS: dict[str, type[Detector]] = {
    "grounding-dino": GroundingDinoDetector,
    "mm-grounding-dino": GroundingDinoDetector,
    "owlv2": Owlv2Detector,
}


__all__ = ["DETECTORS", "Detections", "Detector", "DetectorImage", "GroundingDinoDetector", "Owlv2Detector"]
