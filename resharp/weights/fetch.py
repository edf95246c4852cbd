"""Download of a checkpoint into the weights folder, complete and verified or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resharp.errors import ChecksumError, MissingExtraError, OfflineError, OptionError
from resharp.fsutil import commit_file
from resharp.optional import require
from resharp.paths import weights_folder
from resharp.types import Progress
from resharp.weights.download import CancelledError, Wanted, download, redact
from resharp.weights.entry import ModelEntry, check_sha256
from resharp.weights.files import sweep, writing
from resharp.weights.state import inspect, promised, recorded

MIRROR = "RESHARP_MIRROR"
OFFLINE = "RESHARP_OFFLINE"

logger = logging.getLogger(__name__)


def fetch(
    entry: ModelEntry,
    folder: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
    progress: bool | Progress = False,
    timeout: float = 30.0,
    attempts: int = 3,
    backoff: float = 1.0,
) -> Path:
    """Return the path of a checkpoint, downloading it if it is missing or damaged.

    Args:
        entry: checkpoint to fetch.
        folder: weights folder; None uses the default.
        sha256: hash to enforce if the entry has none; stored next to the file.
        mirror: base URL to try before the official ones, as ``<mirror>/<file>``; None uses
            ``RESHARP_MIRROR``, an empty string no mirror.
        offline: whether downloads are forbidden; None uses ``RESHARP_OFFLINE``.
        progress: True for a progress bar if standard error is a terminal, or a callable that
            receives bytes done and total bytes; raising in it cancels the download.
        timeout: seconds without a response or data after which an attempt fails.
        attempts: maximum number of attempts per source if failures are temporary.
        backoff: seconds before the second attempt; doubled after each attempt.

    Raises:
        OptionError: the hash is neither known nor given, or it differs from the catalogue's.
        OfflineError: the file is needed and offline mode is on; the message says which file to put
            where.
        ChecksumError: a source returned other bytes, or one of the user's own files is damaged.
        DownloadError: no source worked; the message names each one.
        OutputError: the folder cannot be written to. After any error, no new file is left behind.
    """
    place = weights_folder(folder)
    path = place / entry.file
    sweep(place)
    known = _enforced(entry, place, sha256)
    found = inspect(entry, place, sha256=known)
    if known is not None and found.state == "ok":
        _record(entry, place, known)
        return path
    if found.state == "damaged":
        logger.warning("%s is damaged: %s", path, found.detail)
    if not entry.urls:
        raise _not_ours(entry, place)
    if _offline(offline):
        raise _forbidden(entry, place, known)
    if known is None:
        raise OptionError(
            f"{entry.name} cannot be verified because its hash is unknown: run 'resharp models "
            f"fetch {entry.name}' with `sha256`=HASH, a hash that you trust"
        )
    wanted = Wanted(
        entry=entry, sha256=known, timeout=timeout, attempts=max(1, attempts), backoff=backoff
    )
    try:
        with writing(place, entry.file) as part:
            # Another process may have fetched it while we waited for the lock.
            if inspect(entry, place, sha256=known).state != "ok":
                with _reporting(progress, entry) as report:
                    download(_sources(entry, mirror), part, wanted, report)
                commit_file(part, path)
    except CancelledError as error:
        raise error.reason from error.reason.__cause__
    _record(entry, place, known)
    return path


def _enforced(entry: ModelEntry, place: Path, sha256: str | None) -> str | None:
    if sha256 is None:
        return promised(entry, place)
    try:
        given = check_sha256(sha256)
    except ValueError as error:
        raise OptionError(str(error)) from error
    if entry.sha256 is not None and entry.sha256 != given:
        raise OptionError(
            f"`sha256` must match the catalogue's {entry.sha256} for {entry.name}, got {given}: "
            "omit it, or import your file under another name with 'resharp models import FILE'"
        )
    return given


def _record(entry: ModelEntry, place: Path, sha256: str) -> None:
    """Store a hash that only the user knows, so that ``verify`` can use it later."""
    if entry.sha256 is not None or promised(entry, place) == sha256:
        return
    path = recorded(entry, place)
    try:
        with writing(place, path.name) as part:
            part.write_text(f"{sha256}  {entry.file}\n", encoding="ascii")
            commit_file(part, path)
    except OSError as error:  # the file itself is complete and correct
        logger.warning("cannot store the hash of %s: %s", entry.name, error)


def _sources(entry: ModelEntry, mirror: str | None) -> list[str]:
    base = os.environ.get(MIRROR, "") if mirror is None else mirror
    first = [f"{base.rstrip('/')}/{entry.file}"] if base else []
    return first + list(entry.urls)


def _offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def _forbidden(entry: ModelEntry, place: Path, sha256: str | None) -> OfflineError:
    path = place / entry.file
    there = inspect(entry, place, sha256=sha256, quick=True).state != "missing"
    problem = "is not the right file" if there else "does not exist"
    size = f"{entry.bytes} bytes, " if entry.bytes else ""
    option = "" if entry.sha256 else f", `sha256`={sha256 or 'HASH'}"
    return OfflineError(
        f"{path} {problem}, and offline mode forbids downloading {entry.name}. "
        f"Copy {entry.file} ({size}sha256 {sha256 or 'unknown'}) there from "
        f"{redact(entry.urls[0])}, or run 'resharp models fetch {entry.name}' with "
        f"`weights_dir`={place}{option}, without `offline` and {OFFLINE}."
    )


def _not_ours(entry: ModelEntry, place: Path) -> ChecksumError:
    report = inspect(entry, place)
    detail = f" ({report.detail})" if report.detail else ""
    return ChecksumError(
        f"{report.path} is {report.state}{detail} and {entry.name} has no download URL: restore it "
        f"by running 'resharp models import FILE' with `name`={entry.name} and `force`"
    )


@contextmanager
def _reporting(progress: bool | Progress, entry: ModelEntry) -> Iterator[Progress]:
    if progress is not True:
        yield progress or (lambda done, total: None)
        return
    try:
        tqdm = require("tqdm", feature="The progress bar", extra="")
    except MissingExtraError as error:  # the download does not depend on it
        logger.debug("%s", error)
        yield lambda done, total: None
    else:
        # disable=None shows no bar if standard error is not a terminal.
        with tqdm.tqdm(
            desc=entry.file, total=entry.bytes, unit="B", unit_scale=True, disable=None
        ) as bar:

            def show(done: float, total: float) -> None:
                bar.total = total or None
                bar.update(done - bar.n)

            yield show
