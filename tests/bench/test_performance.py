"""Pages generated from records: their contents, and that those of the repository are current."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import performance
from tests.bench import kit

MARKS = f"# x\n\n{performance.BEGIN}\nold\n{performance.END}\n\nend\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository's root with the records of two machines."""
    results = tmp_path / "benchmarks" / "results"
    kit.cpu().write(results / "epyc" / "bench-cpu.jsonl")
    kit.gpu(["one", "two"], tiles=(128, 512), lanes=(1,)).write(results / "h100" / "bench.jsonl")
    (results / "h100" / "other.jsonl").write_text("not ours")
    (tmp_path / "README.md").write_text(MARKS)
    return tmp_path


def run(tree: Path, *args: str) -> Result:
    return CliRunner().invoke(performance.main, ["--root", str(tree), *args])


def test_check_names_what_is_stale_and_then_nothing(tree: Path) -> None:
    before = run(tree, "--check")
    assert before.exit_code == 1
    assert "out of date: docs/design/performance.md and README.md" in before.output
    assert not (tree / "docs").exists()
    assert run(tree).exit_code == 0
    after = run(tree, "--check")
    assert (after.exit_code, after.output) == (0, "up to date\n")
    (tree / "docs" / "design" / "performance.md").write_text("other")
    changed = run(tree, "--check")
    assert changed.exit_code == 1
    assert "out of date: docs/design/performance.md;" in changed.output


def test_the_same_records_give_the_same_bytes(tree: Path) -> None:
    run(tree)
    first = {path: (tree / path).read_bytes() for path in (performance.PAGE, performance.README)}
    (tree / "docs" / "design" / "performance.md").unlink()
    run(tree)
    assert first == {path: (tree / path).read_bytes() for path in first}


def test_the_page_holds_every_machine_case_and_reason(tree: Path) -> None:
    run(tree)
    text = (tree / "docs" / "design" / "performance.md").read_text()
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## epyc", "## h100"]
    assert "`resharp bench run --suite quick`" in text
    assert "**two, 640x360**" in lines
    assert "Noise of ratios: resharp-x4 640x360 1.23 %." in lines
    rows = [line for line in lines if line.startswith("| ")]
    expected = len(kit.cpu().measured()) + len(kit.FAILURES[:1])
    expected += len(kit.gpu(["one", "two"], tiles=(128, 512), lanes=(1,)).measured())
    expected += len(kit.FAILURES)
    heads = 2 * (1 + 2) + 2 * 2  # head and rule of three tables of cases and two of reasons
    assert len(rows) == expected + heads
    assert {row.replace("\\|", "").count("|") for row in rows} == {4, 11}
    assert "exit code 139 \\| \\<segmentation fault> & more" in text
    assert text.endswith("|\n")


def test_the_readme_has_the_best_subjects_of_gpus_and_little_more(tree: Path) -> None:
    run(tree)
    text = (tree / "README.md").read_text()
    assert text.startswith(f"# x\n\n{performance.BEGIN}\n\n| machine |")
    assert text.endswith(f"{performance.END}\n\nend\n")
    assert "old" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == performance.ROWS
    assert {row[0] for row in rows} == {"| h100"}, "the README has the figures of GPUs alone"
    assert [row[1] for row in rows] == ["one"] * 3 + ["two"] * 3
    assert "has 4 more rows, and every case" in text


def test_rows_are_left_out_by_rank() -> None:
    rows = performance.candidates([performance.Measurement("m", "f", kit.gpu(["a", "b"]))])
    ranks = [rank for rank, _ in rows]
    assert ranks == [0, 1, 2, 3, 4] * 2
    kept = performance.choose(rows, 4)
    assert [(row.record.case.model, row.record.case.subject) for row in kept] == [
        *(("a", "tensorrt"), ("a", "upstream"), ("b", "tensorrt"), ("b", "upstream"))
    ]


def test_the_latest_run_of_a_machine_counts() -> None:
    old = kit.cpu()
    new = replace(old, run=kit.run(began="2025-06-01T00:00:00+00:00"), cases=old.cases[:3])
    files = [("a.jsonl", new), ("b.jsonl", old)]
    found = [performance.Measurement("m", name, records) for name, records in files]
    rows = [row.record for _, row in performance.candidates(found)]
    assert len(rows) == 2
    assert all(record in new.cases for record in rows)


@pytest.mark.parametrize("make", [kit.failures, kit.single, kit.gpu])
def test_records_of_every_kind_can_be_written(tree: Path, make: object) -> None:
    assert callable(make)
    make().write(tree / "benchmarks" / "results" / "third" / "bench-odd.jsonl")
    assert run(tree).exit_code == 0
    assert "## third" in (tree / "docs" / "design" / "performance.md").read_text()


def test_without_records_both_say_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(MARKS)
    assert run(tmp_path).exit_code == 0
    assert performance.NO_GPU in (tmp_path / "README.md").read_text()
    assert performance.NOTHING in (tmp_path / "docs" / "design" / "performance.md").read_text()
    assert run(tmp_path, "--check").exit_code == 0


@pytest.mark.parametrize(
    "readme",
    [
        "# no marks\n",
        f"{performance.BEGIN}\n",
        f"{performance.END}\n{performance.BEGIN}\n",
        MARKS + MARKS,
        f"{MARKS}{performance.END}\n",
    ],
)
def test_a_readme_without_its_marks_is_refused_and_nothing_written(tree: Path, readme: str) -> None:
    (tree / "README.md").write_text(readme)
    done = run(tree)
    assert done.exit_code == 1
    assert "README.md must contain the line <!-- performance: generated -->" in done.output
    assert not (tree / "docs").exists()


def test_a_damaged_record_is_named(tree: Path) -> None:
    (tree / "benchmarks" / "results" / "epyc" / "bench-x.jsonl").write_text("{")
    done = run(tree)
    assert done.exit_code == 1
    assert "bench-x.jsonl:1 is not a record" in done.output


def test_a_missing_readme_is_named(tree: Path) -> None:
    (tree / "README.md").unlink()
    assert "README.md" in run(tree).output
    assert run(tree).exit_code == 1


def test_cells_are_shown_as_they_are() -> None:
    assert performance.cell("a|b\n*c* `d` <e> [f]") == "a\\|b \\*c\\* \\`d\\` \\<e> \\[f]"


def test_the_pages_of_this_repository_are_current() -> None:
    texts = performance.generate(performance.ROOT)
    assert performance.stale(performance.ROOT, texts) == [], f"run {performance.COMMAND}"
