"""Conversion of published checkpoint files to folders that `pipeline` loads."""

from .files import Checkpoint, locate, read_state_dict
from .folders import PUBLISHED_SYSTEMS, PublishedSystem, convert


__all__ = ["PUBLISHED_SYSTEMS", "Checkpoint", "PublishedSystem", "convert", "locate", "read_state_dict"]
