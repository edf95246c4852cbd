"""Download one file from the first source that gives the promised bytes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from resharp.errors import ChecksumError, DownloadError, ResharpError
from resharp.optional import require
from resharp.types import Progress
from resharp.weights.entry import ModelEntry
from resharp.weights.files import digest

CHUNK = 1 << 18
TRANSIENT = (408, 425, 429)


logger = logging.getLogger(__name__)


class TransientError(DownloadError):
    """A failure that may be gone in a moment."""


class CancelledError(Exception):
    """Carries what ``progress`` raised past the handling of failed downloads."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The bytes to get, and how patiently."""

    entry: ModelEntry
    """Whose file it is."""
    sha256: str
    """Hash to enforce."""
    timeout: float
    """Seconds without an answer, or without a byte, after which an attempt has failed."""
    attempts: int
    """Attempts for each source."""
    backoff: float
    """Seconds before the second attempt; doubled each time."""


def download(urls: Sequence[str], part: Path, wanted: Wanted, progress: Progress) -> None:
    """Write the promised bytes to ``part``, from the first of ``urls`` that has them.

    Raises:
        ChecksumError: no source worked, and one at least gave other bytes.
        DownloadError: no source worked. Both name every source and what was wrong with it.
        CancelledError: ``progress`` raised.
        OSError: ``part`` cannot be written.
    """
    failures: list[tuple[str, ResharpError]] = []
    for url in urls:
        try:
            _patiently(url, part, wanted, progress)
            return
        except (DownloadError, ChecksumError) as error:
            logger.warning("%s failed: %s", redact(url), redact(str(error)))
            failures.append((url, error))
    raise _summary(wanted, failures) from failures[-1][1]


def redact(text: str) -> str:
    """``text`` without the passwords of the URLs in it."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def _summary(wanted: Wanted, failures: Sequence[tuple[str, ResharpError]]) -> ResharpError:
    lines = "".join(f"\n  {redact(url)}: {redact(str(error))}" for url, error in failures)
    text = f"cannot download {wanted.entry.file} ({wanted.entry.name}):{lines}"
    if not any(isinstance(error, ChecksumError) for _, error in failures):
        return DownloadError(text)
    if wanted.entry.hash_sources == 1 and wanted.sha256 == wanted.entry.sha256:
        text += "\nThis hash has one public source only: it may be wrong. Please report it."
    return ChecksumError(text)


def _patiently(url: str, part: Path, wanted: Wanted, progress: Progress) -> None:
    for attempt in range(wanted.attempts):
        try:
            _once(url, part, wanted, progress)
            return
        except TransientError as error:
            if attempt + 1 == wanted.attempts:
                raise DownloadError(f"{error} ({wanted.attempts} attempts)") from error
            pause = wanted.backoff * 2**attempt
            logger.info("%s: %s; again in %.1f s", redact(url), redact(str(error)), pause)
            time.sleep(pause)


def _once(url: str, part: Path, wanted: Wanted, progress: Progress) -> None:
    pooch = require("pooch", feature="Downloading weights", extra="")
    meter = _Meter(progress, wanted.entry.bytes or 0)
    answers: list[Any] = []

    def answered(response: Any, **_: object) -> None:
        answers.append(response)
        _check_announced(response, wanted.entry.bytes)

    fetch = pooch.HTTPDownloader(
        progressbar=meter,
        chunk_size=CHUNK,
        timeout=wanted.timeout,
        headers={"Accept-Encoding": "identity", "User-Agent": "resharp"},
        hooks={"response": answered},
    )
    try:
        fetch(url, str(part), None)
    except (CancelledError, ChecksumError):
        raise
    except Exception as error:
        raise _translated(error, wanted.timeout) from error
    finally:
        # pooch leaves the connection of a failed download to the garbage collector.
        for response in answers:
            response.close()
    _check_bytes(part, wanted)


class _Meter:
    """What pooch takes for a progress bar."""

    def __init__(self, progress: Progress, size: int) -> None:
        self.total = 0
        self._progress = progress
        self._size = size
        self._done = 0

    def update(self, count: int) -> None:
        # pooch counts whole chunks, so the last one goes too far.
        total = self._size or self.total
        self._done = min(self._done + count, total) if total else self._done + count
        try:
            self._progress(self._done, total)
        except Exception as error:
            raise CancelledError(error) from error

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing to do: the bar outlives the attempt."""


def _check_announced(response: Any, size: int | None) -> None:
    """Refuse a login page, say, before all of another file is downloaded."""
    found = response.headers.get("Content-Length", "")
    plain = "Content-Encoding" not in response.headers
    if size and plain and response.status_code == HTTPStatus.OK and found.isdecimal():
        _check_size(int(found), size)


def _check_size(found: int, size: int) -> None:
    if found != size:
        raise ChecksumError(f"the wrong file: expected {size} bytes, found {found}")


def _check_bytes(part: Path, wanted: Wanted) -> None:
    found, size = part.stat().st_size, wanted.entry.bytes
    if size and found < size:
        raise TransientError(f"ended early, after {found} of {size} bytes")
    if size:
        _check_size(found, size)
    sha256 = digest(part)
    if sha256 != wanted.sha256:
        raise ChecksumError(f"expected sha256 {wanted.sha256}, found {sha256}")


def _translated(error: Exception, timeout: float) -> Exception:
    """Foreign errors, in one place; what is about the local disk comes back as it is."""
    requests = require("requests", feature="Downloading weights", extra="")
    urllib3 = require("urllib3", feature="Downloading weights", extra="")
    if isinstance(error, requests.HTTPError):
        return _refused(error.response.status_code)
    if isinstance(error, requests.exceptions.SSLError):
        return DownloadError(f"no secure connection: {error}")
    if isinstance(error, requests.RequestException):
        # A read that times out in the middle of the file comes as a ConnectionError.
        if isinstance(error, requests.Timeout) or "timed out" in str(error):
            return TransientError(f"no answer within {timeout:g} s")
        bad_url = isinstance(error, ValueError)
        return DownloadError(str(error)) if bad_url else TransientError(str(error))
    if isinstance(error, (urllib3.exceptions.HTTPError, UnicodeError)):
        return DownloadError(str(error))  # a URL that cannot be read
    return error


def _refused(status: int) -> DownloadError:
    known = {int(item): item.phrase for item in HTTPStatus}
    text = f"HTTP {status} {known.get(status, '')}".rstrip()
    transient = status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return TransientError(text) if transient else DownloadError(text)
