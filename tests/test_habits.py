"""The files for contributors, CI and releases agree with each other and with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from resharp import __version__
from resharp.cli.doctor import command as doctor

ROOT = Path(__file__).parents[1]
WORKFLOWS = ("ci.yml", "release.yml")
YAML = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="these files are in the repository only"
)


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def load(path: str) -> dict[Any, Any]:
    loaded = yaml.safe_load(text(path))
    assert isinstance(loaded, dict)
    return loaded


def jobs(workflow: str) -> dict[str, dict[str, Any]]:
    found = load(f".github/workflows/{workflow}")["jobs"]
    assert isinstance(found, dict)
    return found


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def python_of(job: dict[str, Any]) -> str:
    (version,) = (s["with"]["python-version"] for s in job["steps"] if "setup-python" in str(s))
    return str(version)


def pins() -> dict[str, str]:
    """Exact versions of constraints.txt."""
    return dict(re.findall(r"^([\w-]+)==([^;\s]+)", text("constraints.txt"), re.MULTILINE))


def urls() -> dict[str, str]:
    """Addresses of ``[project.urls]``."""
    section = text("pyproject.toml").partition("[project.urls]\n")[2].partition("\n\n")[0]
    return dict(re.findall(r'^(\w+) = "(.+)"$', section, re.MULTILINE))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_can_be_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_ci_runs_the_gate_and_the_tests_on_three_other_pythons() -> None:
    found = jobs("ci.yml")
    assert commands(found["ci"]) == [".ci/run"]
    assert all("make test" in command for command in commands(found["tests"]))
    pythons = found["tests"]["strategy"]["matrix"]["python"]
    assert all(isinstance(python, str) for python in pythons), "3.10 is a number without quotes"
    assert len({*pythons, python_of(found["ci"])}) == 4
    oldest = re.search(r'^requires-python = ">=3\.(\d+)"$', text("pyproject.toml"), re.MULTILINE)
    assert oldest
    minors = [int(python.removeprefix("3.")) for python in pythons]
    assert min(minors) == int(oldest[1])


def test_ci_takes_the_cpu_build_of_torch() -> None:
    index = load(".github/workflows/ci.yml")["env"]["PIP_EXTRA_INDEX_URL"]
    assert index == "https://download.pytorch.org/whl/cpu"
    assert "+" not in pins()["torch"]  # a local version would exclude the other builds


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflows_may_only_read_unless_a_job_needs_more(workflow: str) -> None:
    assert load(f".github/workflows/{workflow}")["permissions"] == {"contents": "read"}
    granted = {
        name: {what for what, level in job.get("permissions", {}).items() if level == "write"}
        for name, job in jobs(workflow).items()
    }
    more = {"pypi": {"id-token"}, "images": {"packages"}, "github": {"contents"}}
    assert granted == {name: more.get(name, set()) for name in granted}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_pinned_and_no_secret_is_stored(workflow: str) -> None:
    source = text(f".github/workflows/{workflow}")
    uses = re.findall(r"uses: (?!\./)(\S+)", source)
    assert uses
    assert [one for one in uses if not re.search(r"@(v\d+|release/v\d+|[0-9a-f]{40})$", one)] == []
    assert set(re.findall(r"secrets\b[.\[: '\"]*(\w+)", source)) <= {"GITHUB_TOKEN"}


def test_a_release_waits_for_ci_and_for_the_check_of_its_tag() -> None:
    found = jobs("release.yml")
    assert found["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in load(".github/workflows/ci.yml")[True]  # YAML 1.1 reads `on` so
    assert any(".ci/check_release.py" in command for command in commands(found["build"]))
    assert found["pypi"]["environment"]["name"] == "pypi"
    assert {"ci", "build"} <= set(found["pypi"]["needs"]) & set(found["images"]["needs"])
    assert {"pypi", "images"} <= set(found["github"]["needs"])


def test_images_are_those_of_the_dockerfile() -> None:
    matrix = jobs("release.yml")["images"]["strategy"]["matrix"]["include"]
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text("Dockerfile"), re.MULTILINE))
    assert {one["target"] for one in matrix} <= stages
    (build,) = (s for s in jobs("release.yml")["images"]["steps"] if "build-push" in str(s))
    arguments = {line.partition("=")[0] for line in build["with"]["build-args"].splitlines()}
    assert arguments <= set(re.findall(r"^ARG (\w+)", text("Dockerfile"), re.MULTILINE))
    assert build["with"]["provenance"] == "mode=max"
    assert len({one["suffix"] for one in matrix}) == len(matrix)


def check_release(folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / ".ci/check_release.py")
    return subprocess.run(
        [sys.executable, script, tag], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    """A copy of the version and the changelog, whose top section has a date."""
    (tmp_path / "resharp").mkdir()
    shutil.copy(ROOT / "resharp/__init__.py", tmp_path / "resharp")
    top = re.compile(rf"^(## {re.escape(__version__)}) \((?:unreleased|\d{{4}}-\d\d-\d\d)\)$", re.M)
    changelog, count = top.subn(r"\1 (2030-01-31)", text("CHANGELOG.md"))
    assert count == 1, f"CHANGELOG.md must have one section '## {__version__} (...)'"
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    return tmp_path


def test_a_release_takes_its_notes_from_the_changelog(dated: Path) -> None:
    done = check_release(dated, f"v{__version__}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in text("CHANGELOG.md")
    assert "\n## " not in done.stdout


@pytest.mark.parametrize(
    ("date", "tag", "message"),
    [
        ("2030-01-31", "v99.0.0", "the tag must be v"),
        ("2030-01-31", __version__, "the tag must be v"),
        ("unreleased", f"v{__version__}", "must be YYYY-MM-DD, got unreleased"),
        ("2030-02-31", f"v{__version__}", "must be YYYY-MM-DD, got 2030-02-31"),
        (None, f"v{__version__}", "CHANGELOG.md has no section for"),
    ],
)
def test_a_release_that_is_not_ready_is_refused(
    dated: Path, date: str | None, tag: str, message: str
) -> None:
    changelog = (dated / "CHANGELOG.md").read_text(encoding="utf-8")
    changed = changelog.replace("2030-01-31", date) if date else "# Changelog\n"
    (dated / "CHANGELOG.md").write_text(changed, encoding="utf-8")
    done = check_release(dated, tag)
    assert done.returncode == 1
    assert message in done.stderr
    assert not done.stdout


def test_an_empty_section_is_not_released(dated: Path) -> None:
    heading = f"## {__version__} (2030-01-31)\n\n## 0.0.1 (2029-01-31)\n\n- First.\n"
    (dated / "CHANGELOG.md").write_text(heading, encoding="utf-8")
    assert "is empty" in check_release(dated, f"v{__version__}").stderr


def test_the_bug_form_asks_for_what_doctor_prints() -> None:
    body = load(".github/ISSUE_TEMPLATE/bug.yml")["body"]
    asked = {
        part["attributes"]["label"]: part.get("validations", {}).get("required", False)
        for part in body
        if part["type"] != "markdown"
    }
    assert asked["Output of `resharp doctor --json`"]
    assert any("--json" in option.opts for option in doctor.params)
    assert not asked["Image and model"], "an image may be private"


def test_addresses_are_those_of_pyproject() -> None:
    assert set(urls()) == {"Documentation", "Source", "Issues", "Changelog"}
    known = (urls()["Source"], urls()["Documentation"])
    files = [*YAML, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md"))]
    found = {
        url
        for path in files
        for url in re.findall(r"https://[^\s)`\"]+", path.read_text(encoding="utf-8"))
        if "pypi.org" not in url and "pytorch.org" not in url
    }
    assert {url for url in found if not url.startswith(known)} == set()
    assert found


def test_contributing_names_targets_that_make_has() -> None:
    named = set(re.findall(r"`make (\w+)", text("CONTRIBUTING.md")))
    phony = re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.MULTILINE)
    assert phony
    assert {"test", "quick", "lint", "gpu", "package"} <= named <= set(phony[1].split())


def test_contributing_names_paths_that_are_there() -> None:
    quoted = re.findall(r"`([^`\s]+)`", text("CONTRIBUTING.md"))
    places = (*(path.name for path in ROOT.iterdir() if path.name != ".venv"), "CHANGELOG.md")
    paths = {one for one in quoted if one.partition("/")[0] in places}
    assert len(paths) > 30
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_the_map_has_every_room() -> None:
    mapped = set(re.findall(r"^\| `resharp/(\w+)/` \|", text("CONTRIBUTING.md"), re.MULTILINE))
    rooms = {path.parent.name for path in (ROOT / "resharp").glob("*/__init__.py")}
    assert mapped == rooms


def test_hooks_run_the_pinned_tools() -> None:
    repos = load(".pre-commit-config.yaml")["repos"]
    hooks = [hook for repo in repos if repo["repo"] == "local" for hook in repo["hooks"]]
    assert {"ruff-check", "ruff-format"} <= {hook["id"] for hook in hooks}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    for repo in repos:  # a hook from elsewhere must be of the same version
        if repo["repo"] != "local":
            package = repo["repo"].rpartition("/")[2].removesuffix("-pre-commit")
            assert repo["rev"] == f"v{pins()[package]}"
    assert {"ruff", "mypy", "pre-commit", "pre-commit-hooks", "twine"} <= set(pins())


def test_dependabot_groups_weekly_updates() -> None:
    updates = load(".github/dependabot.yml")["updates"]
    assert {one["package-ecosystem"] for one in updates} == {"pip", "github-actions"}
    assert all(one["schedule"]["interval"] == "weekly" and one["groups"] for one in updates)
