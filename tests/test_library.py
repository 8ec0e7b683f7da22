"""Libraries of one's own: by folders, by tags, with all that is odd in them."""

import json
import os
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
from conftest import Call, hum, write_audio
from mutagen.id3 import TALB, TCMP, TPE1, TPE2

import predict
import task1
from artistid.dataset import __main__
from artistid.dataset.corpus import SPLITS, Corpus, CorpusError
from artistid.dataset.library import LibrarySettings
from artistid.dataset.read import read_corpus


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


def test_artists_with_few_albums_are_split_by_song_and_said(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 6})
    library(folder, {"blur": 1}, songs=6)
    library(folder, {"cher": 1}, songs=2)
    corpus = read_corpus(folder, settings=LibrarySettings(min_tracks=1))
    assert "2 artist(s) with fewer than 3 albums are split by song (blur, cher)" in str(
        corpus.warnings
    )
    uses = [(t.artist, t.split) for t in corpus.tracks if t.artist != "abba"]
    assert sorted(uses) == sorted(
        [("blur", "test"), ("blur", "val")] + [("blur", "train")] * 4 + [("cher", "train")] * 2
    )


def test_files_out_of_place_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    folder = library(tmp_path, {"abba": 3, "blur": 3})
    (folder / "abba/loose.mp3").touch()
    (folder / "abba/album 0/._0.mp3").touch()
    (folder / "abba/album 0/cover.jpg").touch()
    corpus = read_corpus(folder)
    assert len(corpus.tracks) == 18
    assert corpus.warnings == (
        "1 file(s) not in <artist>/<album>/ are left out (--by tags may know whose they are): "
        "abba/loose.mp3",
    )


def counts(corpus: Corpus) -> Counter[str]:
    return Counter(track.artist or "" for track in corpus.tracks)


# --- who is left out ---------------------------------------------------------------------------


def test_artists_with_few_tracks_are_left_out_and_said(tmp_path: Path) -> None:
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
def test_nobody_in_particular_is_left_out_unless_asked_for(tmp_path: Path, name: str) -> None:
    folder = library(tmp_path, {"abba": 3, "blur": 3, name: 3, "Various Horses": 3})
    corpus = read_corpus(folder)
    assert set(counts(corpus)) == {"abba", "blur", "Various Horses"}
    assert corpus.warnings == (
        f"9 song(s) of compilations are left out (--compilations takes them): {name}",
    )
    assert counts(read_corpus(folder, 0, LibrarySettings(compilations=True)))[name] == 9


def test_names_that_differ_in_capitals_or_encoding_are_one_artist(tmp_path: Path) -> None:
    library(tmp_path, {"Beyonc\u00e9": 3, "ABBA": 3})
    library(tmp_path, {"Beyonce\u0301": 2, "abba": 2})  # e and a combining accent, as macOS has it
    corpus = read_corpus(tmp_path)
    assert counts(corpus) == {"Beyonc\u00e9": 15, "ABBA": 15}
    assert len({track.path for track in corpus.tracks}) == 30


def test_links_out_of_the_library_are_followed_only_when_asked(tmp_path: Path) -> None:
    folder = library(tmp_path / "lib", {"abba": 3, "blur": 3})
    elsewhere = library(tmp_path / "elsewhere", {"cher": 3})
    (folder / "cher").symlink_to(elsewhere / "cher")
    (folder / "abba/album 0/9.flac").symlink_to(elsewhere / "cher/album 0/0.flac")
    (folder / "abba/album 0/8.flac").symlink_to(folder / "abba/album 0/0.flac")  # stays inside
    (folder / "abba/album 0/circle").symlink_to(folder)
    corpus = read_corpus(folder)
    assert counts(corpus) == {"abba": 10, "blur": 9}
    assert corpus.warnings == (
        "left out: abba/album 0/9.flac: a link that leads out of the folder, "
        "cher: a link that leads out of the folder (--follow-links takes links)",
    )
    asked = read_corpus(folder, 0, LibrarySettings(follow_links=True))
    assert counts(asked) == {"abba": 11, "blur": 9, "cher": 9}


ODD = {
    "chinese": "周杰倫",
    "emoji": "🎵 band 🎸",
    "spaces": "  two  spaces ",
    "quotes": "Guns 'n' \"Roses\"",
    "newline": "new\nline",
    "long": "x" * 200,
    "percent": "100%s {} $HOME `ls` \\n",
    "bytes": os.fsdecode(b"Bj\xf6rk"),  # Latin-1 on a disk of UTF-8
}


