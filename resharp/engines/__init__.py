"""The store that export writes and the runtime reads. Standard library and filelock only."""

from resharp.engines.bundle import Bundle, describe_file, sha256_of
from resharp.engines.manifest import SCHEMA, File, Manifest, Parity, Source, parse
from resharp.engines.store import Draft, Store, check_name, variant_name

__all__ = [
    "SCHEMA",
    "Bundle",
    "Draft",
    "File",
    "Manifest",
    "Parity",
    "Source",
    "Store",
    "check_name",
    "describe_file",
    "parse",
    "sha256_of",
    "variant_name",
]
