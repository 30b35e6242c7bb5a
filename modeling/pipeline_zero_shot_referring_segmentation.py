"""The `"zero-shot-referring-segmentation"` pipeline: as `"referring-segmentation"`, with regions in and explanations out."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from .pipeline_referring_segmentation import OUTPUT_FORMATS, ReferringSegmentationPipeline, as_item, is_item
from .processing_zero_shot import read_regions, resize_mask


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

    def _sanitize_parameters(self, *args: Any, explain: bool | None = None, **kwargs: Any) -> tuple[dict, dict, dict]:
        if explain is not None and not isinstance(explain, bool):
            raise ValueError(f"`explain` must be True or False, got {explain!r}.")
        preprocess, forward, postprocess = super()._sanitize_parameters(*args, **kwargs)
        return preprocess, forward if explain is None else {**forward, "explain": explain}, postprocess

    def preprocess(self, inputs: list[dict[str, Any]], *args: Any, **options: Any) -> Any:
        """As the base class; regions are read once, where one that is unfit can still be reported."""
        boxed = [
            {**item, "regions": [item["regions"]]} if item.get("regions") is not None else item for item in inputs
        ]
        return super().preprocess(boxed, *args, **options)

    def _check_regions(self, regions: list[Any] | None, image: Image.Image) -> None:
        if regions is not None:
            regions[0] = read_regions(regions[0], (image.height, image.width), "regions")

    def _encode(self, items: list[dict[str, Any]], texts: list[str]) -> Any:
        regions = [None if item.get("regions") is None else item["regions"][0] for item in items]
        return self.processor(
            images=[item["image"] for item in items],
            text=texts,
            region_masks=None if all(masks is None for masks in regions) else regions,
        )

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


def _to_array(mask: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return resize_mask(mask, size).cpu().numpy().copy()


__all__ = ["ZeroShotReferringSegmentationPipeline"]
