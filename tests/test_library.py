"""Your own library: by folders, by tags, with odd names and files."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pytest
import soundfile
from conftest import RATE, Call, hum, write_audio
from mutagen.asf import ASFBoolAttribute
from mutagen.id3 import TALB, TCMP, TPE1, TPE2
from test_ffmpeg import encode

import predict
import task1
from artistid.dataset import __main__
from artistid.dataset.corpus import Corpus, CorpusError
from artistid.dataset.library import LibrarySettings, split_lists
from artistid.dataset.read import read_corpus
from artistid.foundation.errors import UserError
from artistid.foundation.files import write_json


def library(folder: Path, albums: dict[str, int], songs: int = 3) -> Path:
    for artist, n_albums in albums.items():
        for album in range(n_albums):
            for song in range(songs):
                path = folder / artist / f"album {album}" / f"{song}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return folder


def test_a_library_is_split_by_album(tmp_path: Path) -> None:
    corpus = read_corpus(library(tmp_path / "lib", {"abba": 6, "blur": 3, "cher": 12}))
    assert corpus.warnings == ()
    albums = {
        split: {t.album_key for t in corpus.split(split)} for split in ("train", "val", "test")
    }
    assert {split: len(keys) for split, keys in albums.items()} == {
        "train": 4 + 1 + 8,
        "val": 1 + 1 + 2,
        "test": 1 + 1 + 2,
    }
    assert not albums["train"] & albums["val"]
    assert not albums["train"] & albums["test"]
    assert len(corpus.tracks) == 3 * 21
    assert {t.artist for t in corpus.split("test")} == {"abba", "blur", "cher"}


def test_the_seed_draws_the_albums(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 6, "blur": 6})
    assert read_corpus(folder, seed=1) == read_corpus(folder, seed=1)
    assert any(read_corpus(folder, seed=1) != read_corpus(folder, seed=s) for s in range(2, 6))


def test_artists_with_few_albums_are_split_by_track_with_a_warning(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 6})
    library(folder, {"blur": 1}, songs=6)
    library(folder, {"cher": 1}, songs=2)
    corpus = read_corpus(folder, settings=LibrarySettings(min_tracks=1))
    assert "2 artist(s) with fewer than 3 albums are split by track (blur, cher)" in str(
        corpus.warnings
    )
    uses = [(t.artist, t.split) for t in corpus.tracks if t.artist != "abba"]
    assert sorted(uses) == sorted(
        [("blur", "test"), ("blur", "val")] + [("blur", "train")] * 4 + [("cher", "train")] * 2
    )


def test_misplaced_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 3, "blur": 3})
    (folder / "abba/loose.mp3").touch()
    (folder / "abba/album 0/._0.mp3").touch()
    (folder / "abba/album 0/cover.jpg").touch()
    (folder / "abba/album 0/.4.mp3").touch()
    (folder / "abba/album 0").rename(folder / "abba/...And Justice for All")
    (folder / ".38 Special/x").mkdir(parents=True)
    corpus = read_corpus(folder)
    assert len(corpus.tracks) == 18
    assert corpus.warnings == (
        "1 file(s) outside <artist>/<album>/ are left out (--by tags may identify them): "
        "abba/loose.mp3",
        "left out: .38 Special: hidden, abba/...And Justice for All/.4.mp3: hidden "
        "(--follow-links follows links)",
    )


def test_the_demo_is_no_artist_of_a_library_that_it_lies_in(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 3, "blur": 3})
    for place in ("hw1/demo/demo.json", "hw1/demo/artist20/x/1.mp3"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    corpus = read_corpus(folder)
    assert corpus.artists == ["abba", "blur"]
    assert "hw1/demo: the demo corpus" in corpus.warnings[0]


def counts(corpus: Corpus) -> Counter[str]:
    return Counter(track.artist or "" for track in corpus.tracks)


# --- what is left out --------------------------------------------------------------------------


def test_artists_with_few_tracks_are_left_out_with_a_warning(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 3, "blur": 3, "cher": 1})
    corpus = read_corpus(folder)
    assert set(counts(corpus)) == {"abba", "blur"}
    assert corpus.warnings == (
        "1 artist(s) with fewer than 6 tracks are left out (--min-tracks): cher (3)",
    )
    assert set(counts(read_corpus(folder, 0, LibrarySettings(min_tracks=3)))) == {
        "abba",
        "blur",
        "cher",
    }


@pytest.mark.parametrize(
    "name", ["Various Artists", "VA", "compilations", "Unknown Artist", "群星"]
)
def test_compilations_are_left_out_by_default(tmp_path: Path, name: str) -> None:
    folder = library(tmp_path, {"abba": 3, "blur": 3, name: 3, "Various Horses": 3})
    corpus = read_corpus(folder)
    assert set(counts(corpus)) == {"abba", "blur", "Various Horses"}
    assert corpus.warnings == (
        f"9 track(s) of compilations are left out (--compilations includes them): {name}",
    )
    assert counts(read_corpus(folder, 0, LibrarySettings(compilations=True)))[name] == 9


def test_names_that_differ_in_case_or_unicode_form_are_one_artist(tmp_path: Path) -> None:
    library(tmp_path, {"Beyonc\u00e9": 3, "ABBA": 3})
    library(tmp_path, {"Beyonce\u0301": 2, "abba": 2})  # e and a combining accent, as on macOS
    corpus = read_corpus(tmp_path)
    assert counts(corpus) == {"Beyonc\u00e9": 15, "ABBA": 15}
    assert len({track.path for track in corpus.tracks}) == 30


def test_links_out_of_the_library_are_followed_only_on_request(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib", {"abba": 3, "blur": 3})
    elsewhere = library(tmp_path / "elsewhere", {"cher": 3})
    (folder / "cher").symlink_to(elsewhere / "cher")
    (folder / "abba/album 0/9.flac").symlink_to(elsewhere / "cher/album 0/0.flac")
    (folder / "abba/album 0/8.flac").symlink_to(folder / "abba/album 0/0.flac")  # stays inside
    (folder / "abba/album 0/circle").symlink_to(folder)
    corpus = read_corpus(folder)
    assert counts(corpus) == {"abba": 10, "blur": 9}
    assert corpus.warnings == (
        "left out: abba/album 0/9.flac: link out of the library, "
        "cher: link out of the library (--follow-links follows links)",
    )
    followed = read_corpus(folder, 0, LibrarySettings(follow_links=True))
    assert counts(followed) == {"abba": 11, "blur": 9, "cher": 9}


ODD = [
    "Joey Bada$$",
    "周杰倫 🎸",
    "  Guns 'n'  \"Roses\" ",
    "new\nline 100%s {} $HOME `ls` \\n",
    "x" * 200,
    os.fsdecode(b"Bj\xf6rk"),  # Latin-1 on a UTF-8 disk
]


@pytest.mark.slow
def test_odd_names_and_bad_files_survive_a_whole_run(tmp_path: Path, call: Call) -> None:
    draw = np.random.default_rng(5)
    library = tmp_path / "lib"
    for i, name in enumerate((*ODD, "orphan")):
        for song in range(6):
            path = library / name / f"{name[:50]} {song // 2}" / f"{name} {song}.wav"
            write_wav(path, hum(i, draw, 1.0))
        write_wav(library / name / "silent" / f"{name}.wav", np.zeros(RATE, "f4"))
    corpus = read_corpus(library, seed=1)
    for track in corpus.split("train"):
        if track.artist == "orphan":
            track.path.write_bytes(b"")
    options = ("--data", library, "--cache", tmp_path / "cache", "--jobs", 1, "--skip-bad")
    status, screen, errors = call(task1, *options, "--out", tmp_path / "out", "--seed", 1)
    assert (status, errors) == (0, "")
    assert all(line.isprintable() for line in screen.splitlines())
    log = (tmp_path / "out/log.txt").read_text(encoding="utf-8")
    lost = [t for t in corpus.tracks if t.artist == "orphan" and t.split != "train"]
    n_lost = sum(track.path.parent.name != "silent" for track in lost)
    assert log.count("orphan has no usable training tracks left") == n_lost > 0
    predictions = json.loads((tmp_path / "out/pred_task1.json").read_bytes())
    assert {artist for best in predictions.values() for artist in best} <= set(ODD)
    for name, entries in split_lists(corpus).items():  # as drawn, with what was left out
        assert json.loads((tmp_path / "out" / name).read_bytes()) == entries
        assert all((library / entry).is_file() for entry in entries)
    model = tmp_path / "out/model_task1.skops"
    status, screen, _ = call(predict, library / ODD[0], "--model", model, "--csv", "x.csv")
    assert status == 2  # the silent one
    assert len(screen.splitlines()) == 6
    assert all(line.isprintable() for line in screen.splitlines())
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").count(ODD[0]) >= 6


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Through an open file, because soundfile does not accept every name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        soundfile.write(file, samples, RATE, format="WAV")


def test_settings_check_themselves() -> None:
    with pytest.raises(UserError, match=r"--min-tracks 0: must be at least 1"):
        LibrarySettings(min_tracks=0)


# --- by tags -----------------------------------------------------------------------------------


def tag(path: Path, **values: str) -> None:
    """Write a file with tags in the manner of its format."""
    kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(1600), RATE, **kind)
    if path.suffix in (".wav", ".aiff"):
        file = mutagen.File(path)
        file.add_tags()
        frames = {"artist": TPE1, "albumartist": TPE2, "album": TALB, "compilation": TCMP}
        for name, value in values.items():
            file.tags.add(frames[name](encoding=3, text=[value]))
    else:
        file = mutagen.File(path, easy=True)
        for name, value in values.items():
            file[name] = value
    file.save()


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".ogg", ".opus", ".wav", ".aiff"])
def test_artist_and_album_from_tags(tmp_path: Path, suffix: str) -> None:
    for i in range(12):
        artist = "Abba" if i % 2 else "Blur"
        tag(tmp_path / f"{i}{suffix}", artist=artist, album=f"album {i // 4}")
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"Abba": 6, "Blur": 6}
    assert {track.album for track in corpus.tracks} == {"album 0", "album 1", "album 2"}
    assert corpus.warnings == ()
    assert Counter(track.split for track in corpus.tracks) == {"train": 4, "val": 4, "test": 4}


def test_the_album_artist_takes_precedence_unless_it_is_nobody(tmp_path: Path) -> None:
    for i in range(6):
        tag(tmp_path / f"a{i}.mp3", artist="abba", album="x")
        tag(tmp_path / f"b{i}.mp3", artist=f"Blur feat. {i}", albumartist="Blur", album="y")
        tag(tmp_path / f"c{i}.mp3", artist="Cher", albumartist="Various Artists", album="Hits")
        tag(tmp_path / f"d{i}.mp3", artist="Dido", album="More hits", compilation="1")
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"abba": 6, "Blur": 6}
    warning = "12 track(s) of compilations are left out (--compilations includes them): Cher, Dido"
    assert warning in corpus.warnings
    everyone = read_corpus(tmp_path, 0, LibrarySettings(by="tags", compilations=True))
    assert counts(everyone) == {"abba": 6, "Blur": 6, "Cher": 6, "Dido": 6}


def test_every_format_has_its_own_tags(tmp_path: Path) -> None:
    """WMA and iTunes' compilations; an album's artist as foobar2000 spells it."""
    for i in range(12):
        path = tmp_path / f"{i}.wma"
        path.write_bytes(encode(np.zeros((RATE, 1), "f4"), "asf", "wmav2"))
        song = mutagen.File(path)
        song["Author"], song["WM/AlbumTitle"] = f"Blur feat. {i}", "x"
        song["WM/AlbumArtist"], song["WM/IsCompilation"] = "Blur", ASFBoolAttribute(i < 6)
        song.save()
        path = tmp_path / f"{i}.m4a"
        path.write_bytes(encode(np.zeros((RATE, 1), "f4"), "ipod", "aac"))
        song = mutagen.File(path)
        song["\xa9ART"], song["\xa9alb"], song["cpil"] = ["Cher"], ["y"], i < 6
        song.save()
        tag(tmp_path / f"{i}.flac", **{"artist": f"Dido feat. {i}", "album artist": "Dido"})
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"Blur": 6, "Cher": 6, "Dido": 12}


def test_untagged_files_go_by_their_folders_or_are_left_out(tmp_path: Path) -> None:
    for i in range(6):
        tag(tmp_path / f"blur/x/{i}.mp3", artist="Abba", album="x")
        tag(tmp_path / f"blur/y/{i}.mp3")
    tag(tmp_path / "loose.mp3")
    (tmp_path / "broken.mp3").write_bytes(b"ID3\x04\x00\x00\xff\xff\xff\xff" + bytes(50))
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"Abba": 6, "blur": 6}
    assert corpus.warnings[:2] == (
        "6 file(s) without an artist tag: artists taken from folders",
        "2 file(s) without an artist in tags or folders are left out: broken.mp3, loose.mp3",
    )


def test_a_library_without_folders_is_refused_with_a_hint_at_tags(tmp_path: Path) -> None:
    tag(tmp_path / "loose.mp3", artist="Abba")
    with pytest.raises(CorpusError, match=r"neither artist20/.*; try --by tags for the 1 audio"):
        read_corpus(tmp_path)


# --- the split is repeated ---------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    """A library, and a folder with the lists of its split of seed 3."""
    folder, out = library(tmp_path / "lib", {"abba": 3, "blur": 3}, songs=2), tmp_path / "out"
    for name, entries in split_lists(read_corpus(folder, 3)).items():
        write_json(out / name, entries)
    return folder, out


def test_a_written_split_is_repeated_with_any_seed(written: tuple[Path, Path]) -> None:
    folder, out = written
    first = read_corpus(folder, 3)
    again = [read_corpus(folder, seed, LibrarySettings(split=out)) for seed in range(4)]
    for corpus in again:
        assert set(corpus.tracks) == set(first.tracks)
    assert any(set(read_corpus(folder, s).tracks) != set(first.tracks) for s in range(3))


def test_later_tracks_are_left_out_of_a_repeated_split(written: tuple[Path, Path]) -> None:
    folder, out = written
    (folder / "abba/album 0/new.wav").touch()
    corpus = read_corpus(folder, 0, LibrarySettings(split=out))
    assert corpus.warnings == (f"1 track(s) are in no list in {out}: left out",)
    assert len(corpus.tracks) == 12


def test_lists_that_do_not_fit_the_library_are_refused(written: tuple[Path, Path]) -> None:
    folder, out = written
    train, val = (json.loads((out / f"{name}.json").read_text()) for name in ("train", "val"))
    (out / "train.json").write_text(json.dumps([*train, val[0]]))
    (folder / val[1]).unlink()
    with pytest.raises(CorpusError) as error:
        read_corpus(folder, 0, LibrarySettings(split=out))
    assert f"val.json: {val[0]!r} is already in train.json" in str(error.value)
    assert f"val.json: {val[1]!r}: no such track in the library" in str(error.value)
    with pytest.raises(CorpusError, match=r"train\.json: no such file"):
        read_corpus(folder, 0, LibrarySettings(split=folder))


# --- python3 -m artistid.dataset ---------------------------------------------------------------


def test_the_survey_reports_artists_formats_and_bad_files(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "lib"
    draw = np.random.default_rng(1)
    for artist in range(2):
        for i in range(6):
            path = folder / f"artist {artist}" / f"album {i // 2}" / f"{i}.{'mp3' if i else 'wav'}"
            write_audio(path, hum(artist, draw, 3.0), RATE if artist else 44_100)
    path = folder / "artist 1/album 0/8.flac"
    write_audio(path, np.stack([hum(1, draw, 3.0)] * 2, axis=1))
    (folder / "artist 1/album 0/9.mp3").write_bytes(b"")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    status, screen, errors = call(__main__, folder, "--jobs", 1)
    assert (status, errors) == (0, "")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    lines = screen.splitlines()
    assert lines[0].startswith("lib: 14 tracks by 2 artists, 6 albums; ")
    assert lines[3].startswith("  artist 1       8       3 ")
    assert lines[4:] == [
        "0.01 hours",
        "formats: MP3 (10), WAV (2), FLAC (1)",
        "sample rates: 16000 Hz (7), 44100 Hz (6)",
        "channels: mono (12), stereo (1)",
        "1 of 14 files are unusable:",
        f"  {folder}/artist 1/album 0/9.mp3: empty file (0 bytes)",
    ]


def test_a_cluster_gets_paths_that_hold_in_any_folder(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(tmp_path, {"abba": 3, "blur": 3})
    monkeypatch.chdir(tmp_path)
    given: list[Path] = []

    def run(_: Any, paths: list[Path], needs: tuple[Path, ...], **__: Any) -> list[Any]:
        given.extend([*paths, *needs])
        return [__main__.Inspection(refusal="not tried")] * len(paths)

    monkeypatch.setattr(__main__.parallel, "run", run)
    assert call(__main__)[0] == 0
    assert len(given) == 18 + 1
    assert all(path.is_absolute() for path in given)


def test_the_survey_has_the_library_options_of_the_tasks(tmp_path: Path, call: Call) -> None:
    library(tmp_path, {"abba": 3, "blur": 3, "VA": 3})
    for option, words in (
        ([], "left out (--compilations includes them): VA"),
        (["--compilations"], "27 tracks by 3 artists"),
        (["--min-tracks", "10"], "no usable train tracks"),
        (["--by", "tags"], "27 file(s) without an artist tag"),
    ):
        _, screen, errors = call(__main__, tmp_path, "--jobs", 1, *option)
        assert words in screen + errors


def test_a_missing_folder_is_one_line(call: Call) -> None:
    status, _, errors = call(__main__, "nowhere")
    assert (status, errors.splitlines()[0].count("nowhere: no such folder")) == (2, 1)
