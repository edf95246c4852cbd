"""Download of one file from the first source that has the expected bytes.

pooch sends the request and reads the response. Its own retries are not used: they repeat a 404 or
wrong bytes just like a 503, with pauses of their own, and support only one source.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import OK, responses
from pathlib import Path
from typing import Any

from resharp.checks import shortened
from resharp.errors import ChecksumError, DownloadError, ResharpError
from resharp.joining import start
from resharp.optional import require
from resharp.types import Progress
from resharp.weights.entry import ModelEntry

CHUNK = 1 << 16
MESSAGE = 300
"""Characters of a URL or of an error of requests, which quotes it."""
LARGEST = 4 << 30
"""Largest file in bytes if the catalogue does not state its size."""
PATIENCE = 10
"""Timeouts within which a chunk must arrive, since a server may send single bytes forever."""
TRANSIENT = (408, 425, 429)


logger = logging.getLogger(__name__)


class TransientError(DownloadError):
    """A temporary failure, after which a retry may succeed."""


class CancelledError(Exception):
    """Carries an exception from ``progress`` past the handling of failed downloads."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The expected file of a download, and its timeout and retries."""

    entry: ModelEntry
    """Checkpoint to which the file belongs."""
    sha256: str
    """Hash to enforce."""
    timeout: float
    """Seconds without a response or data after which an attempt fails, as it does after
    :data:`PATIENCE` times as many without a whole chunk."""
    attempts: int
    """Maximum number of attempts per source."""
    backoff: float
    """Seconds before the second attempt; doubled after each attempt."""


def download(urls: Sequence[str], part: Path, wanted: Wanted, progress: Progress) -> None:
    """Write the expected bytes to ``part``, from the first of ``urls`` that has them.

    Raises:
        ChecksumError: no source worked, and at least one returned other bytes.
        DownloadError: no source worked. Both messages list every source with its failure.
        CancelledError: ``progress`` raised.
        OSError: ``part`` cannot be written.
    """
    failures: list[tuple[str, ResharpError]] = []
    for url in urls:
        try:
            _patiently(url, part, wanted, progress)
            return
        except (DownloadError, ChecksumError) as error:
            failures.append((url, error))
            if len(failures) < len(urls):  # the last failure is part of the error
                logger.warning("%s failed: %s", redact(url), redact(str(error)))
    raise _summary(wanted, failures) from failures[-1][1]