@pytest.mark.slow
def test_odd_names_go_through_a_whole_run(tmp_path: Path, call: Call) -> None:
    draw = np.random.default_rng(5)
    library = tmp_path / "lib"
    for i, name in enumerate(ODD.values()):
        for song in range(6):
            path = library / name / f"{name[:50]} {song // 2}" / f"{name} {song}.wav"
            write_audio_at(path, hum(i, draw, 1.0))
        write_audio_at(library / name / "x" / f"{name}.mp3", np.zeros(16000, "f4"))
    options = ("--data", library, "--cache", tmp_path / "cache", "--jobs", 1, "--skip-bad")
    status, screen, errors = call(task1, *options, "--out", tmp_path / "out", "--seed", 1)
    assert (status, errors) == (0, "")
    assert all(line.isprintable() for line in screen.splitlines())
    log = (tmp_path / "out/log.txt").read_text(encoding="utf-8")
    assert log.count("is silent from beginning to end") == len(ODD)
    predictions = json.loads((tmp_path / "out/pred_task1.json").read_bytes())
    assert {artist for best in predictions.values() for artist in best} <= set(ODD.values())
    lists = [json.loads((tmp_path / f"out/{s}.json").read_bytes()) for s in SPLITS]
    listed = [entry for entries in lists for entry in entries]
    assert len(listed) == 7 * len(ODD)
    assert all((library / entry).is_file() for entry in listed)
    model = tmp_path / "out/model_task1.skops"
    status, screen, _ = call(predict, library / "周杰倫", "--model", model, "--csv", "x.csv")
    assert status == 2  # the silent one
    assert len(screen.splitlines()) == 6
    assert all(line.isprintable() for line in screen.splitlines())
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").count("周杰倫") >= 6


def write_audio_at(path: Path, samples: np.ndarray) -> None:
    """soundfile writes by name, and not every name can be one of its."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        soundfile.write(file, samples, 16000, format="WAV")


def test_an_artist_of_whom_nothing_is_left_to_train_on_is_left_out(
    written: tuple[Path, Path], call: Call
) -> None:
    folder, out = written
    for artist in ("x", "y", "z"):  # three, so that two are left
        shutil.copytree(folder / "artist 0", folder / artist)
    split = {name: json.loads((out / f"{name}.json").read_text()) for name in SPLITS}
    for name, entries in split.items():
        entries += [f.replace("artist 0", a) for f in entries if "artist 0" in f for a in "xyz"]
        (out / f"{name}.json").write_text(json.dumps(entries))
    for entry in split["train"]:
        if entry.startswith("./x/"):
            (folder / entry).write_bytes(b"")
    options = ("--data", folder, "--split", out, "--jobs", 1, "--cache", out / "cache")
    status, screen, errors = call(task1, *options, "--out", out, "--skip-bad")
    assert (status, errors) == (0, "")
    assert screen.count("is by x, of whom nothing is left to train on") == 4
    assert json.loads((out / "train.json").read_text()) == split["train"]  # as it was


# --- by tags -----------------------------------------------------------------------------------


def tag(path: Path, **values: str) -> None:
    """In the way of each format."""
    kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(1600), 16_000, **kind)
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
def test_tags_say_who_it_is(tmp_path: Path, suffix: str) -> None:
    for i in range(12):
        artist = "Abba" if i % 2 else "Blur"
        tag(tmp_path / f"{i}{suffix}", artist=artist, album=f"album {i // 4}")
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"Abba": 6, "Blur": 6}
    assert {track.album for track in corpus.tracks} == {"album 0", "album 1", "album 2"}
    assert corpus.warnings == ()
    assert Counter(track.split for track in corpus.tracks) == {"train": 4, "val": 4, "test": 4}


def test_the_albums_artist_goes_before_the_songs_unless_it_is_nobody(tmp_path: Path) -> None:
    for i in range(6):
        tag(tmp_path / f"a{i}.mp3", artist="abba", album="x")
        tag(tmp_path / f"b{i}.mp3", artist=f"Blur feat. {i}", albumartist="Blur", album="y")
        tag(tmp_path / f"c{i}.mp3", artist="Cher", albumartist="Various Artists", album="Hits")
        tag(tmp_path / f"d{i}.mp3", artist="Dido", album="More hits", compilation="1")
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"abba": 6, "Blur": 6}
    assert "12 song(s) of compilations are left out (--compilations takes them): Cher, Dido" in str(
        corpus.warnings
    )
    everyone = read_corpus(tmp_path, 0, LibrarySettings(by="tags", compilations=True))
    assert counts(everyone) == {"abba": 6, "Blur": 6, "Cher": 6, "Dido": 6}


def test_without_tags_the_folders_say_it_and_what_nobody_knows_is_left_out(tmp_path: Path) -> None:
    for i in range(6):
        tag(tmp_path / f"blur/x/{i}.mp3", artist="Abba", album="x")
        tag(tmp_path / f"blur/y/{i}.mp3")
    tag(tmp_path / "loose.mp3")
    (tmp_path / "broken.mp3").write_bytes(b"ID3\x04\x00\x00\xff\xff\xff\xff" + bytes(50))
    corpus = read_corpus(tmp_path, 0, LibrarySettings(by="tags"))
    assert counts(corpus) == {"Abba": 6, "blur": 6}
    assert corpus.warnings[:2] == (
        "6 file(s) without an artist in their tags: as the folders say",
        "2 file(s) whose artist neither tags nor folders tell are left out: broken.mp3, loose.mp3",
    )


def test_files_that_folders_do_not_tell_are_pointed_to_their_tags(tmp_path: Path) -> None:
    tag(tmp_path / "loose.mp3", artist="Abba")
    with pytest.raises(CorpusError, match=r"neither artist20.*--by tags reads the tags of its 1"):
        read_corpus(tmp_path)


# --- the split is repeated ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library and what a run has left."""
    folder = tmp_path_factory.mktemp("finished")
    draw = np.random.default_rng(5)
    for artist in range(2):
        for i in range(6):
            path = folder / "lib" / f"artist {artist}" / f"album {i // 2}" / f"{i}.wav"
            write_audio(path, hum(artist, draw, 1.0))
    places = {"data": folder / "lib", "cache": folder / "cache", "out": folder / "out"}
    task1.main(task1.Settings(**places, jobs=1, seed=3))
    return folder


