"""The kinds of cases; a new one is a module here and an entry of :data:`KINDS`."""

from __future__ import annotations

from tests.fuzz.kinds.checkpoints import Checkpoints
from tests.fuzz.kinds.clips import Clips
from tests.fuzz.kinds.journals import Journals
from tests.fuzz.kinds.manifests import Manifests
from tests.fuzz.kinds.names import Names
from tests.fuzz.kinds.pictures import Pictures
from tests.fuzz.kinds.settings import SettingsFiles
from tests.fuzz.trials import Kind

KINDS: tuple[Kind, ...] = (
    Pictures(),
    Checkpoints(),
    Manifests(),
    Journals(),
    Names(),
    SettingsFiles(),
    Clips(),
)
