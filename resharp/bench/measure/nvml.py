"""Memory, energy and clocks of a GPU, read with NVIDIA's management library (NVML)."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from resharp.errors import ResharpError
from resharp.gpu.devices import CudaDriver
from resharp.optional import require


class Nvml:
    """NVML handle of one GPU.

    Args:
        bus: PCI bus ID of the GPU, which CUDA and NVML share.

    Raises:
        MissingExtraError: nvidia-ml-py is not installed.
        OSError: NVML cannot be initialized or does not find the GPU.
    """

    def __init__(self, bus: str) -> None:
        self._nvml = require(
            "pynvml", feature="Reading a GPU's memory", extra="bench", package="nvidia-ml-py"
        )
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(bus.encode())
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    def process(self) -> int | None:
        """Return the bytes that this process holds on the GPU; None if NVML does not list it.

        NVML may see other process IDs inside a container.
        """
        found = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        mine = [item.usedGpuMemory for item in found if item.pid == os.getpid()]
        return int(mine[0]) if mine and mine[0] is not None else None

    def device(self) -> int:
        """Return the bytes in use on the GPU by all processes."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def joules(self) -> float | None:
        """Return the energy used since the driver was loaded, in joules; None if unavailable."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else float(millijoules) / 1e3

    def facts(self) -> dict[str, Any]:
        """Return the current clocks, power limit, temperature and the driver version."""
        sm, memory = self._nvml.NVML_CLOCK_SM, self._nvml.NVML_CLOCK_MEM
        kind = self._nvml.NVML_TEMPERATURE_GPU
        found = {
            "sm clock (MHz)": self._ask("nvmlDeviceGetClockInfo", sm),
            "largest sm clock (MHz)": self._ask("nvmlDeviceGetMaxClockInfo", sm),
            "memory clock (MHz)": self._ask("nvmlDeviceGetClockInfo", memory),
            "power limit (mW)": self._ask("nvmlDeviceGetEnforcedPowerLimit"),
            "temperature (C)": self._ask("nvmlDeviceGetTemperature", kind),
        }
        try:
            driver = self._nvml.nvmlSystemGetDriverVersion()
            found["driver"] = driver.decode() if isinstance(driver, bytes) else str(driver)
        except self._nvml.NVMLError:
            pass
        return {name: value for name, value in found.items() if value is not None}

    def _ask(self, name: str, *args: Any) -> Any:
        try:
            return getattr(self._nvml, name)(self._handle, *args)
        except self._nvml.NVMLError:  # the GPU lacks this sensor
            return None


def open_nvml(index: int) -> Nvml | str:
    """Open NVML for a CUDA device, or return the reason why that is not possible."""
    try:
        driver, bus = CudaDriver(), ctypes.create_string_buffer(64)
        driver.call("cuDeviceGetPCIBusId", bus, 64, driver.number("cuDeviceGet", index))
        return Nvml(bus.value.decode())
    except (ResharpError, OSError) as error:
        return str(error)
