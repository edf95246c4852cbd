"""The errors that resharp raises on purpose. Anything else that escapes is a bug in resharp.

::

    ResharpError
    |-- OptionError              an option with an invalid value
    |-- ImageError               an image that cannot be read, or an array that is not an image
    |-- VideoError               a video that cannot be read, or not to its end
    |-- OutputError              a result that cannot be written
    |-- UnknownModelError        no model of that name; the message lists similar names
    |-- NotExportedError         a known model whose graph has not been exported yet
    |-- CheckpointError          a checkpoint that cannot be used
    |   `-- UnknownArchitectureError   ... because no known network has these weights
    |-- ChecksumError            a file whose hash is not the expected one
    |-- DownloadError            a download that failed
    |   `-- OfflineError         ... because offline mode forbids it
    |-- BundleError              a bundle in the store that cannot be used
    |   `-- DamagedError         ... because its bytes have changed
    |-- StoreBusyError           another process is writing the same bundle
    |-- ParityError              an exported graph whose output differs from PyTorch's
    |-- BuildError               TensorRT could not build an engine
    |-- MissingExtraError        an optional package that a feature needs
    |-- BackendError             a backend that cannot run here
    `-- OutOfMemoryError         no tile is small enough for the free memory

Each message says what was found and what to do next. Messages name arguments in backticks; the
command line shows them as its options. ``code`` is stable: programs may rely on it.
"""

from __future__ import annotations

from typing import ClassVar

DOCS_URL = "https://resharp.readthedocs.io/en/latest/reference/errors/"
"""The page that explains every code."""


class ResharpError(Exception):
    """Base of all errors that a user can do something about."""

    code: ClassVar[str] = "error"
    """Stable name of the kind of error, for programs."""

    @property
    def docs_url(self) -> str:
        """Address of the documentation of this kind of error."""
        return f"{DOCS_URL}#{self.code}"


class OptionError(ResharpError, ValueError):
    """An option has an invalid value, or two options contradict each other."""

    code = "invalid-option"


class ImageError(ResharpError, ValueError):
    """An image cannot be read, or an array is not an image."""

    code = "invalid-image"


class VideoError(ResharpError, ValueError):
    """A video cannot be read, or not to its end."""

    code = "invalid-video"


class OutputError(ResharpError, OSError):
    """A result cannot be written; nothing was left under its name."""

    code = "output"


class UnknownModelError(ResharpError, LookupError):
    """No model has that name."""

    code = "unknown-model"


class NotExportedError(ResharpError, LookupError):
    """The store has no graph of a known model."""

    code = "not-exported"


class CheckpointError(ResharpError, ValueError):
    """A checkpoint cannot be used."""

    code = "invalid-checkpoint"


class UnknownArchitectureError(CheckpointError):
    """No known network has these weights."""

    code = "unknown-architecture"


class ChecksumError(ResharpError):
    """The hash of a file is not the expected one."""

    code = "checksum"


class DownloadError(ResharpError, OSError):
    """A download failed; nothing was left behind."""

    code = "download"


class OfflineError(DownloadError):
    """A download is needed, and offline mode forbids it."""

    code = "offline"


class BundleError(ResharpError):
    """A bundle in the store is damaged, incomplete or of another version."""

    code = "bundle"


class DamagedError(BundleError):
    """The bytes of a file are not those that were written."""

    code = "damaged"


class StoreBusyError(ResharpError):
    """Another process is writing the same bundle."""

    code = "store-busy"


class ParityError(ResharpError):
    """The output of an exported graph or engine differs too much from its reference."""

    code = "parity"


class BuildError(ResharpError, RuntimeError):
    """TensorRT could not build an engine; its own log lines are part of the message."""

    code = "build"


class MissingExtraError(ResharpError, ImportError):
    """An optional package that a feature needs is not installed."""

    code = "missing-extra"


class BackendError(ResharpError, RuntimeError):
    """A backend cannot run here."""

    code = "backend"


class OutOfMemoryError(ResharpError, MemoryError):
    """No tile is small enough for the free memory."""

    code = "out-of-memory"
