"""Tiny random models, exported once per run through the ordinary gate."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
from importlib import metadata
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: a thread in each, also of their own
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or children would ignore it too

if "RESHARP_HOME" not in os.environ:  # journals stay out of the cache folder of whoever tests
    os.environ["RESHARP_HOME"] = tempfile.mkdtemp(prefix="resharp-tests-")
    atexit.register(shutil.rmtree, os.environ["RESHARP_HOME"], ignore_errors=True)

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from resharp.engines import Bundle
from resharp.export import ExportOptions, export
from resharp.models.archs.rrdbnet import RRDBNet
from resharp.models.archs.srvgg import SRVGGNetCompact

# Property tests draw the same examples in every run, and take the time they take; with
# --hypothesis-profile=explore they draw others.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")

Kind = str


def pytest_collection_finish() -> None:
    """Take what is there for the whole run (PyTorch, 3000 tests) out of each garbage collection."""
    gc.collect()
    gc.freeze()


def random_network(kind: Kind) -> nn.Module:
    """A network with weights large enough that a wrong pixel shows."""
    torch.manual_seed(11)
    network: nn.Module
    if kind == "compact":
        network = SRVGGNetCompact(num_feat=8, num_conv=3, upscale=2)
    else:
        network = RRDBNet(num_feat=8, num_block=1, num_grow_ch=4, scale=int(kind[-1]))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network.eval()


def save_checkpoint(network: nn.Module, path: Path) -> Path:
    """As the official files are: under ``params``."""
    torch.save({"params": network.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Bundle]:
    """Bundles of one store: a compact x2, RRDBNet x4, and RRDBNet x2 with pixel-unshuffle."""
    folder = tmp_path_factory.mktemp("tiny")
    bundles = {}
    for kind in ("compact", "rrdb4", "rrdb2"):
        checkpoint = save_checkpoint(random_network(kind), folder / f"{kind}.pth")
        bundles[kind] = export(checkpoint, ExportOptions(), store=folder / "store")
    return bundles


@pytest.fixture
def compact(tiny: dict[Kind, Bundle]) -> Bundle:
    """The smallest of them."""
    return tiny["compact"]


@pytest.fixture
def bare_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """resharp is only on the path: it has no metadata that tells its version."""
    find = metadata.Distribution.from_name

    def absent(name: str) -> metadata.Distribution:
        if name == "resharp":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", absent)
