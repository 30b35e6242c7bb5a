"""Callbacks for `Trainer`: log the loss's terms, stop when it is not finite, and draw predictions."""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from PIL import Image
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from torch.utils.hooks import RemovableHandle
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from ..data.features import expression_text
from ..data.segmentation import decode_mask
from ..visualization import draw_comparison, draw_sheet


class WatchLoss(TrainerCallback):
    """Stop a training whose loss or gradients are not finite before its weights change, and log the mean of each loss term."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.hook: RemovableHandle | None = None
        self.loss: torch.Tensor | float = 0.0  # sum over the step so far

    def on_train_begin(self, *args: Any, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.hook is not None:
            self.hook.remove()  # left by a training that broke off
        self.hook = model.register_forward_hook(self.watch)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        if self.hook is not None:
            self.hook.remove()

    def watch(self, model: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        """Add the losses of a forward pass to the sums."""
        if model.training:
            for name, term in (outputs.get("loss_dict") or {}).items():
                self.sums[name] = self.sums.get(name, 0.0) + term
            self.count += 1
            self.loss = self.loss + outputs["loss"].detach()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, *others: Any, model: PreTrainedModel, **kwargs: Any
    ) -> None:
        """Raise a FloatingPointError if the loss or the gradients of this step are not finite."""
        found = {"loss": self.loss}
        if not args.fp16:  # its gradients overflow now and then; torch's scaler skips these steps
            gradients = [each.grad for each in model.parameters() if each.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            found["norm of the gradients"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.loss = 0.0
        if torch.isfinite(torch.stack([torch.as_tensor(value) for value in found.values()])).all():
            return
        named = ", ".join(f"{name} {float(value):g}" for name, value in found.items())
        raise FloatingPointError(
            f"The loss or its gradient is not finite at step {state.global_step + 1} ({named}). Lower --learning-rate, lengthen "
            "--warmup-steps, lower --max-grad-norm, or train without --bf16 and --fp16. The weights were not updated; --resume "
            "continues from the last checkpoint."
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *others: Any, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if "loss" not in logs or not self.sums:
            return
        means = reduce(torch.stack(list(self.sums.values())) / self.count, "mean").tolist()
        rounded = {f"loss_{name}": round(mean, 4) for name, mean in zip(self.sums, means, strict=True)}
        logs.update(rounded)
        state.log_history[-1].update(rounded)
        self.sums, self.count = {}, 0


class DrawSamples(TrainerCallback):
    """
    Draw predicted beside annotated masks at each evaluation, always for the same rows.

    Args:
        rows (`Dataset`): Rows of the evaluation.
        processor (`ProcessorMixin`): The model's processor.
        folder (`Path`): Folder for the drawings, one an evaluation: `step-000300.png`.
        number (`int`): Number of rows to draw, spread evenly over all.
        text_column (`str`): The text to ask for, "sent" or "raw".
    """

    COLUMNS = 4

    def __init__(self, rows: Dataset, processor: ProcessorMixin, folder: Path, number: int, text_column: str) -> None:
        total = len(rows)  # type: ignore[arg-type]
        number = min(number, total)
        self.rows = [rows[index * total // number] for index in range(number)]
        self.processor = processor
        self.folder = folder
        self.text_column = text_column

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, *others: Any, model: PreTrainedModel, **kwargs: Any
    ) -> None:
        # Every process computes, because a model may be spread over all of them; one writes.
        drawings = [self._draw(row, model) for row in self.rows]
        if drawings and state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw_sheet(drawings, self.COLUMNS).save(self.folder / f"step-{state.global_step:06d}.png")

    @torch.no_grad()
    def _draw(self, row: dict[str, Any], model: PreTrainedModel) -> Image.Image:
        text = expression_text(row["expressions"][0], self.text_column)
        true = decode_mask(row["mask"])
        inputs = self.processor(images=row["image"], text=text, return_tensors="pt").to(model.device)
        answer = self.processor.post_process_referring_segmentation(model.eval()(**inputs), [true.shape])[0]
        return draw_comparison(row["image"], text, answer["score"], answer["mask"].cpu().numpy(), true)


__all__ = ["DrawSamples", "WatchLoss"]
