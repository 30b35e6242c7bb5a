"""From the checkpoint files that authors published to folders that `pipeline` loads: files, weight mappings, and the conversion itself."""

from .files import Checkpoint, locate, read_state_dict
from .folders import PUBLISHED_SYSTEMS, PublishedSystem, convert


__all__ = ["PUBLISHED_SYSTEMS", "Checkpoint", "PublishedSystem", "convert", "locate", "read_state_dict"]
