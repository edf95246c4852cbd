"""FP32 if it was requested: what ``half=False`` means for the backends."""

from __future__ import annotations

import pytest

from resharp import Upscaler
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.torch.backend import TorchBackend
from resharp.runtime.fallback import load_backend
from resharp.types import Precision


def test_engines_are_skipped_with_a_reason() -> None:
    options = BackendOptions(device="cuda", precision="fp32")
    assert "fp32 was requested" in str(load_backend("tensorrt").probe(options))


@pytest.mark.parametrize(
    ("device", "precision", "half"),
    [("cuda", "auto", True), ("cuda", "fp32", False), ("cpu", "auto", False)],
)
def test_torch_keeps_fp32(device: str, precision: Precision, half: bool, compact: Bundle) -> None:
    backend = TorchBackend(compact, BackendOptions())
    whole = backend.memory(64)
    backend.options = BackendOptions(device=device, precision=precision)
    assert (backend._precision() == "fp16") is half
    assert backend.memory(64) == whole // (2 if half else 1)


def test_other_precisions_are_refused(compact: Bundle) -> None:
    with pytest.raises(OptionError, match="one of auto, fp32"):
        Upscaler(compact, precision="fp8")  # type: ignore[arg-type]
