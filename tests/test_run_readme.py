"""What is run of the READMEs: every command, but those that can't be run everywhere."""

from pathlib import Path

import pytest

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

A command that is `python3 b.py
--option`, and again `make all`. `~/Music`, `python3`.
"""


def everything() -> list[str]:
    return run_readme.commands("\n".join(page.read_text() for page in run_readme.PAGES))


def test_commands_are_found_in_blocks_and_in_lines() -> None:
    expected = ["make all", "python3 a.py", ". .venv/bin/activate", "python3 b.py --option"]
    assert run_readme.commands(PAGE) == expected


def test_the_readme_has_the_commands_that_people_look_for() -> None:
    wanted = {"make demo", "make test", "pip install -r requirements.txt", "python3 task1.py"}
    assert wanted <= set(everything())


@pytest.mark.parametrize("words", [*run_readme.NOT_RUN, *run_readme.IN_BACKGROUND])
def test_no_exception_is_out_of_date(words: str) -> None:
    assert any(command.startswith(words) for command in everything())


def test_it_is_for_a_fresh_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(run_readme, "PROJECT", tmp_path)
    with pytest.raises(SystemExit, match="fresh clone"):
        run_readme.main()


def test_it_stops_at_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("```\ntouch before\nfalse\ntouch after\n```\n")
    monkeypatch.setattr(run_readme, "PROJECT", tmp_path)
    monkeypatch.setattr(run_readme, "PAGES", (page,))
    with pytest.raises(SystemExit, match="status 1: false"):
        run_readme.main()
    assert (tmp_path / "before").exists()
    assert not (tmp_path / "after").exists()
