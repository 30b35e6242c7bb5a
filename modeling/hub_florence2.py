"""Florence-2 ([*Florence-2*](https://arxiv.org/abs/2311.06242), CVPR 2024) for expressions: it writes polygons."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil, Florence2ForConditionalGeneration, Florence2Processor
from transformers.modeling_outputs import BaseModelOutput

from .hub_models import HubModelMixin, HubProcessor
from .masks import read_target_sizes
from .modeling_referring_segmentation import ReferringSegmentationOutput


MOST_TOKENS = 1024  # that are generated for an expression
CHUNK = 128  # generated tokens whose probabilities are computed at once: each is one of 51,289
BRACKETS = re.compile("[<>]")  # every token with a meaning of its own, such as <OD>, has them


@dataclass
class PolygonSegmentationOutput(ReferringSegmentationOutput):
    """
    Output of a model that writes polygons. N = B * k counts (image, expression) pairs, image-major.

    Args:
        sequences (`tuple[torch.LongTensor]`):
            For each pair the generated tokens, (t,), without the one that starts them.
        probabilities (`tuple[torch.FloatTensor]`):
            For each pair the probability of each of those tokens, given the earlier ones, (t,).
    """

    sequences: tuple[torch.Tensor, ...] | None = None
    probabilities: tuple[torch.Tensor, ...] | None = None


class Florence2ReferringProcessor(HubProcessor):
    """
    Writes the prompt of Florence-2's task, and draws the polygons that come back.

    An expression that does not fit is cut at the end of a token. Angle brackets become spaces: a visitor's `<OD>` is no task. The score
    is the mean probability of the generated tokens.

    Args:
        image_processor (`CLIPImageProcessorPil`): Prepares images.
        tokenizer (`PreTrainedTokenizerBase`): Prepares prompts.
        text_length (`int`, *optional*, defaults to 1024): Tokens of the image and the prompt together.
        threshold (`float`, *optional*, defaults to 0.5): A pixel is in a polygon or not, so that only 0 and 1 change anything.
        saved_options (`dict`, *optional*): Settings of `Florence2Processor` that are saved with it.
    """

    image_processor_class = CLIPImageProcessorPil
    saved_class = Florence2Processor
    saved_names = ("Florence2Processor",)
    default_text_length = 1024

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        text_length: int | None = None,
        threshold: float = 0.5,
        saved_options: dict[str, Any] | None = None,
    ):
        super().__init__(image_processor, tokenizer, text_length=text_length, threshold=threshold)
        self.saved_options = saved_options or {}

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, text_length: int | None = None, **options: Any) -> Any:
        options.pop("dtype", None)
        return cls.wrap(Florence2Processor.from_pretrained(source, **options), text_length=text_length)

    @classmethod
    def wrap(cls, processor: Florence2Processor, text_length: int | None = None) -> Any:
        wrapped = super().wrap(processor, text_length)
        names = ("num_additional_image_tokens", "post_processor_config")
        wrapped.saved_options = {name: getattr(processor, name) for name in names}
        return wrapped

    def unwrap(self) -> Florence2Processor:
        return Florence2Processor(self.image_processor, self.tokenizer, **self.saved_options)

    def _encode(self, expressions: list[str], *args: Any, **kwargs: Any) -> dict[str, list[list[int]]]:
        tokenizer = self.tokenizer
        before = [tokenizer.image_token_id] * self.image_processor.image_seq_length + [tokenizer.bos_token_id]
        rows = []
        for expression in expressions:
            text = BRACKETS.sub(" ", expression).strip()
            words = self._fit(text, len(before) + 1)
            rows.append([*before, *self._ids(prompt(words)), tokenizer.eos_token_id])
        length = max(map(len, rows))
        return {
            "input_ids": [row + [self.pad_token_id] * (length - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
        }

    def _fit(self, text: str, others: int) -> str:
        """Cut an expression so that its prompt, with this number of other tokens, is no longer than `text_length`."""
        room = self.text_length - others
        tokens = len(self._ids(prompt(text)))
        if tokens <= room:
            return text
        ends = [
            end
            for _, end in self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ]
        while ends and len(self._ids(prompt(text[: ends[-1]].strip()))) > room:
            ends.pop()
        if not ends:
            raise ValueError(
                f"`text_length` must leave room for a prompt, got {self.text_length} for {others + tokens} tokens."
            )
        words = text[: ends[-1]].strip()
        self.text_warnings.too_long(text, others + tokens, self.text_length, words)
        return words

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    @torch.no_grad()
    def iterate_segments(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | torch.Tensor,
        threshold: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        threshold = self.threshold if threshold is None else threshold
        sizes = read_target_sizes(target_sizes, len(outputs.sequences), threshold)
        reader = self.unwrap().post_processor.parse_description_with_polygons_from_text_and_spans
        for tokens, probabilities, (height, width) in zip(
            outputs.sequences, outputs.probabilities, sizes, strict=True
        ):
            text = self.tokenizer.decode(tokens, skip_special_tokens=False)
            found = reader(text, image_size=(width, height), allow_empty_phrase=True)
            mask = draw([polygon for each in found for polygon in each["polygons"]], (height, width))
            if threshold in (0, 1):
                mask = torch.full_like(mask, threshold == 0)
            yield {"mask": mask, "score": float(probabilities.mean()) if mask.any() else 0.0}


def prompt(expression: str) -> str:
    """Florence-2's words for the task `<REFERRING_EXPRESSION_SEGMENTATION>`."""
    return f"Locate {expression} in the image with mask"