@pytest.fixture
def written(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the library, and of the folder with its split."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy/lib", tmp_path / "copy/out"


def test_a_split_is_written_and_repeated(written: tuple[Path, Path]) -> None:
    folder, out = written
    assert "the split, for --split:" in (out / "log.txt").read_text()
    first = read_corpus(folder, 3)
    again = [read_corpus(folder, seed, LibrarySettings(split=out)) for seed in range(4)]
    for corpus in again:
        assert set(corpus.tracks) == set(first.tracks)
    assert any(set(read_corpus(folder, s).tracks) != set(first.tracks) for s in range(3))


def test_songs_that_came_later_are_left_out_of_a_repeated_split(written: tuple[Path, Path]) -> None:
    folder, out = written
    (folder / "artist 0/album 0/new.wav").touch()
    corpus = read_corpus(folder, 0, LibrarySettings(split=out))
    assert corpus.warnings == (f"1 song(s) are in no list in {out}: left out",)
    assert len(corpus.tracks) == 12


def test_lists_that_do_not_fit_the_library_are_refused(written: tuple[Path, Path]) -> None:
    folder, out = written
    train, val = (json.loads((out / f"{name}.json").read_text()) for name in ("train", "val"))
    (out / "train.json").write_text(json.dumps([*train, val[0]]))
    (folder / val[1]).unlink()
    with pytest.raises(CorpusError) as error:
        read_corpus(folder, 0, LibrarySettings(split=out))
    assert f"val.json: {val[0]!r} is in train.json, too" in str(error.value)
    assert f"val.json: {val[1]!r}: no such song in the library" in str(error.value)
    with pytest.raises(CorpusError, match=r"train\.json: no such file"):
        read_corpus(folder, 0, LibrarySettings(split=folder))


# --- python3 -m artistid.dataset ---------------------------------------------------------------


def test_a_report_of_what_is_there(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "lib"
    draw = np.random.default_rng(1)
    for artist in range(2):
        for i in range(6):
            path = folder / f"artist {artist}" / f"album {i // 2}" / f"{i}.{'mp3' if i else 'wav'}"
            write_audio(path, hum(artist, draw, 3.0), 16_000 if artist else 44_100)
    path = folder / "artist 1/album 0/8.flac"
    write_audio(path, np.stack([hum(1, draw, 3.0)] * 2, axis=1))
    (folder / "artist 1/album 0/9.mp3").write_bytes(b"")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    status, screen, errors = call(__main__, folder, "--jobs", 1)
    assert (status, errors) == (0, "")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    lines = screen.splitlines()
    assert lines[0].startswith("lib: 14 songs by 2 artists, 6 albums; ")
    assert "  artist 1      8       3" in lines[3]
    assert lines[4:] == [
        "0.01 hours",
        "formats: MP3 (10), WAV (2), FLAC (1)",
        "sample rates: 16000 Hz (7), 44100 Hz (6)",
        "channels: mono (12), stereo (1)",
        "1 of 14 files can't be used:",
        f"  {folder}/artist 1/album 0/9.mp3: is empty (0 bytes)",
    ]


def test_the_report_takes_what_the_tasks_take(tmp_path: Path, call: Call) -> None:
    library(tmp_path, {"abba": 3, "blur": 3, "VA": 3})
    for option, words in (
        ([], "left out (--compilations takes them): VA"),
        (["--compilations"], "27 songs by 3 artists"),
        (["--min-tracks", "10"], "no track to use for train"),
        (["--by", "tags"], "27 file(s) without an artist in their tags"),
    ):
        _, screen, errors = call(__main__, tmp_path, "--jobs", 1, *option)
        assert words in screen + errors
    names = {field.name for field in fields(LibrarySettings)}
    assert names == {"by", "min_tracks", "compilations", "follow_links", "split"}


def test_a_folder_that_is_none(call: Call) -> None:
    status, _, errors = call(__main__, "nowhere")
    assert (status, errors.splitlines()[0].count("nowhere: no such folder")) == (2, 1)
