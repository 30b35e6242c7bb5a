"""The scoring rules of the published systems, by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """
    A scoring rule. How images and expressions become masks is up to the model's processor.

    Attributes:
        where (`str`): Whether masks are compared at the size of the "image" or of the "model"'s square input.
        comparison (`str`): Whether an IoU counts for P@t if it is `">="` or `">"` t.
        empty_iou (`float`): IoU where predicted and true mask are both empty.
    """

    where: str
    comparison: str
    empty_iou: float = 0.0


PROTOCOLS = {
    "original": Protocol("image", ">="),  # Global-Local and TAS
    "lavt": Protocol("model", ">="),  # LAVT and MagNet
    "cris": Protocol("image", ">"),
}


__all__ = ["PROTOCOLS", "Protocol"]
