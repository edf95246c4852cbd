"""Every error that resharp raises on purpose. Anything else that escapes is a bug of ours.

::

    ResharpError
    |-- OptionError              an option that makes no sense here
    |-- ImageError               a picture that cannot be read, or an array that is no picture
    |-- VideoError               a video that cannot be read, or not to its end
    |-- OutputError              a result that cannot be written
    |-- UnknownModelError        no model of that name, with the nearest ones
    |-- NotExportedError         a known model whose graph has not been exported yet
    |-- CheckpointError          a file of weights that cannot be used
    |   `-- UnknownArchitectureError   ... because no network here has these weights
    |-- ChecksumError            bytes that are not those that were promised
    |-- DownloadError            a download that failed
    |   `-- OfflineError         ... because offline mode forbids it
    |-- BundleError              a damaged or foreign bundle in the store
    |-- StoreBusyError           another process is writing the same bundle
    |-- ParityError              an exported graph that does not compute what PyTorch computes
    |-- BuildError               TensorRT could not build an engine
    |-- MissingExtraError        an optional package that a feature needs
    |-- BackendError             a backend that cannot run here
    `-- OutOfMemoryError         no tile is small enough for the memory that is free

Each message says what was found and what to do next; the command line prints it without a trace.
"""

from __future__ import annotations


class ResharpError(Exception):
    """Base of all errors that a user can do something about."""


class OptionError(ResharpError, ValueError):
    """An option that makes no sense here."""


class ImageError(ResharpError, ValueError):
    """A picture that cannot be read, or an array that is no picture."""


class VideoError(ResharpError, ValueError):
    """A video that cannot be read, or not to its end."""


class OutputError(ResharpError, OSError):
    """A result that cannot be written; nothing was left under its name."""


class UnknownModelError(ResharpError, LookupError):
    """No model of that name."""


class NotExportedError(ResharpError, LookupError):
    """A known model whose graph is not in the store."""


class CheckpointError(ResharpError, ValueError):
    """A file of weights that cannot be used."""


class UnknownArchitectureError(CheckpointError):
    """Weights that fit no network here."""


class ChecksumError(ResharpError):
    """Bytes that are not those that were promised."""


class DownloadError(ResharpError, OSError):
    """A download that failed; nothing was left behind."""


class OfflineError(DownloadError):
    """A download that offline mode forbids."""


class BundleError(ResharpError):
    """A damaged or foreign bundle in the store."""


class DamagedError(BundleError):
    """Its bytes are proven to be other than what was written."""


class StoreBusyError(ResharpError):
    """Another process is writing the same bundle."""


class ParityError(ResharpError):
    """An exported graph that does not compute what PyTorch computes."""


class BuildError(ResharpError, RuntimeError):
    """TensorRT could not build an engine; its own log lines are kept."""


class MissingExtraError(ResharpError, ImportError):
    """An optional package that a feature needs is not installed."""


class BackendError(ResharpError, RuntimeError):
    """A backend that cannot run here."""


class OutOfMemoryError(ResharpError, MemoryError):
    """No tile is small enough for the memory that is free."""