def draw(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> torch.Tensor:
    """
    Draw polygons, edges included.

    Args:
        polygons (`Sequence[Sequence[float]]`): x and y in turn. Fewer than three points, which a generation may end in, are left out.
        size (`tuple[int, int]`): (height, width) in pixels.

    Returns:
        `torch.BoolTensor` of shape `(height, width)`: Their union.
    """
    mask = Image.new("1", size[::-1])
    pen = ImageDraw.Draw(mask)
    for polygon in polygons:
        even = list(polygon[: len(polygon) // 2 * 2])
        if len(even) >= 6:
            pen.polygon(even, fill=1)
    return torch.from_numpy(np.array(mask))


class Florence2ForReferringSegmentation(HubModelMixin, Florence2ForConditionalGeneration):
    """
    transformers' Florence-2, asked for k expressions an image.

    Example:

    ```python
    >>> import hf_ris
    >>> from transformers import pipeline

    >>> ris = pipeline("referring-segmentation", model="florence-community/Florence-2-base-ft")
    >>> ris("photo.jpg", text=["the woman in the red coat", "the second cup from the left"])
    ```
    """

    processor_class = Florence2ReferringProcessor
    saved_class = Florence2ForConditionalGeneration
    system = "Florence-2"
    licence = "mit"
    url = "https://arxiv.org/abs/2311.06242"
    native_id = "florence-community/Florence-2-base-ft"

    def describe_settings(self) -> str:
        return super().describe_settings() + repr(sorted(self.generation_config.to_diff_dict().items()))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Any = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, height, width)`): The images.
            input_ids, attention_mask (`torch.LongTensor` of shape `(N, length)`): The prompts, N = B * k, image-major.
            labels (*optional*): Must be left out.
            decoder_input_ids, decoder_attention_mask, encoder_outputs, cache, use_cache, logits_to_keep, kwargs (*optional*):
                transformers' own; with `decoder_input_ids`, as `generate` passes them, this is transformers' own forward pass.

        Returns:
            [`PolygonSegmentationOutput`]

        Raises:
            ValueError: If there are labels, or there is no equal number of expressions for each image.
        """
        if decoder_input_ids is not None:
            return super().forward(
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                attention_mask=attention_mask,
                encoder_outputs=encoder_outputs,
                cache=cache,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        if pixel_values is None or input_ids is None:
            raise ValueError("`pixel_values` and `input_ids` are both needed.")
        each = self.check_inputs(pixel_values, input_ids, labels)
        images = self.get_image_features(pixel_values).pooler_output
        sequences, probabilities = [], []
        for row, ids in enumerate(input_ids):  # one by one, so that no answer depends on another's length
            prompt_ids = ids if attention_mask is None else ids[attention_mask[row].bool()]
            tokens, chances = self._write(prompt_ids[None], images[row // each][None])
            sequences.append(tokens)
            probabilities.append(chances)
        return PolygonSegmentationOutput(sequences=tuple(sequences), probabilities=tuple(probabilities))

    @torch.no_grad()
    def _write(self, prompt_ids: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that are generated for a prompt (1, length) and the features of an image (1, cells, d), and their probabilities."""
        embeddings = self.get_input_embeddings()(prompt_ids)
        places = self.get_placeholder_mask(prompt_ids, inputs_embeds=embeddings, image_features=image)
        embeddings = embeddings.masked_scatter(places, image.to(embeddings.dtype))
        mask = torch.ones_like(prompt_ids)
        hidden_states = self.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        most = min(MOST_TOKENS, self.config.text_config.max_position_embeddings - 1)
        options = {"max_new_tokens": most, "do_sample": False}
        # Copied: beam search repeats the states in place.
        written = self.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_states.clone()), attention_mask=mask, **options
        )
        states = self.model(
            decoder_input_ids=written[:, :-1],
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_states),
            attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        tokens = written[0, 1:]
        chances = [
            self.lm_head(part).float().softmax(-1).gather(1, token[:, None])[:, 0]
            for part, token in zip(states[0].split(CHUNK), tokens.split(CHUNK), strict=True)
        ]
        return tokens, torch.cat(chances)


__all__ = ["Florence2ForReferringSegmentation", "Florence2ReferringProcessor", "PolygonSegmentationOutput", "draw"]
