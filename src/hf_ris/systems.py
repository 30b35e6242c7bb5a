"""
The systems of this library, each described in one place: its paper and its classes. Registration, conversion, cards and the page
read it. Nothing of a system is imported before it is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_ris


TASK = "referring-segmentation"
ZERO_SHOT_TASK = "zero-shot-referring-segmentation"
BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "magnet-tiny-refshapes"
BUNDLED_ZERO_SHOT = Path(__file__).parent / "checkpoints" / "tas-tiny-refshapes"
BUNDLED = {"bundled": BUNDLED_CHECKPOINT, "bundled-zero-shot": BUNDLED_ZERO_SHOT}  # as commands call them
NOTICE = "This is a small checkpoint that comes with hf_ris: it was trained on drawn shapes and does not understand photos. For photos, "
PHOTO_MODEL = "CIDAS/clipseg-rd64-refined"
NOTICES = {
    str(
        BUNDLED_CHECKPOINT
    ): f'{NOTICE}name a model that was trained on them: pipeline("{TASK}", model="{PHOTO_MODEL}").',
    str(BUNDLED_ZERO_SHOT): f'{NOTICE}compose one of parts from the Hub: hf_ris.zero_shot("tas").',
}


def find_model(name: str | Path) -> str:
    """Find the folder or Hub id of the model that a command names; `bundled` and `bundled-zero-shot` come with this package."""
    return str(BUNDLED.get(str(name), Path(name).expanduser() if str(name).startswith("~") else name))


@dataclass(frozen=True)
class System:
    """
    One published system.

    Attributes:
        name (`str`): Its name in its paper.
        model_type (`str`): Its name in configurations.
        title, authors, venue, url (`str`): Its paper's.
        config, model, processor (`Callable`): Each gives a class; nothing is imported until it is called.
        image_processor (`Callable`, *optional*): Likewise; by default it gives `None`, since each part of a zero-shot model has its own.
        is_zero_shot (`bool`): Whether it is composed of networks that were not trained for the task.
        task (`str`): The pipeline that asks it, with all its options.
    """

    name: str
    model_type: str
    title: str
    authors: str
    venue: str
    url: str
    config: Callable[[], type[Any]]
    model: Callable[[], type[Any]]
    processor: Callable[[], type[Any]]
    image_processor: Callable[[], Any] = lambda: None
    is_zero_shot: bool = False
    task: str = TASK

    @property
    def link(self) -> str:
        """The paper as Markdown."""
        return f"[*{self.title}*]({self.url}) ({self.venue})"

    @property
    def citation(self) -> str:
        """The paper as text."""
        return f'"{self.title}" ({self.authors}; {self.venue})'


MAGNET = System(
    name="MagNet",
    model_type="magnet",
    title="Mask Grounding for Referring Image Segmentation",
    authors="Chng, Zheng, Han, Qiu, Huang",
    venue="CVPR 2024",
    url="https://arxiv.org/abs/2312.12198",
    config=lambda: hf_ris.MagNetConfig,
    model=lambda: hf_ris.MagNetForReferringSegmentation,
    processor=lambda: hf_ris.MagNetProcessor,
    image_processor=lambda: hf_ris.MagNetImageProcessor,
)
CRIS = System(
    name="CRIS",
    model_type="cris",
    title="CRIS: CLIP-Driven Referring Image Segmentation",
    authors="Wang, Lu, Li, Tao, Guo, Gong, Liu",
    venue="CVPR 2022",
    url="https://arxiv.org/abs/2111.15174",
    config=lambda: hf_ris.CRISConfig,
    model=lambda: hf_ris.CRISForReferringSegmentation,
    processor=lambda: hf_ris.CRISProcessor,
    image_processor=lambda: hf_ris.CRISImageProcessor,
)
GLOBAL_LOCAL = System(
    name="Global-Local",
    model_type="global_local",
    title="Zero-shot Referring Image Segmentation with Global-Local Context Features",
    authors="Yu, Seo, Son",
    venue="CVPR 2023",
    url="https://arxiv.org/abs/2303.17811",
    config=lambda: hf_ris.GlobalLocalConfig,
    model=lambda: hf_ris.GlobalLocalForReferringSegmentation,
    processor=lambda: hf_ris.ZeroShotSegmentationProcessor,
    is_zero_shot=True,
    task=ZERO_SHOT_TASK,
)
TAS = System(
    name="TAS",
    model_type="tas",
    title="Text Augmented Spatial-aware Zero-shot Referring Image Segmentation",
    authors="Suo, Zhu, Yang",
    venue="EMNLP Findings 2023",
    url="https://arxiv.org/abs/2310.18049",
    config=lambda: hf_ris.TASConfig,
    model=lambda: hf_ris.TASForReferringSegmentation,
    processor=lambda: hf_ris.ZeroShotSegmentationProcessor,
    is_zero_shot=True,
    task=ZERO_SHOT_TASK,
)
GROUNDED = System(
    name="Grounded SAM",
    model_type="grounded",
    title="Grounded SAM: Assembling Open-World Models for Diverse Visual Tasks",
    authors="Ren, Liu, Zeng, Lin, Li, et al.",
    venue="arXiv 2024",
    url="https://arxiv.org/abs/2401.14159",
    config=lambda: hf_ris.GroundedConfig,
    model=lambda: hf_ris.GroundedForReferringSegmentation,
    processor=lambda: hf_ris.GroundedProcessor,
    is_zero_shot=True,
)
SYSTEMS = {system.model_type: system for system in (MAGNET, CRIS, GLOBAL_LOCAL, TAS, GROUNDED)}

# Models that transformers has itself, by the `model_type` of its configurations: which class asks them for this task.
HUB_MODELS: dict[str, Callable[[], type[Any]]] = {
    "clipseg": lambda: hf_ris.CLIPSegForReferringSegmentation,
    "florence2": lambda: hf_ris.Florence2ForReferringSegmentation,
    "sam3": lambda: hf_ris.Sam3ForReferringSegmentation,
    "sam3_lite_text": lambda: hf_ris.Sam3LiteTextForReferringSegmentation,
    "sam3_video": lambda: hf_ris.Sam3ForReferringSegmentation,  # facebook/sam3 is one, with SAM 3 as its detector
}

ONNX_TYPE = "onnx_referring_segmentation"  # the `model_type` of what `hf-ris export` writes


__all__ = [
    "BUNDLED_CHECKPOINT",
    "BUNDLED_ZERO_SHOT",
    "HUB_MODELS",
    "ONNX_TYPE",
    "SYSTEMS",
    "TASK",
    "ZERO_SHOT_TASK",
    "System",
    "find_model",
]
