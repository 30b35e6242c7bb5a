"""The `"zero-shot-referring-segmentation"` pipeline: as `"referring-segmentation"`, with regions in and explanations out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .pipeline_referring_segmentation import (
    OUTPUT_FORMATS,
    InputReader,
    ReferringSegmentationPipeline,
    as_item,
    is_item,
)
from .processing_zero_shot import NO_PROPOSER, read_regions, resize_mask


class ZeroShotReferringSegmentationPipeline(ReferringSegmentationPipeline):
    """
    Finds in an image what an expression refers to, among regions, with a model that was not trained for it.

    Example:

    ```python
    >>> import hf_ris

    >>> ris = hf_ris.zero_shot("tas")
    >>> ris("scene.png", text="the mug left of the tree", explain=True)["explanation"]["phrase"]
    'the mug'
    ```
    """

    input_keys = ("image", "text", "regions")

    def __call__(
        self, inputs: Any = None, text: Any = None, *, image: Any = None, regions: Any = None, **kwargs: Any
    ) -> Any:
        """
        As [`ReferringSegmentationPipeline`], and

        Args:
            regions (an array, a list of masks, or a list of either, *optional*):
                For one image the regions to choose from, of shape (regions, height, width), boolean; for a list of images, those of
                each, or `None`. A dictionary may hold its own as `regions`. By default the model looks for them.
            explain (`bool`, *optional*, defaults to `False`):
                Whether each result has an `explanation`: a dictionary with `regions` (masks, as `output_format` says), `pick` (which of
                them was chosen), `shares` and `terms` (what each scored), `phrase` (what names the target), and what else the model
                read and saw.

        Raises:
            ValueError: If an image, an expression, a region or an option is unfit; the message names it.
        """
        given = image if inputs is None else inputs
        if regions is None or given is None:
            return super().__call__(inputs, text, image=image, **kwargs)
        if is_item(given):
            return super().__call__({**as_item(given, text), "regions": regions}, **kwargs)
        if not isinstance(given, list | tuple) or not isinstance(regions, list | tuple) or len(given) != len(regions):
            raise ValueError(
                "`regions` must be those of one image, or a list with the regions of each of a list of images; elsewhere yield "
                "dictionaries with `image`, `text` and `regions`."
            )
        items = [{**as_item(item, None), "regions": masks} for item, masks in zip(given, regions, strict=True)]
        return super().__call__(items, text, **kwargs)

    def _check_model(self) -> None:
        super()._check_model()
        if not self.model.takes_regions:
            raise ValueError(
                f"`model` is a {type(self.model).__name__}, which does not choose among regions; ask it through "
                'pipeline("referring-segmentation").'
            )

    def _make_reader(self) -> InputReader:
        return RegionReader(self.processor, self.input_keys, needs_regions=self.model.proposer is None)

    def _sanitize_parameters(self, explain: bool | None = None, **options: Any) -> tuple[dict, dict, dict]:
        if explain is not None and not isinstance(explain, bool):
            raise ValueError(f"`explain` must be True or False, got {explain!r}.")
        read, forward, answer = super()._sanitize_parameters(**options)
        return read, forward if explain is None else {**forward, "explain": explain}, answer

    def postprocess(self, model_outputs: dict[str, Any], *args: Any, **options: Any) -> list[Any]:
        """As the base class; adds what the model explains."""
        results = super().postprocess(model_outputs, *args, **options)
        outputs = model_outputs["outputs"]
        explanations = outputs.get("explanations")
        if explanations is None:
            return results
        each = len(explanations) // len(results)
        convert = OUTPUT_FORMATS[options.get("output_format", "pil")]
        for image, result in enumerate(results):
            masks = [convert(_to_array(mask, model_outputs["sizes"][image])) for mask in outputs.region_masks[image]]
            for number, answer in enumerate([result] if isinstance(result, dict) else result):
                place = image * each + number
                answer["explanation"] = {
                    "regions": masks,
                    "pick": outputs.picks[place],
                    "shares": outputs.region_scores[place].tolist(),
                    "terms": {name: values.tolist() for name, values in outputs.terms[place].items()},
                    **explanations[place],
                }
        return results


class RegionReader(InputReader):
    """
    Reads regions, too.

    Args:
        processor, keys: As of the base class.
        needs_regions (`bool`): Whether the model looks for none itself.
    """

    def __init__(self, processor: Any, keys: Sequence[str], needs_regions: bool) -> None:
        super().__init__(processor, keys)
        self.needs_regions = needs_regions

    def read(self, given: Any, timeout: float | None) -> dict[str, Any]:
        item = super().read(given, timeout)
        if item.get("regions") is not None:
            size = item["image"].height, item["image"].width
            return {**item, "regions": read_regions(item["regions"], size, "regions")}
        if self.needs_regions:
            raise ValueError(NO_PROPOSER)
        return item

    def encode(self, items: list[dict[str, Any]]) -> Any:
        regions = [item.get("regions") for item in items]
        return self.processor(
            images=[item["image"] for item in items],
            text=[text for item in items for text in item["expressions"]],
            region_masks=None if all(masks is None for masks in regions) else regions,
        )


def _to_array(mask: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return resize_mask(mask, size).cpu().numpy().copy()


__all__ = ["ZeroShotReferringSegmentationPipeline"]
