"""The fuzzer repeats itself, catches planted faults, and finds none in a few cases of each kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("forks, and reads /proc", allow_module_level=True)

from tests.fuzz.campaign import numbered
from tests.fuzz.kinds import KINDS
from tests.fuzz.kinds.pictures import Pictures
from tests.fuzz.layouts import structure
from tests.fuzz.model import MODEL
from tests.fuzz.mutators import LARGEST
from tests.fuzz.planted import PLANTED
from tests.fuzz.trials import CaseId
from tests.held import ROOT
from tests.held import start as start_python

SELF_TEST = """
import sys
from pathlib import Path
from tests.fuzz.campaign import Campaign
from tests.fuzz.planted import HANG, PLANTED, Planted
from tests.fuzz.trials import CaseId

scratch, keep = map(Path, sys.argv[1:])
for number in range(len(PLANTED)):
    bound = 0.5 if number == HANG else 60
    kind = Planted(number)
    run = Campaign([kind], scratch / kind.name, keep, seconds=bound, memory=600 << 20)
    (result,) = run.run([CaseId(kind.name, 0, 0)])
    print("; ".join(result.faults))
"""


@pytest.mark.slow
@pytest.mark.processes
def test_every_planted_fault_is_found(tmp_path: Path) -> None:
    scratch, keep = tmp_path / "scratch", tmp_path / "keep"
    output, errors = start_python("-c", SELF_TEST, str(scratch), str(keep)).communicate()
    said = output.splitlines()
    assert len(said) == len(PLANTED), errors
    for (work, fault), found in zip(PLANTED, said, strict=True):
        assert fault in found if fault else not found, f"{work.__name__}: {found!r}"
    kept = {path.name for path in keep.iterdir()}
    assert kept == {f"planted{n}-0-0" for n, (_, fault) in enumerate(PLANTED) if fault}
    assert (keep / "planted1-0-0/in.txt").read_bytes() == b"given"
    assert not any(path for path in scratch.rglob("*") if path.is_file())


def test_a_case_is_the_same_again() -> None:
    case = CaseId.parse("settings:7:12")
    assert str(case) == "settings:7:12"
    (kind,) = (kind for kind in KINDS if kind.name == case.kind)
    first, again = (kind.trial(case.random(), kind.material()) for _ in range(2))
    assert first.files == again.files
    other = kind.trial(CaseId(case.kind, 7, 13).random(), kind.material())
    assert other.files != first.files


def test_mutated_files_stay_small() -> None:
    pictures = Pictures()
    material = pictures.material()
    for number in range(100):
        trial = pictures.trial(CaseId("pictures", 3, number).random(), material)
        assert len(trial.files[trial.source]) <= LARGEST


def test_kinds_take_turns_by_their_share() -> None:
    spent = dict.fromkeys((kind.name for kind in KINDS), 0.0)
    order = [case.kind for case in numbered(KINDS, 1, 3, None, spent.__getitem__)]
    assert len(order) == 3 * len(KINDS)
    assert set(order[: len(KINDS) + 3]) == {kind.name for kind in KINDS}


def test_layouts_find_the_numbers_and_blocks_of_every_format() -> None:
    for name, data in Pictures().material().items():
        if name.startswith(MODEL):
            continue
        layout_of, mend = structure(data)
        assert layout_of is not None, name
        layout = layout_of(data)
        assert layout.numbers, name
        assert layout.blocks, name
        assert layout.sizes, name
        assert mend is None or mend(data) == data, name


@pytest.mark.slow
def test_a_few_cases_of_each_kind_have_no_fault(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--count", "10", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in KINDS:
        assert re.search(rf"^{kind.name} +10 ", done.stdout, re.MULTILINE), done.stdout
