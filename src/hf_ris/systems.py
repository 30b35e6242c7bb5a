"""
The systems of this library, each described in one place: its paper and its classes. Registration, conversion, cards and the page
read it; nothing of a system is imported before it is needed.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


TASK = "referring-segmentation"
ZERO_SHOT_TASK = "zero-shot-referring-segmentation"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
BUNDLED_CHECKPOINT = CHECKPOINTS / "magnet-tiny-refshapes"
BUNDLED_ZERO_SHOT = CHECKPOINTS / "tas-tiny-refshapes"
BUNDLED = {"bundled": BUNDLED_CHECKPOINT, "bundled-zero-shot": BUNDLED_ZERO_SHOT}  # as commands call them
NOTICE = "This is a small checkpoint that comes with hf_ris: it was trained on drawn shapes and does not understand photos. For photos, "
NOTICES = {
    str(
        BUNDLED_CHECKPOINT
    ): f'{NOTICE}name a model that was trained on them: pipeline("{TASK}", model="folder-or-hub-id").',
    str(BUNDLED_ZERO_SHOT): f'{NOTICE}compose one of parts from the Hub: hf_ris.zero_shot("tas").',
}


def find_model(name: str | Path) -> str:
    """Folder or Hub id of the model that a command names; `bundled` and `bundled-zero-shot` come with this package."""
    return str(BUNDLED.get(str(name), Path(name).expanduser() if str(name).startswith("~") else name))


@dataclass(frozen=True)
class System:
    """
    One published system.

    Attributes:
        name (`str`): As its paper calls it.
        model_type (`str`): As configurations call it.
        title, authors, venue, url (`str`): Of the paper.
        config, model, processor (`str`): Module and class, in `hf_ris.modeling`.
        image_processor (`str`, *optional*): The same, where it is not one of each part of the model.
        is_zero_shot (`bool`): Whether it chooses among regions, with networks that were not trained for the task.
    """

    name: str
    model_type: str
    title: str
    authors: str
    venue: str
    url: str
    config: str
    model: str
    processor: str
    image_processor: str | None = None
    is_zero_shot: bool = False

    @property
    def link(self) -> str:
        """The paper as Markdown."""
        return f"[*{self.title}*]({self.url}) ({self.venue})"

    @property
    def citation(self) -> str:
        """The paper as text."""
        return f'"{self.title}" ({self.authors}; {self.venue})'

    def module(self, kind: str) -> str:
        """Name of the module of its "config", "model", "processor" or "image_processor"."""
        return f"hf_ris.modeling.{getattr(self, kind).partition('.')[0]}"

    def load(self, kind: str) -> Any:
        """The class; kinds as above."""
        return getattr(importlib.import_module(self.module(kind)), getattr(self, kind).partition(".")[2])


MAGNET = System(
    name="MagNet",
    model_type="magnet",
    title="Mask Grounding for Referring Image Segmentation",
    authors="Chng, Zheng, Han, Qiu, Huang",
    venue="CVPR 2024",
    url="https://arxiv.org/abs/2312.12198",
    config="configuration_magnet.MagNetConfig",
    model="modeling_magnet.MagNetForReferringSegmentation",
    processor="processing_magnet.MagNetProcessor",
    image_processor="processing_magnet.MagNetImageProcessor",
)
CRIS = System(
    name="CRIS",
    model_type="cris",
    title="CRIS: CLIP-Driven Referring Image Segmentation",
    authors="Wang, Lu, Li, Tao, Guo, Gong, Liu",
    venue="CVPR 2022",
    url="https://arxiv.org/abs/2111.15174",
    config="configuration_cris.CRISConfig",
    model="modeling_cris.CRISForReferringSegmentation",
    processor="processing_cris.CRISProcessor",
    image_processor="processing_cris.CRISImageProcessor",
)
GLOBAL_LOCAL = System(
    name="Global-Local",
    model_type="global_local",
    title="Zero-shot Referring Image Segmentation with Global-Local Context Features",
    authors="Yu, Seo, Son",
    venue="CVPR 2023",
    url="https://arxiv.org/abs/2303.17811",
    config="configuration_zero_shot.GlobalLocalConfig",
    model="modeling_global_local.GlobalLocalForReferringSegmentation",
    processor="processing_zero_shot.ZeroShotSegmentationProcessor",
    is_zero_shot=True,
)
TAS = System(
    name="TAS",
    model_type="tas",
    title="Text Augmented Spatial-aware Zero-shot Referring Image Segmentation",
    authors="Suo, Zhu, Yang",
    venue="EMNLP Findings 2023",
    url="https://arxiv.org/abs/2310.18049",
    config="configuration_zero_shot.TASConfig",
    model="modeling_tas.TASForReferringSegmentation",
    processor="processing_zero_shot.ZeroShotSegmentationProcessor",
    is_zero_shot=True,
)
SYSTEMS = {system.model_type: system for system in (MAGNET, CRIS, GLOBAL_LOCAL, TAS)}


__all__ = ["BUNDLED_CHECKPOINT", "BUNDLED_ZERO_SHOT", "SYSTEMS", "TASK", "ZERO_SHOT_TASK", "System", "find_model"]
