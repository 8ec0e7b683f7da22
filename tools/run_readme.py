"""Run every command of the documentation in this folder, as a reader would type it.

    python3 tools/run_readme.py

For a fresh clone, because the commands overwrite result/. Commands are the lines of code blocks
without a language, and inline code that begins with one of PROGRAMS. `~` becomes a temporary home
with a small library in ~/Music. Stops at the first command that fails.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGES = (PROJECT / "README.md", PROJECT / "hw1/readme.md", *sorted(PROJECT.glob("docs/*.md")))
PROGRAMS = ("python3 ", "make ", "pip ", "torchrun ")
ACTIVATE = ". .venv/bin/activate"
FULL_RUN = "make demo"  # every task at its default settings; after it, SHORTER ones are enough
SHORTER = {
    "task1.py": "--folds 2 --repeats 1",
    "task2.py": "--epochs 1",
    "task2_baseline.py": "--epochs 1",
}
IN_BACKGROUND = {  # commands that keep running, by their beginning, and the port they listen on
    "python3 -m dask scheduler": 8786,
    "python3 -m dask worker": None,
    "python3 app.py": 7860,
}
SLOW_TEST = "a slow test runs it and checks the scores"
NOT_RUN = {  # commands by their beginning
    "python3 -m musicfm download": "downloads 1.3 GB",
    "python3 -m artistid.encoders download": "downloads weights; tests use a hub of their own",
    "torchrun --nproc_per_node=2 --nnodes=2": "needs two machines; tests use two processes",
    "python3 task2.py --data ~/Music --skip-bad --source vocals": "downloads weights; tests run it",
    "pip install .[torchaudio]": "downloads another torch",
    "python3 -m benchmarks.gamemusic": "downloads 740 MB; a slow test builds a part of it",
    "python3 task1.py --data gamemusic": SLOW_TEST,
    "python3 task2.py --data gamemusic": SLOW_TEST,
    "python3 task2_baseline.py --data gamemusic": SLOW_TEST,
    "python3 -m benchmarks": "takes an hour; tests run each benchmark on a few songs",
    "python3 hw1/count_score.py hw1/test_ans.json": "needs artist20",
}


def commands(page: str) -> list[str]:
    """All commands of a Markdown page, in order, without repetitions."""
    found = []
    page = re.sub(r"^```\w+\n.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    for block, inline in re.findall(r"^```\n(.*?)^```|`([^`]+)`", page, re.DOTALL | re.MULTILINE):
        lines = block.splitlines() if block else [" ".join(inline.split())]
        found += [line for line in lines if block or line.startswith(PROGRAMS)]
    return list(dict.fromkeys(line for line in found if line.strip()))


def shortened(command: str) -> str:
    """The command with the options of SHORTER, if it runs a task."""
    script = next((word for word in command.split() if word in SHORTER), None)
    return f"{command} {SHORTER[script]}" if script else command


def reason_not_to_run(command: str) -> str | None:
    plain = command.replace('"', "")
    return next((why for start, why in NOT_RUN.items() if plain.startswith(start)), None)


def make_home(folder: Path) -> None:
    """A library of three of the demo's artists, one with a broken file, in folder/Music."""
    for artist in sorted((PROJECT / "hw1/demo/artist20/train_val").iterdir())[:3]:
        shutil.copytree(artist, folder / "Music" / artist.name)
    next(folder.glob("Music/*/*/*.mp3")).with_name("broken.mp3").write_text("no music")


class Shell:
    """Runs commands one after the other, as in one terminal; some in the background. What tests
    prepare is made once for all of them, in `fixtures`."""

    def __init__(self, home: Path, fixtures: Path) -> None:
        self._home = home
        self._environment = {**os.environ, "SHARED_FIXTURES": str(fixtures)}
        self._background: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> None:
        """Raises CalledProcessError. Background commands end after the next ordinary one."""
        if command == ACTIVATE:
            programs = PROJECT / ".venv" / "bin"
            self._environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = self._environment
        if "~" in command:
            if not any(self._home.iterdir()):
                make_home(self._home)
            environment = environment | {"HOME": str(self._home)}
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=PROJECT, env=environment, start_new_session=True
        )
        ports = [port for start, port in IN_BACKGROUND.items() if command.startswith(start)]
        if ports:
            self._background.append(process)
            wait_until_started(process, ports[0])
        elif status := wait_for(process):
            raise subprocess.CalledProcessError(status, command)
        else:
            self.close()

    def close(self) -> None:
        """End the background commands, the last one first."""
        while self._background:
            process = self._background.pop()
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def wait_for(process: "subprocess.Popen[bytes]") -> int:
    """Its status at its end. Ctrl-C, which it does not get by itself, ends it, too."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGTERM)
        raise


def wait_until_started(process: "subprocess.Popen[bytes]", port: int | None) -> None:
    """Wait until something listens on `port`, at most 30 s; without a port, wait 5 s.

    Raises CalledProcessError if the process ends meanwhile."""
    end = time.monotonic() + (30 if port else 5)
    while time.monotonic() < end:
        if process.poll() is not None:
            raise subprocess.CalledProcessError(process.returncode, str(process.args))
        with socket.socket() as probe:
            if port and probe.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.2)


def main() -> None:
    if (PROJECT / "hw1/demo").exists():
        sys.exit("hw1/demo exists: run this in a fresh clone, its commands overwrite result/")
    begin, table, has_run_in_full = time.monotonic(), [], False
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as fixtures:
        shell = Shell(Path(home), Path(fixtures))
        try:
            for command in commands("\n".join(page.read_text(encoding="utf-8") for page in PAGES)):
                started = time.monotonic()
                reason = reason_not_to_run(command)
                as_run = shortened(command) if has_run_in_full and not reason else command
                note = f"   (shortened: {FULL_RUN} has run it in full)" * (as_run != command)
                print(f"\n$ {as_run}{note}", flush=True)
                if reason:
                    table.append(f"not run  {command}: {reason}")
                    continue
                shell.run(as_run)
                has_run_in_full |= command == FULL_RUN
                table.append(f"{time.monotonic() - started:4.0f} s  {as_run}")
        except subprocess.CalledProcessError as error:
            sys.exit(f"failed with status {error.returncode}: {error.cmd}")
        finally:
            shell.close()
            print("", *table, f"{time.monotonic() - begin:4.0f} s  in all", sep="\n", flush=True)


if __name__ == "__main__":
    main()
