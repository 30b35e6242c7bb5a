"""Models that were exported to ONNX, without torch: `python -m hf_ris.onnx FOLDER IMAGE EXPRESSION...`."""

import sys

from .modeling.onnx_runtime import ExportedModel, main


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["ExportedModel"]
