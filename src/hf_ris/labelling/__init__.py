"""Label datasets of any size, in one process or on a cluster of Ray."""

from ..rows import Row, answer_rows
from .engines import ModelChoice, Workers
from .run import Summary, label
from .sources import Source, find_source


__all__ = ["ModelChoice", "Row", "Source", "Summary", "Workers", "answer_rows", "find_source", "label"]
