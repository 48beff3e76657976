"""Exports history as files for analysts: the public events, and a summary of each order."""

from .incremental import Exported, ExportError, export

__all__ = ["ExportError", "Exported", "export"]
