"""A folder of `hf-ris export` as a model of transformers, so that pipelines, evaluation and the page ask it like any other."""

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel

from .modeling.configuration_onnx import OnnxReferringSegmentationConfig
from .modeling.inputs import expressions_per_image
from .modeling.modeling_referring_segmentation import ReferringSegmentationOutput
from .systems import HUB_MODELS, SYSTEMS


class OnnxForReferringSegmentation(PreTrainedModel):
    """
    Runs the graphs with onnxruntime, on the CPU or wherever its providers run; see [`~hf_ris.onnx.ExportedModel`].

    Example:

    ```python
    >>> import hf_ris
    >>> from transformers import pipeline

    >>> ris = pipeline("referring-segmentation", model="magnet-onnx", model_kwargs={"threads": 4})
    >>> ris("scene.png", text="the red mug")
    ```
    """

    config_class = OnnxReferringSegmentationConfig
    takes_regions = False
    accepts_loss_kwargs = False

    def __init__(self, config: OnnxReferringSegmentationConfig, folder: str | Path, **options: Any) -> None:
        from .onnx import ExportedModel

        super().__init__(config)
        self.exported = ExportedModel(folder, **options)
        # Weights stand in the graphs: their hashes are what tells two models apart.
        hashes = bytes.fromhex("".join(file["sha256"] for file in self.exported.config["files"].values()))
        self.register_buffer("hashes", torch.tensor(list(hashes), dtype=torch.uint8))

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *args: Any,
        config: Any = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        dtype: Any = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """
        Open a folder of `hf-ris export`, here or on the Hub.

        Args:
            source (`str` or `os.PathLike`): The folder or Hub id.
            providers (`Sequence[str]`, *optional*): onnxruntime's execution providers; by default CUDA's where there is one, and
                the CPU's.
            threads (`int`, *optional*): CPU threads; by default torch's.
            options: `revision`, `token`, `cache_dir` and others that name files on the Hub.

        Raises:
            ValueError: If onnxruntime is not installed, the folder is not whole or cannot be opened, or another `dtype` is asked for.
            OSError: If there is no such model.
        """
        if find_spec("onnxruntime") is None:
            raise ValueError('onnxruntime is not installed; `pip install "hf_ris[onnx]"` brings it.')
        if dtype not in (None, "auto", torch.float32, "float32"):
            raise ValueError(
                f"`dtype` must be left out: an exported model keeps the precision of its export, got {dtype}."
            )
        folder = Path(source)
        if not folder.is_dir():
            hub = {
                name: options[name]
                for name in ("cache_dir", "local_files_only", "revision", "token")
                if name in options
            }
            folder = Path(snapshot_download(str(source), **hub))
        folder = folder / options.get("subfolder", "")
        config = config or cls.config_class.from_pretrained(folder)
        model = cls(config, folder, providers=providers, threads=threads or torch.get_num_threads())
        model.config.name_or_path = model.name_or_path = str(source)
        report: dict[str, Any] = {
            "missing_keys": set(),
            "unexpected_keys": set(),
            "mismatched_keys": set(),
            "error_msgs": [],
        }
        return (model.eval(), report) if output_loading_info else model.eval()

    def find_processor(self, given: Any) -> Any:
        """Find the processor of the model that was exported, in its files; see [`HubModelMixin.find_processor`]."""
        kind, folder = self.config.system, self.exported.folder
        if kind in HUB_MODELS:
            processor_class = HUB_MODELS[kind]().processor_class
            return processor_class.from_pretrained(folder, text_length=self.max_text_length)
        return without_code(SYSTEMS[kind].processor().from_pretrained(folder))

    @property
    def device(self) -> torch.device:
        """Where inputs are sent; the graphs run where their providers do."""
        return self.hashes.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the graphs take, whatever their precision is within."""
        return torch.float32

    @property
    def max_text_length(self) -> int:
        """Tokens that the graphs take."""
        return self.exported.preparation["text_length"]

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> ReferringSegmentationOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, H, W)`): Images of the graphs' size.
            input_ids, attention_mask (`torch.LongTensor` of shape `(N, L)`): The expressions, N = B * k, image-major.
            labels (*optional*): Must be left out.
            return_dict (`bool`, *optional*, defaults to `True`): No effect.

        Returns:
            [`ReferringSegmentationOutput`] with `logits` on the CPU.

        Raises:
            ValueError: If there are labels, or there is no equal number of expressions for each image.
        """
        if labels is not None:
            raise ValueError("`labels` must be left out: an exported model does not train.")
        expressions_per_image(len(input_ids), len(pixel_values))
        arrays = (tensor.cpu().numpy() for tensor in (pixel_values, input_ids, attention_mask))
        answers = self.exported.run(*arrays)
        confidence = None if answers.confidence is None else torch.from_numpy(answers.confidence)
        return ReferringSegmentationOutput(logits=torch.from_numpy(answers.logits), confidence=confidence)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Copy the folder, unless it is the same one."""
        if Path(save_directory).resolve() == self.exported.folder.resolve():
            return
        shutil.copytree(self.exported.folder, save_directory, dirs_exist_ok=True)

    def describe_settings(self) -> str:
        """Settings that the answers depend on, besides weights, images and expressions."""
        return self.config.to_json_string()


def without_code(processor: Any) -> Any:
    """Let a processor's files name no code beside them: an exported folder holds none that transformers runs."""
    for part in (processor, processor.image_processor):
        part._auto_class = None
    return processor


__all__ = ["OnnxForReferringSegmentation"]
