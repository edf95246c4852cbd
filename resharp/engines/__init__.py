"""The store that export writes and the runtime reads. Standard library and filelock only."""

from resharp.engines.bundle import ENGINES, Bundle
from resharp.engines.engine import (
    CURRENT,
    PORTABLE,
    Engine,
    Here,
    Likeness,
    Profile,
    Recipe,
    file_part,
    mismatch,
    target_name,
)
from resharp.engines.hashing import describe_file, sha256_of
from resharp.engines.manifest import (
    SCHEMA,
    ExtraInput,
    File,
    Manifest,
    Parity,
    Source,
    Tuning,
    Twin,
    parse,
)
from resharp.engines.shelf import PRECISIONS, EngineDraft, Found, Shelf, write_whole
from resharp.engines.store import Draft, Store, check_name, variant_name

__all__ = [
    "CURRENT",
    "ENGINES",
    "PORTABLE",
    "PRECISIONS",
    "SCHEMA",
    "Bundle",
    "Draft",
    "Engine",
    "EngineDraft",
    "ExtraInput",
    "File",
    "Found",
    "Here",
    "Likeness",
    "Manifest",
    "Parity",
    "Profile",
    "Recipe",
    "Shelf",
    "Source",
    "Store",
    "Tuning",
    "Twin",
    "check_name",
    "describe_file",
    "file_part",
    "mismatch",
    "parse",
    "sha256_of",
    "target_name",
    "variant_name",
    "write_whole",
]
