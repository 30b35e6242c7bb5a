"""Point at things with words: referring image segmentation for transformers.

```python
import hf_ris
from transformers import pipeline

ris = pipeline("referring-segmentation")
ris("scene.png", text="the small red mug left of the tree")
```

Importing this package registers the task `"referring-segmentation"` and the Auto classes, and does nothing else: torch
and transformers are imported when something below is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register


__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import conversion as conversion
    from . import data as data
    from . import demo as demo
    from . import evaluation as evaluation
    from . import hub as hub
    from . import metrics as metrics
    from . import modeling as modeling
    from . import training as training
    from .auto import AutoModelForReferringSegmentation as AutoModelForReferringSegmentation
    from .composition import grounded as grounded
    from .composition import zero_shot as zero_shot
    from .modeling.configuration_cris import CRISConfig as CRISConfig
    from .modeling.configuration_grounded import GroundedConfig as GroundedConfig
    from .modeling.configuration_magnet import MagNetConfig as MagNetConfig
    from .modeling.configuration_zero_shot import GlobalLocalConfig as GlobalLocalConfig
    from .modeling.configuration_zero_shot import TASConfig as TASConfig
    from .modeling.hub_clipseg import CLIPSegForReferringSegmentation as CLIPSegForReferringSegmentation
    from .modeling.hub_clipseg import CLIPSegReferringProcessor as CLIPSegReferringProcessor
    from .modeling.hub_florence2 import Florence2ForReferringSegmentation as Florence2ForReferringSegmentation
    from .modeling.hub_florence2 import Florence2ReferringProcessor as Florence2ReferringProcessor
    from .modeling.hub_sam3 import Sam3ForReferringSegmentation as Sam3ForReferringSegmentation
    from .modeling.hub_sam3 import Sam3LiteTextForReferringSegmentation as Sam3LiteTextForReferringSegmentation
    from .modeling.hub_sam3 import Sam3ReferringProcessor as Sam3ReferringProcessor
    from .modeling.modeling_cris import CRISForReferringSegmentation as CRISForReferringSegmentation
    from .modeling.modeling_global_local import (
        GlobalLocalForReferringSegmentation as GlobalLocalForReferringSegmentation,
    )
    from .modeling.modeling_grounded import GroundedForReferringSegmentation as GroundedForReferringSegmentation
    from .modeling.modeling_magnet import MagNetForReferringSegmentation as MagNetForReferringSegmentation
    from .modeling.modeling_referring_segmentation import ReferringSegmentationOutput as ReferringSegmentationOutput
    from .modeling.modeling_referring_segmentation import ZeroShotSegmentationOutput as ZeroShotSegmentationOutput
    from .modeling.modeling_tas import TASForReferringSegmentation as TASForReferringSegmentation
    from .modeling.pipeline_referring_segmentation import (
        ReferringSegmentationPipeline as ReferringSegmentationPipeline,
    )
    from .modeling.pipeline_zero_shot_referring_segmentation import (
        ZeroShotReferringSegmentationPipeline as ZeroShotReferringSegmentationPipeline,
    )
    from .modeling.processing_cris import CRISImageProcessor as CRISImageProcessor
    from .modeling.processing_cris import CRISProcessor as CRISProcessor
    from .modeling.processing_grounded import GroundedProcessor as GroundedProcessor
    from .modeling.processing_magnet import MagNetImageProcessor as MagNetImageProcessor
    from .modeling.processing_magnet import MagNetProcessor as MagNetProcessor
    from .modeling.processing_zero_shot import ZeroShotSegmentationProcessor as ZeroShotSegmentationProcessor
    from .onnx_model import OnnxForReferringSegmentation as OnnxForReferringSegmentation
    from .visualization import draw_overlay as draw_overlay

# Where each public name lives.
_EXPORTS = {
    "AutoModelForReferringSegmentation": "auto",
    "CLIPSegForReferringSegmentation": "modeling.hub_clipseg",
    "CLIPSegReferringProcessor": "modeling.hub_clipseg",
    "CRISConfig": "modeling.configuration_cris",
    "CRISForReferringSegmentation": "modeling.modeling_cris",
    "CRISImageProcessor": "modeling.processing_cris",
    "CRISProcessor": "modeling.processing_cris",
    "Florence2ForReferringSegmentation": "modeling.hub_florence2",
    "Florence2ReferringProcessor": "modeling.hub_florence2",
    "GlobalLocalConfig": "modeling.configuration_zero_shot",
    "GlobalLocalForReferringSegmentation": "modeling.modeling_global_local",
    "GroundedConfig": "modeling.configuration_grounded",
    "GroundedForReferringSegmentation": "modeling.modeling_grounded",
    "GroundedProcessor": "modeling.processing_grounded",
    "MagNetConfig": "modeling.configuration_magnet",
    "MagNetForReferringSegmentation": "modeling.modeling_magnet",
    "MagNetImageProcessor": "modeling.processing_magnet",
    "MagNetProcessor": "modeling.processing_magnet",
    "OnnxForReferringSegmentation": "onnx_model",
    "ReferringSegmentationOutput": "modeling.modeling_referring_segmentation",
    "ReferringSegmentationPipeline": "modeling.pipeline_referring_segmentation",
    "Sam3ForReferringSegmentation": "modeling.hub_sam3",
    "Sam3LiteTextForReferringSegmentation": "modeling.hub_sam3",
    "Sam3ReferringProcessor": "modeling.hub_sam3",
    "TASConfig": "modeling.configuration_zero_shot",
    "TASForReferringSegmentation": "modeling.modeling_tas",
    "ZeroShotReferringSegmentationPipeline": "modeling.pipeline_zero_shot_referring_segmentation",
    "ZeroShotSegmentationOutput": "modeling.modeling_referring_segmentation",
    "ZeroShotSegmentationProcessor": "modeling.processing_zero_shot",
    "draw_overlay": "visualization",
    "grounded": "composition",
    "zero_shot": "composition",
}

# Not in `__all__`: a star import should not load what training needs.
_MODULES = ("conversion", "data", "demo", "evaluation", "hub", "metrics", "modeling", "training")

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


if not TYPE_CHECKING:  # type checkers know the names above, and no others

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


register()
