"""The list of faults fits the code, and the mutation run tells killed from survived."""

import re
import subprocess
from pathlib import Path

import pytest

from tests import mutate
from tests.faults import FAULTS
from tests.faults.fault import Fault

# --- the list ---


def test_every_fault_can_be_seeded():
    assert mutate.unfit(FAULTS, mutate.ROOT) == []


def test_every_fault_changes_something_and_is_listed_once():
    places = [fault[:3] for fault in FAULTS]
    assert [place for place in places if place[1] == place[2] or places.count(place) > 1] == []


def test_every_likely_test_exists():
    files = list((mutate.ROOT / "tests").glob("test_*.py"))
    tests = {f"tests/{file.name}" for file in files}
    tests |= {
        f"tests/{file.name}::{name}"
        for file in files
        for name in re.findall(r"^(?:def|class) ([Tt]est_?\w+)", file.read_text(), re.MULTILINE)
    }
    assert {target.split("[")[0] for fault in FAULTS for target in fault.tests} <= tests


# --- the run ---

CODE = """
def clamp(x, low, high):
    while x < low:
        x += 1
    return min(x, high)
"""
TESTS = {
    "test_low.py": "from code_of import clamp\ndef test_low():\n    assert clamp(-1, 0, 9) == 0\n",
    "test_high.py": "from code_of import clamp\ndef test_high():\n    assert clamp(20, 0, 9) == 9\n",
}
LOW = ("tests/test_low.py::test_low",)
ENDLESS = Fault("code_of.py", "x += 1", "__import__('time').sleep(9)", LOW)
BY_LIKELY = Fault("code_of.py", "x < low", "x <= low", LOW)
BY_OTHERS = Fault("code_of.py", "min(x, high)", "x", LOW)
SURVIVOR = Fault("code_of.py", "min(x, high)", "min(x, 9)", LOW, "high is always 9")


@pytest.fixture
def project(tmp_path) -> Path:
    """A tree of its own: some code, two tests, and a test_mutate.py that would fail."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "code_of.py").write_text(CODE)
    for name, text in {**TESTS, "test_mutate.py": "def test():\n    assert False\n"}.items():
        (tmp_path / "tests" / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def test_the_run_tells_killed_from_survived(project, monkeypatch, capsys):
    monkeypatch.setattr(mutate, "LIKELY_SECONDS", 20)  # a busy machine takes 5 to start pytest
    assert mutate.run([ENDLESS, BY_LIKELY, BY_OTHERS, SURVIVOR], project, jobs=2, quick=False) == 1
    printed = capsys.readouterr().out
    assert "killed by the time limit of 20 s" in printed
    assert "killed by tests/test_low.py::test_low" in printed
    assert "killed by tests/test_high.py::test_high" in printed
    assert printed.endswith(f"4 faults: 2 killed by their likely tests, 1 by others, 1 survived\n  {SURVIVOR}\n")
    assert (project / "code_of.py").read_text() == CODE
    assert mutate.run([BY_LIKELY, BY_OTHERS], project, jobs=1, quick=False) == 0


def test_a_quick_run_asks_the_likely_tests_alone(project, capsys):
    assert mutate.run([BY_LIKELY, BY_OTHERS], project, jobs=1, quick=True) == 1
    assert f"1 not killed by their likely tests\n  {BY_OTHERS}" in capsys.readouterr().out


def test_faults_that_no_longer_fit_are_listed(project):
    twice, gone = BY_LIKELY._replace(before="x"), BY_LIKELY._replace(file="gone.py")
    broken = BY_LIKELY._replace(after="x <")
    with pytest.raises(SystemExit) as stopped:
        mutate.run([BY_LIKELY, twice, gone, broken], project, jobs=1, quick=True)
    told = str(stopped.value).splitlines()
    assert [line.split(":")[0] for line in told] == ["LookupError", "FileNotFoundError", "SyntaxError"]


def test_a_tree_that_fails_without_a_fault_is_not_mutated(project):
    (project / "code_of.py").write_text(CODE.replace("x += 1", "x += 2"))
    with pytest.raises(SystemExit, match=r"Without a fault: tests/test_low\.py::test_low"):
        mutate.run([BY_LIKELY], project, jobs=1, quick=True)
