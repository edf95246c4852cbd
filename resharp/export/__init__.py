"""Export of checkpoints to ONNX bundles in the store. Needs the extra ``export``."""

from resharp.export.run import ExportOptions, export

__all__ = ["ExportOptions", "export"]
