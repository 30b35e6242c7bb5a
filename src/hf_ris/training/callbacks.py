"""What a training tells on its way: the terms of its loss, pictures of what it predicts, and that it went wrong."""

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
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.features import text_of
from ..data.segmentation import decode_mask
from ..visualization import draw_comparison, draw_sheet


class WatchLoss(TrainerCallback):
    """
    Stops a training whose loss or gradients are no numbers any more, before its weights take harm, and adds the mean of each term
    of the loss to what `Trainer` logs.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.hook: RemovableHandle | None = None
        self.loss: torch.Tensor | float = 0.0  # of the step so far: finite if all its parts are

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        if self.hook is not None:
            self.hook.remove()  # of a training that broke off
        self.hook = model.register_forward_hook(self.watch)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.hook is not None:
            self.hook.remove()

    def watch(self, model: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        """Keeps what a forward pass gave."""
        if model.training:
            for name, term in (outputs.get("loss_dict") or {}).items():
                self.sums[name] = self.sums.get(name, 0.0) + term
            self.count += 1
            self.loss = self.loss + outputs["loss"].detach()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        """Raises a FloatingPointError where what the weights would learn from is not finite."""
        found = {"loss": self.loss}
        if not args.fp16:  # whose gradients overflow now and then, and are left out
            gradients = [each.grad for each in model.parameters() if each.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            found["norm of the gradients"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.loss = 0.0
        if torch.isfinite(torch.stack([torch.as_tensor(value) for value in found.values()])).all():
            return
        named = ", ".join(f"{name} {float(value):g}" for name, value in found.items())
        raise FloatingPointError(
            f"not a number to learn from at step {state.global_step + 1} ({named}): lower --learning-rate, lengthen --warmup-steps, "
            "lower --max-grad-norm, or train without --bf16 and --fp16. The weights took no harm; --resume goes on from the last "
            "checkpoint"
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self.sums:
            return
        means = reduce(torch.stack(list(self.sums.values())) / self.count, "mean").tolist()
        rounded = {f"loss_{name}": round(mean, 4) for name, mean in zip(self.sums, means, strict=True)}
        logs.update(rounded)
        state.log_history[-1].update(rounded)
        self.sums, self.count = {}, 0


class DrawSamples(TrainerCallback):
    """
    Draws what the model predicts at each evaluation, beside what is annotated: always for the same rows.

    Args:
        rows (`Dataset`): What is evaluated on.
        processor (`ProcessorMixin`): The model's.
        folder (`Path`): Where the pictures go, one an evaluation, `step-000300.png`.
        number (`int`): How many rows, taken evenly from all.
        text_column (`str`): Which text of the expressions is asked.
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
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        # Every process computes, because a model may be spread over all of them; one writes.
        pictures = [self._draw(row, model) for row in self.rows]
        if pictures and state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw_sheet(pictures, self.COLUMNS).save(self.folder / f"step-{state.global_step:06d}.png")

    @torch.no_grad()
    def _draw(self, row: dict[str, Any], model: PreTrainedModel) -> Image.Image:
        text = text_of(row["expressions"][0], self.text_column)
        true = decode_mask(row["mask"])
        inputs = self.processor(images=row["image"], text=text, return_tensors="pt").to(model.device)
        found = self.processor.post_process_referring_segmentation(model.eval()(**inputs), [true.shape])[0]
        return draw_comparison(row["image"], text, found["score"], found["mask"].cpu().numpy(), true)


__all__ = ["DrawSamples", "WatchLoss"]
