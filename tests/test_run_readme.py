"""The runner of the documentation's commands, and what the documentation promises."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT

from artistid.metrics import wilson_interval
from tools import run_readme

PAGE = """
`make all` and `files`

```
python3 a.py
. .venv/bin/activate
```

```text
a.py   no command
```

A command, `python3 b.py
--option`, and again `make all`. `~/Music`, `python3`.
"""


def documented() -> list[str]:
    return run_readme.commands("\n".join(page.read_text() for page in run_readme.PAGES))


def test_commands_are_lines_of_blocks_and_inline_code() -> None:
    expected = ["make all", "python3 a.py", ". .venv/bin/activate", "python3 b.py --option"]
    assert run_readme.commands(PAGE) == expected


def test_the_documentation_has_what_people_look_for_and_a_full_run_comes_first() -> None:
    found = documented()
    wanted = {"make test", "make slow", "pip install -r requirements.txt", "python3 task1.py"}
    assert wanted <= set(found)
    assert found[0] == run_readme.FULL_RUN


@pytest.mark.parametrize("start", [*run_readme.NOT_RUN, *run_readme.IN_BACKGROUND])
def test_no_exception_is_out_of_date(start: str) -> None:
    assert any(command.replace('"', "").startswith(start) for command in documented())


@pytest.mark.parametrize(
    ("command", "as_run"),
    [
        ("python3 task1.py --data X", "python3 task1.py --data X --folds 2 --repeats 1"),
        ("torchrun --nproc_per_node=2 task2.py", "torchrun --nproc_per_node=2 task2.py --epochs 1"),
        ("python3 score.py pred_task1.json", "python3 score.py pred_task1.json"),
    ],
)
def test_tasks_are_shortened(command: str, as_run: str) -> None:
    assert run_readme.shortened(command) == as_run


def write_page(folder: Path, monkeypatch: pytest.MonkeyPatch, *commands: str) -> None:
    page = folder / "README.md"
    page.write_text("\n".join(["```", *commands, "```", ""]))
    monkeypatch.setattr(run_readme, "PROJECT", folder)
    monkeypatch.setattr(run_readme, "PAGES", (page,))


def test_only_what_follows_the_full_run_is_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Makefile").write_text("demo:\n\techo in full\n")
    write_page(tmp_path, monkeypatch, "echo task2.py", "make demo", "echo task2.py again")
    run_readme.main()
    printed = capfd.readouterr().out
    assert "\ntask2.py\n" in printed
    assert "\ntask2.py again --epochs 1\n" in printed
    assert "$ echo task2.py again --epochs 1   (shortened: " in printed


def test_it_needs_a_fresh_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hw1/demo").mkdir(parents=True)
    monkeypatch.setattr(run_readme, "PROJECT", tmp_path)
    with pytest.raises(SystemExit, match="fresh clone"):
        run_readme.main()


def test_it_stops_at_the_first_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(tmp_path, monkeypatch, "touch before", "false", "touch after")
    with pytest.raises(SystemExit, match="status 1: false"):
        run_readme.main()
    assert (tmp_path / "before").exists()
    assert not (tmp_path / "after").exists()


def test_a_background_command_that_ends_by_itself_is_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_readme, "IN_BACKGROUND", {"false": None})
    shell = run_readme.Shell(tmp_path, tmp_path)
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        shell.run("false; exit 3")
    shell.close()


# --- the pages themselves ----------------------------------------------------------------------


@pytest.mark.parametrize("page", [*run_readme.PAGES, PROJECT / "CONTRIBUTING.md"])
def test_every_local_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_file_named_in_the_documentation_exists() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in run_readme.PAGES)
    named = set(re.findall(r"`((?:artistid|tests|tools|benchmarks|docs)/[\w/.]+)`", text))
    assert len(named) > 10
    assert sorted(name for name in named if not (PROJECT / name).exists()) == []


def test_the_cost_of_mistakes_is_as_measured() -> None:
    measured = (PROJECT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    text = (PROJECT / "docs/design.md").read_text(encoding="utf-8")
    table = text.partition("## Mistakes ruled out")[2].partition("##")[0]
    scores = re.findall(r"\| (0\.\d+) / (0\.\d+) ", table)
    assert len(scores) == 8
    for top1, top3 in scores:
        assert re.search(rf"\| {top1} \([^|]*\| {top3} \(", measured)


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").split()) <= 1_300


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ("ensemble", "ensemble"),
        ("1", "task1"),
        ("2", "task2"),
        ("2, baseline", "task2_baseline"),
    ],
)
def test_the_results_table_is_that_of_the_metrics(row: str, task: str) -> None:
    metrics = json.loads((PROJECT / f"result/metrics_{task}.json").read_text(encoding="utf-8"))
    cells = []
    for split in ("val", "test"):
        for share in (metrics[split]["top1"], metrics[split]["top3"]):
            low, high = wilson_interval(share, metrics[split]["n"])
            cells.append(f"{share:.3f} [{low:.2f}, {high:.2f}]")
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {row} | "))
    assert line.endswith(f" | {' | '.join(cells)} |")
