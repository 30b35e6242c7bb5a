"""The `"zero-shot-referring-segmentation"` pipeline: `"referring-segmentation"` with regions in and explanations out."""

from typing import Any

from .masks import check_flag, resize_region
from .pipeline_referring_segmentation import (
    OUTPUT_FORMATS,
    InputReader,
    ReferringSegmentationPipeline,
    as_item,
    is_item,
)


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
        Segment what the expressions refer to; see [`ReferringSegmentationPipeline`] for the other arguments and the results.

        Args:
            regions (an array, a list of masks, or a list of either, *optional*):
                For one image the regions to choose from, of shape (regions, height, width), boolean; for a list of images, those of
                each, or `None`. A dictionary may hold `regions`, too. By default the model finds them.
            explain (`bool`, *optional*, defaults to `False`):
                Whether each result has an `explanation`: a dictionary with `regions` (masks in the `output_format`), `pick` (the number
                of the chosen one), `shares` and `terms` (the scores of each), `phrase` (the noun phrase), and whatever else the system
                found out.

        Raises:
            ValueError: If an image, an expression, a region or an option is unfit; the message names it.
        """
        given = image if inputs is None else inputs
        if regions is None or given is None:
            return super().__call__(inputs, text, image=image, **kwargs)
        if is_item(given):
            return super().__call__(_with_regions(given, text, regions), **kwargs)
        if not isinstance(given, list | tuple) or not isinstance(regions, list | tuple) or len(given) != len(regions):
            raise ValueError(
                "`regions` must be those of one image, or a list with the regions of each of a list of images; elsewhere yield "
                "dictionaries with `image`, `text` and `regions`."
            )
        items = [_with_regions(item, None, masks) for item, masks in zip(given, regions, strict=True)]
        return super().__call__(items, text, **kwargs)

    def _check_model(self) -> None:
        super()._check_model()
        if not self.model.takes_regions:
            raise ValueError(
                f"`model` is a {type(self.model).__name__}, which does not choose among regions; ask it through "
                'pipeline("referring-segmentation").'
            )

    def _make_reader(self) -> InputReader:
        return InputReader(self.processor, self.input_keys, needs_regions=self.model.proposer is None)

    def _sanitize_parameters(self, explain: bool | None = None, **options: Any) -> tuple[dict, dict, dict]:
        if explain is not None:
            check_flag("explain", explain)
        read, forward, answer = super()._sanitize_parameters(**options)
        return read, forward if explain is None else {**forward, "explain": explain}, answer

    def postprocess(self, model_outputs: dict[str, Any], *args: Any, **options: Any) -> list[Any]:
        """Add the model's explanations to the results."""
        results = super().postprocess(model_outputs, *args, **options)
        outputs = model_outputs["outputs"]
        explanations = outputs.get("explanations")
        if explanations is None:
            return results
        each = len(explanations) // len(results)
        shared = len(explanations) // len(outputs.region_masks)  # expressions that choose among the same regions
        convert = OUTPUT_FORMATS[options.get("output_format", "pil")]
        masks: list[Any] = []
        for image, result in enumerate(results):
            size = model_outputs["sizes"][image]
            for number, answer in enumerate([result] if isinstance(result, dict) else result):
                place = image * each + number
                if place % shared == 0:
                    regions = outputs.region_masks[place // shared]
                    masks = [convert(resize_region(mask, size).cpu().numpy().copy()) for mask in regions]
                answer["explanation"] = {
                    "regions": masks,
                    "pick": outputs.picks[place],
                    "shares": outputs.region_scores[place].tolist(),
                    "terms": {name: values.tolist() for name, values in outputs.terms[place].items()},
                    **explanations[place],
                }
        return results


def _with_regions(value: Any, text: Any, regions: Any) -> dict[str, Any]:
    item = as_item(value, text)
    if not isinstance(item, dict) or item.get("regions") is not None:
        raise ValueError("`regions` were given twice: as an argument and inside the inputs.")
    return {**item, "regions": regions}


__all__ = ["ZeroShotReferringSegmentationPipeline"]