def redact(text: str) -> str:
    """Return ``text`` without the credentials in its URLs."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def _summary(wanted: Wanted, failures: Sequence[tuple[str, ResharpError]]) -> ResharpError:
    # Errors of requests quote the URL, some more than once.
    lines = "".join(
        f"\n  {shortened(redact(url), MESSAGE)}: {shortened(redact(str(error)), MESSAGE)}"
        for url, error in failures
    )
    text = f"cannot download {wanted.entry.file} ({wanted.entry.name}):{lines}"
    if not any(isinstance(error, ChecksumError) for _, error in failures):
        return DownloadError(
            f"{text}\nCheck the connection, pass a `mirror`, or copy the file (sha256 "
            f"{wanted.sha256}) into the folder of checkpoints yourself."
        )
    if wanted.entry.hash_sources == 1 and wanted.sha256 == wanted.entry.sha256:
        text += "\nThis hash comes from a single public source and may be wrong. Please report it."
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
            logger.info("%s: %s; retrying in %.1f s", redact(url), redact(str(error)), pause)
            time.sleep(pause)


def _once(url: str, part: Path, wanted: Wanted, progress: Progress) -> None:
    pooch, requests, urllib3 = (
        require(name, feature="Downloading weights", extra="")
        for name in ("pooch", "requests", "urllib3")
    )
    size = wanted.entry.bytes
    with _Sink(part, size, progress) as sink:
        get = pooch.HTTPDownloader(
            chunk_size=CHUNK,
            timeout=wanted.timeout,
            headers={"Accept-Encoding": "identity", "User-Agent": "resharp"},
            hooks={"response": sink.answered},
        )
        try:
            with sink.watched(PATIENCE * wanted.timeout):
                get(url, sink, None)
        except (ResharpError, CancelledError):
            raise
        except Exception as error:  # also of a socket that was closed because it was too slow
            if sink.too_slow:
                raise TransientError(
                    f"fewer than {CHUNK} bytes within {PATIENCE * wanted.timeout:g} s"
                ) from error
            known = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)
            if not isinstance(error, known):
                raise
            raise _translated(error, requests.exceptions, wanted.timeout) from error
        finally:  # pooch leaves the connection of a failed download to the garbage collector
            if sink.response is not None:
                sink.response.close()
    if size and sink.done < size:
        raise TransientError(f"the download ended early, after {sink.done} of {size} bytes")
    _check_size(sink.done, size)
    if sink.digest.hexdigest() != wanted.sha256:
        raise ChecksumError(f"expected sha256 {wanted.sha256}, found {sink.digest.hexdigest()}")


class _Sink(io.BufferedWriter):
    """The file that pooch writes to. Counts, limits, hashes and reports bytes as they arrive."""

    def __init__(self, part: Path, size: int | None, progress: Progress) -> None:
        super().__init__(io.FileIO(part, "w"))
        self._size, self._total, self._progress = size, size or 0, progress
        self.response: Any = None
        self.done, self.digest = 0, hashlib.sha256()
        self.too_slow = False

    def answered(self, response: Any, **_: object) -> None:
        """Reject a wrong file, e.g. a login page, before it is downloaded."""
        self.response = response
        if response.is_redirect:
            response.close()  # requests would read its body to the end, which may never come
            return
        length = response.headers.get("Content-Length", "")
        plain = "Content-Encoding" not in response.headers
        if plain and response.status_code == OK and length.isdecimal():
            self._total = int(length[:20])
            _check_size(self._total, self._size)

    def write(self, chunk: Any) -> int:
        if self.done + len(chunk) > (self._size or LARGEST):
            raise ChecksumError(f"wrong file: more than {self._size or LARGEST} bytes")
        count = super().write(chunk)
        self.digest.update(chunk)
        self.done += count
        try:
            self._progress(self.done, self._total)
        except Exception as error:
            raise CancelledError(error) from error
        return count

    @contextmanager
    def watched(self, seconds: float) -> Iterator[None]:
        """Close the connection from another thread if no chunk arrives in time."""
        ended = threading.Event()

        def watch() -> None:
            before = -1
            while not ended.wait(seconds):
                if self.done == before and self.response is not None:
                    self.too_slow = True
                    _hang_up(self.response)
                before = self.done

        thread = threading.Thread(target=watch, name="resharp-download", daemon=True)
        start(thread)
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _hang_up(response: Any) -> None:
    """Shut down a connection on which another thread waits; closing it would block as well."""
    with suppress(OSError, ValueError, AttributeError):  # it has already ended
        number = response.raw.fileno()
        with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as line:
            line.shutdown(socket.SHUT_RDWR)


def _check_size(found: int, size: int | None) -> None:
    if size and found != size:
        raise ChecksumError(f"wrong file: expected {size} bytes, found {found}")
    if found > LARGEST and not size:
        raise ChecksumError(f"wrong file: {found} bytes, more than {LARGEST}")


def _translated(error: Any, known: Any, timeout: float) -> DownloadError:
    """Convert an error of requests or urllib3."""
    if isinstance(error, known.HTTPError):
        code = error.response.status_code
        text = f"HTTP {code} {responses.get(code, '')}".rstrip()
        return TransientError(text) if code in TRANSIENT or code >= 500 else DownloadError(text)
    if isinstance(error, known.SSLError):
        return DownloadError(f"cannot establish a secure connection: {error}")
    # A read that times out in the middle of the file raises a ConnectionError.
    if isinstance(error, known.Timeout) or "timed out" in str(error):
        return TransientError(f"no response within {timeout:g} s")
    if isinstance(error, known.RequestException) and not isinstance(error, ValueError):
        return TransientError(str(error))
    return DownloadError(str(error))  # an invalid URL
