"""Golden numbers of the original implementations: how they are read, and how the random states behind them are drawn."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


GOLDEN = Path(__file__).parent / "golden"


def read_json(system: str, name: str):
    return json.loads((GOLDEN / system / name).read_text())


def read_tensors(system: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / system / name)


def draw_state(system: str) -> dict[str, torch.Tensor]:
    """The original's random state dict, drawn key by key from the manifest's rule."""
    state = {}
    for key, rule in read_json(system, "state_manifest.json").items():
        size = int(np.prod(rule["shape"], dtype=np.int64))
        values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(size) * rule["std"] + rule["mean"]
        tensor = torch.from_numpy(values.astype(np.float32)).reshape(rule["shape"])
        state[key] = tensor.exp() if rule["kind"] == "exp" else tensor
    return state
