"""What is known of the last pictures, kept for further expressions about them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Seen:
    """
    What is known of a picture, whatever is asked for. Threads may share it.

    Attributes:
        image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.
        regions (`np.ndarray` of shape `(r, height, width)`): Boolean.
        facts (`dict[str, Any]`): What a system computes of them, by name.
    """

    image: np.ndarray
    regions: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    def fact(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed when it is first asked for."""
        with self._lock:
            if name not in self.facts:
                self.facts[name] = compute()
            return self.facts[name]

    @property
    def nbytes(self) -> int:
        """What its arrays, tensors and texts take."""
        # Without the lock: whoever asks need not wait until another thread has computed a fact.
        return _bytes_of([self.image, self.regions, *tuple(self.facts.values())])


class PictureCache:
    """
    The last pictures by their keys, within a number of pictures and of bytes. Threads may share it; a copy of it is empty, and so is
    what a pickle of it gives.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def __reduce__(self) -> tuple[type["PictureCache"], tuple[()]]:
        return PictureCache, ()

    def find(self, key: bytes) -> Seen | None:
        """What is kept under a key."""
        with self._lock:
            return self._seen.get(key)

    def keep(self, key: bytes, seen: Seen, max_pictures: int, max_bytes: int) -> None:
        """
        Makes a picture the last one, and drops those that were asked about longest ago, as long as there are too many.

        Args:
            key (`bytes`): Of the picture.
            seen (`Seen`): What is known of it; that may have grown since it was kept before.
            max_pictures (`int`): To keep.
            max_bytes (`int`): That all of them may take; one that takes more alone is not kept.
        """
        with self._lock:
            self._seen.pop(key, None)
            if seen.nbytes > max_bytes:
                return
            self._seen[key] = seen
            sizes = {key: each.nbytes for key, each in self._seen.items()}
            while self._seen and (len(self._seen) > max_pictures or sum(sizes.values()) > max_bytes):
                del sizes[self._seen.popitem(last=False)[0]]

    def clear(self) -> None:
        with self._lock:
            self._seen.clear()


def _bytes_of(value: Any) -> int:
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of, value))
    return sum(map(_bytes_of, vars(value).values())) if hasattr(value, "__dict__") else 0


__all__ = ["PictureCache", "Seen"]
