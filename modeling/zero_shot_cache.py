"""Cache of the last images and of what was computed for them, for further expressions. Threads may share it."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class CachedImage:
    """
    An image with its regions and all that depends on no expression.

    Attributes:
        image (`np.ndarray` of shape `(height, width, 3)`): RGB, bytes.
        regions (`np.ndarray` of shape `(r, height, width)`, *optional*): Boolean; by default there are none.
        values (`dict[str, Any]`): Computed values, by name.
    """

    image: np.ndarray
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), bool))
    values: dict[str, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    def get_or_compute(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a value by its name; compute it when it is first asked for."""
        with self._lock:
            if name not in self.values:
                self.values[name] = compute()
            return self.values[name]

    @property
    def nbytes(self) -> int:
        """Bytes that its arrays, tensors and texts take."""
        # Without the lock: nobody need wait here until another thread has computed a value.
        return _bytes_of([self.image, self.regions, *tuple(self.values.values())])


class ImageCache:
    """The last images by their keys, within a number of images and of bytes. A copy or an unpickled one is empty."""

    def __init__(self) -> None:
        self._images: OrderedDict[bytes, CachedImage] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[()]]:
        return ImageCache, ()

    def find(self, key: bytes) -> CachedImage | None:
        """Return the image that is kept under a key."""
        with self._lock:
            return self._images.get(key)

    def keep(self, key: bytes, cached: CachedImage, max_images: int, max_bytes: int) -> None:
        """
        Make an image the last one, and drop those that were asked about longest ago, as long as there are too many.

        Args:
            key (`bytes`): The image's key.
            cached (`CachedImage`): The image; it may have grown since it was kept before.
            max_images (`int`): Number of images to keep.
            max_bytes (`int`): Bytes that all of them may take; one that takes more alone is not kept.
        """
        with self._lock:
            self._images.pop(key, None)
            if cached.nbytes > max_bytes:
                return
            self._images[key] = cached
            sizes = {key: kept.nbytes for key, kept in self._images.items()}
            while self._images and (len(self._images) > max_images or sum(sizes.values()) > max_bytes):
                del sizes[self._images.popitem(last=False)[0]]

    def clear(self) -> None:
        with self._lock:
            self._images.clear()


def _bytes_of(value: Any) -> int:
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of, value))
    return sum(map(_bytes_of, vars(value).values())) if hasattr(value, "__dict__") else 0


__all__ = ["ImageCache", "CachedImage"]
