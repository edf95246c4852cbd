"""Store of bundles and engines. Importing it needs only the standard library and filelock."""

from resharp.engines.bundle import ENGINES, Bundle
from resharp.engines.engine import (
    CURRENT,
    PORTABLE,
    Engine,
    EngineSpec,
    Environment,
    ParityResult,
    Profile,
    file_part,
    mismatch,
    target_name,
)
from resharp.engines.engine_store import PRECISIONS, EngineDraft, EngineStore, Lookup
from resharp.engines.manifest import (
    SCHEMA,
    DniPartner,
    ExtraInput,
    File,
    GraphParity,
    Manifest,
    Source,
    Tuning,
    parse,
)
from resharp.engines.store import BundleDraft, Store, check_name, describe_file, variant_name

__all__ = [
    "CURRENT",
    "ENGINES",
    "PORTABLE",
    "PRECISIONS",
    "SCHEMA",
    "Bundle",
    "BundleDraft",
    "DniPartner",
    "Engine",
    "EngineDraft",
    "EngineSpec",
    "EngineStore",
    "Environment",
    "ExtraInput",
    "File",
    "GraphParity",
    "Lookup",
    "Manifest",
    "ParityResult",
    "Profile",
    "Source",
    "Store",
    "Tuning",
    "check_name",
    "describe_file",
    "file_part",
    "mismatch",
    "parse",
    "target_name",
    "variant_name",
]
