"""The package as `pip install` leaves it: complete, and independent of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import PROJECT, Finish

import artistid

FILES = ("pyproject.toml", "README.md", "LICENSE")
USE = """
import json, sys
from importlib.metadata import version
from pathlib import Path
import artistid
checkout, song, model = sys.argv[1:]
versions = [artistid.__version__, version("artistid")]
best = artistid.load_model(model).predict(song).top(3)
embeddings = artistid.embed(song, encoder="musicnn")
files = [Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
strays = [str(f) for f in files if f.is_relative_to(checkout) and not f.is_relative_to(sys.prefix)]
print(json.dumps([versions, artistid.__file__, best, embeddings.shape, strays]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("artistid", "musicfm"):  # not in place: a build leaves files behind
        ignored = shutil.ignore_patterns("__pycache__", "*.pt")
        shutil.copytree(PROJECT / name, source / name, ignore=ignored)
    for path in (*PROJECT.glob("*.py"), *map(PROJECT.joinpath, FILES)):
        shutil.copy(path, source)
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    options = ("--quiet", *offline, "--target", str(target), str(source))
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    return target


def test_the_release_has_one_version() -> None:
    citation = (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {artistid.__version__}\n" in citation
    assert changes.startswith(f"# Changes\n\n## {artistid.__version__}\n")


@pytest.mark.slow
def test_the_installed_package_predicts_in_another_folder(
    installed: Path, finished: Finish, shared_course: Path, tmp_path: Path
) -> None:
    song = shared_course / "artist20/test/001.mp3"
    done = subprocess.run(
        [sys.executable, "-c", USE, *map(str, (PROJECT, song, finished("task2").model))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    versions, file, best, shape, strays = json.loads(done.stdout)
    assert versions[0] == versions[1]
    assert Path(file).is_relative_to(installed)
    assert strays == []
    assert {artist for artist, _ in best} < {f"artist_{i}" for i in range(4)}
    assert 1 >= best[0][1] >= best[1][1] >= best[2][1] > 0
    assert shape == [1, 1_506]  # 2 s of audio, one excerpt; 753 channels, their maximum and mean


@pytest.mark.slow
def test_the_installed_package_has_its_data_files(installed: Path) -> None:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    for licence in tomllib.loads(text)["project"]["license-files"]:
        assert list(installed.glob(f"artistid-*.dist-info/licenses/{licence}")), licence
    for path in ("py.typed", "results/page.html", "encoders/data/msd_musicnn.safetensors"):
        assert (installed / "artistid" / path).is_file(), path


@pytest.mark.slow
def test_the_scripts_run_without_the_checkout(
    installed: Path, shared_course: Path, tmp_path: Path
) -> None:
    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "artistid", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    scripts = {path.stem for path in PROJECT.glob("*.py")}
    assert scripts == {*run("nothing").stderr.split("{")[1].split("}")[0].split(",")}
    assert {path.stem for path in (installed / "artistid/scripts").glob("*.py")} == scripts
    options = ("--data", shared_course, "--cache", "cache", "--repeats", 1, "--jobs", 2, "--quiet")
    done = run("task1", *options, "--out", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out/pred_task1.json").exists()
    refused = run("predict", "none.mp3")
    assert (refused.returncode, refused.stderr[:11]) == (2, "predict.py:")
    explained = run("predict", "--help").stdout
    assert "usage: predict.py" in explained
    assert "Show only results and errors." in explained  # read from the source of the script
