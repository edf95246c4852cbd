"""Every name of TensorRT that our code uses, by variant: "10", "11" (classic) and "rtx".

A name goes in here before it is used: ``test_surface.py`` looks for each in the real bindings, and
for uses in our code that are not here. Methods and attributes of instances stand under the class.
"""

from __future__ import annotations

from collections.abc import Iterable

Table = dict[str, tuple[str, ...]]

COMMON: Table = {
    # Building. BuilderFlag has no members here on purpose: precision is in the graph.
    "BuilderFlag": (),
    "Builder": (
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    # Its integer is 1 in 10 and 0 in 11 and RTX: always ``1 << int(...)``.
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    # parse_from_file says True for garbage as well: the network's counts are looked at too.
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "INetworkDefinition": ("num_layers", "num_inputs", "num_outputs", "get_input", "get_output"),
    "ITensor": ("name", "shape", "dtype"),
    "IBuilderConfig": (
        "set_flag",
        "add_optimization_profile",
        "progress_monitor",
        "builder_optimization_level",
        "set_memory_pool_limit",
        # In RTX these exist, do nothing and warn: classic only.
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    ),
    "ITimingCache": ("serialize",),
    "IOptimizationProfile": ("set_shape",),
    "MemoryPoolType": ("WORKSPACE",),
    "IHostMemory": ("nbytes",),
    # Subclassed by us.
    "ILogger": ("Severity", "log"),
    "ILogger.Severity": ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    # Running.
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "get_device_memory_size_for_profile_v2",
        "create_execution_context",
        "create_runtime_config",
    ),
    "IRuntimeConfig": ("set_execution_context_allocation_strategy",),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "IExecutionContext": (
        "set_input_shape",
        "get_tensor_shape",
        "set_tensor_address",
        "set_device_memory",
        "update_device_memory_size_for_shapes",
        "set_optimization_profile_async",
        "execute_async_v3",
    ),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "DataType": ("FLOAT", "HALF", "BF16", "UINT8"),
}
"""In all three."""

ONLY: dict[str, Table] = {
    "10": {},
    "11": {},
    # To be used behind a question for the variant.
    "rtx": {
        "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
        "BuilderFlag": ("REQUIRE_USER_ALLOCATION",),
        "ComputeCapability": ("CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
        "Runtime": ("get_engine_validity",),
        "EngineValidity": ("VALID", "SUBOPTIMAL", "INVALID"),
        "EngineInvalidityDiagnostics": (
            "VERSION_MISMATCH",
            "UNSUPPORTED_CC",
            "OLD_CUDA_DRIVER",
            "OLD_CUDA_RUNTIME",
            "INSUFFICIENT_GPU_MEMORY",
            "MALFORMED_ENGINE",
            "CUDA_ERROR",
        ),
        "IRuntimeConfig": (
            "cuda_graph_strategy",
            "dynamic_shapes_kernel_specialization_strategy",
            "create_runtime_cache",
            "set_runtime_cache",
        ),
        "IRuntimeCache": ("serialize", "deserialize"),
        "CudaGraphStrategy": ("DISABLED", "WHOLE_GRAPH_CAPTURE"),
        "DynamicShapesKernelSpecializationStrategy": ("LAZY", "EAGER", "NONE"),
        "IExecutionContext": ("is_stream_capturable",),
    },
}
"""Variant -> what it has beyond ``COMMON``."""


def names(variant: str) -> frozenset[str]:
    """Dotted names that a variant must have: ``Builder``, ``Builder.create_network``."""
    tables = (COMMON, ONLY[variant])
    classes = {name for table in tables for name in table}
    members = {f"{c}.{m}" for table in tables for c, ms in table.items() for m in ms}
    return frozenset(classes | members)


def absent(bindings: object, wanted: Iterable[str]) -> list[str]:
    """Those of the dotted names that are not in the bindings."""
    return sorted(name for name in wanted if not _resolves(bindings, name))


def _resolves(thing: object, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True
