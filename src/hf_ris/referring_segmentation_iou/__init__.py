"""The metric as a package; `evaluate.load` reads the same folder."""

from .referring_segmentation_iou import ReferringSegmentationIoU, sample_ious, summarize


__all__ = ["ReferringSegmentationIoU", "sample_ious", "summarize"]
