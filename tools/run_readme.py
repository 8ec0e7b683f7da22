"""Run every command of the READMEs as it stands, in this folder: it should be a fresh clone.

    python3 tools/run_readme.py

Commands are the lines of code blocks that name no language, and code within a line that begins like
a command. `~` is a made-up home with some music in it. Stops at the first one that fails.
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
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGES = (PROJECT / "README.md", PROJECT / "hw1/readme.md")
PROGRAMS = ("python3 ", "make ", "pip ", "torchrun ")
ACTIVATE = ". .venv/bin/activate"
IN_BACKGROUND = {  # what goes on, and the port where it can be reached
    "python3 -m dask scheduler": 8786,
    "python3 -m dask worker": None,
}
SLOW_TEST = "a slow test does, and looks at the scores"
NOT_RUN = {  # what begins so
    "python3 -m musicfm ": "fetches or needs MusicFM's weights",
    "torchrun --nproc_per_node=2 --nnodes=2": "needs two machines; tests have two processes",
    "python3 -m benchmarks.gamemusic": "fetches 740 MB; a slow test builds a part of it",
    "python3 task1.py --data gamemusic": SLOW_TEST,
    "python3 task2.py --data gamemusic": SLOW_TEST,
    "python3 task2_baseline.py --data gamemusic": SLOW_TEST,
    "python3 -m benchmarks": "takes an hour; a test runs each on a few songs",
    "python3 hw1/count_score.py hw1/test_ans.json": "needs artist20",
}


def commands(page: str) -> list[str]:
    """In the order of the page, each once."""
    found = []
    text = re.sub(r"^```\w+\n.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    for block, inline in re.findall(r"^```\n(.*?)^```|`([^`]+)`", text, re.DOTALL | re.MULTILINE):
        lines = block.splitlines() if block else [" ".join(inline.split())]
        found += [line for line in lines if block or line.startswith(PROGRAMS)]
    return list(dict.fromkeys(line for line in found if line.strip()))


def make_home(folder: Path) -> None:
    """A library of a few of the demo's artists, and a broken file."""
    artists = sorted((PROJECT / "hw1/demo/artist20/train_val").iterdir())[:4]
    for artist in artists:
        shutil.copytree(artist, folder / "Music" / artist.name)
    (folder / "Music" / artists[0].name / "broken.mp3").write_text("no music")


class Shell:
    """Where one command after the other is typed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._environment = dict(os.environ)
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> None:
        """Raises CalledProcessError."""
        if command == ACTIVATE:
            bin_ = PROJECT / ".venv" / "bin"
            self._environment["PATH"] = f"{bin_}{os.pathsep}{os.environ['PATH']}"
        environment = self._environment
        if "~" in command:
            if not any(self._home.iterdir()):
                make_home(self._home)
            environment = environment | {"HOME": str(self._home)}
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=PROJECT, env=environment, start_new_session=True
        )
        background = [port for words, port in IN_BACKGROUND.items() if command.startswith(words)]
        if background:
            self._started.append(process)
            wait_for(background[0], process)
        elif process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)
        else:
            self.close()  # what is in the background was for this command

    def close(self) -> None:
        while self._started:
            process = self._started.pop()
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def wait_for(port: int | None, process: "subprocess.Popen[bytes]", most_s: float = 30) -> None:
    """Until somebody listens at `port`; without one a moment, in which it must not end."""
    end = time.monotonic() + (most_s if port else 5)
    while time.monotonic() < end:
        if process.poll() is not None:
            raise subprocess.CalledProcessError(process.returncode, str(process.args))
        with socket.socket() as knock:
            if port and knock.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.2)


def reason_not_to(command: str) -> str:
    """Why it is not run, or nothing."""
    return next((why for words, why in NOT_RUN.items() if command.startswith(words)), "")


def main() -> None:
    if (PROJECT / ".venv").exists():
        sys.exit("run it in a fresh clone: the commands write to result/")
    table = []
    with tempfile.TemporaryDirectory() as home:
        shell = Shell(Path(home))
        try:
            for command in commands("\n".join(page.read_text(encoding="utf-8") for page in PAGES)):
                print(f"\n$ {command}", flush=True)
                begin, why = time.monotonic(), reason_not_to(command)
                if not why:
                    shell.run(command)
                done = f"not run: {why}" if why else f"{time.monotonic() - begin:.0f} s"
                table.append(f"{done:<10}  {command}")
        except subprocess.CalledProcessError as error:
            sys.exit(f"failed, with status {error.returncode}: {error.cmd}")
        finally:
            shell.close()
            print("", *table, sep="\n", flush=True)


if __name__ == "__main__":
    main()
