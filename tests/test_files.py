import errno
import json
import os
import time
from pathlib import Path

import pytest

from artistid.foundation import files
from artistid.foundation.files import checkout, folder_beside, replacing, write_all, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"top1": 0.5})
    before = path.read_bytes()

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_gets_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figure.png"
    with replacing(path) as temporary:
        temporary.write_text("first half, ")
        assert not path.exists()
        assert temporary.suffix == ".png"
    assert path.read_text() == "first half, "


def test_names_stay_readable_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", ["周杰倫"])
    assert "周杰倫" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_name_in_another_encoding_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"Bj\xf6rk")
    write_json(tmp_path / "a.json", {"周": name})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"周": name}


def test_a_full_disk_is_reported_with_a_file_name(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "entry"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*entry"):
        fail()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_all({tmp_path / "out.json": b""})
    assert error.value.filename == str(tmp_path / "out.json")


def test_a_device_stays_one(tmp_path: Path) -> None:
    """Or a root who writes to /dev/null has no /dev/null afterwards."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no ordinary file"):
        write_json(tmp_path / "pipe", 1)
    assert (tmp_path / "pipe").is_fifo()


def test_leftovers_of_a_killed_run_are_removed_the_next_day(tmp_path: Path) -> None:
    for age_h, name in ((0, "young"), (25, "old")):
        folder = tmp_path / f".artistid-making-{name}-folder"
        (folder / "inside").mkdir(parents=True)
        file = tmp_path / f".artistid-making-{name}.txt"
        file.write_text("half")
        for path in (folder, file):
            os.utime(path, (time.time() - age_h * 3600,) * 2)
    stranger = tmp_path / ".tmp-of-another-program"
    stranger.mkdir()
    os.utime(stranger, (0, 0))
    write_json(tmp_path / "a.json", 1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "a.json",
        ".artistid-making-young-folder",
        ".artistid-making-young.txt",
        ".tmp-of-another-program",
    }


def test_a_temporary_folder_never_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "corpus"

    def make(fault: bool) -> None:
        with folder_beside(path) as temporary:
            (temporary / "made").mkdir()
            if fault:
                raise RuntimeError("power cut")
            (temporary / "made").rename(path)

    with pytest.raises(RuntimeError, match="power cut"):
        make(fault=True)
    assert list(path.parent.iterdir()) == []
    make(fault=False)
    assert list(path.parent.iterdir()) == [path]


def test_only_this_projects_repository_counts_as_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "artistid/foundation/files.py"
    monkeypatch.setattr(files, "__file__", str(installed))
    assert checkout() is None
    (tmp_path / ".git").mkdir()
    assert checkout() is None  # a virtual environment may lie within any repository
    (tmp_path / "hw1").mkdir()
    assert checkout() == tmp_path.resolve()


def test_several_files_are_written_all_or_none(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, so that nothing can be written below it")
    old = tmp_path / "a.json"
    write_json(old, "old")
    with pytest.raises(OSError, match="blocked"):
        write_all({old: b"new", blocked / "b.json": b"new"})
    assert json.loads(old.read_bytes()) == "old"
    assert set(tmp_path.iterdir()) == {old, blocked}
    write_all({old: b"1", tmp_path / "c" / "d.json": b"2"})
    assert (old.read_bytes(), (tmp_path / "c" / "d.json").read_bytes()) == (b"1", b"2")
