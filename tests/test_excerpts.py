"""Excerpts that cover songs, against a loop over the songs."""

import numpy as np
import pytest

from artistid.audio.excerpts import covering, numbered

LENGTHS = np.array([25, 3, 10, 11])


@pytest.mark.parametrize("size", [1, 4, 10, 30])
def test_excerpts_cover_every_song_from_start_to_end(size: int) -> None:
    expected = []
    for song, length in enumerate(LENGTHS):
        start = 0
        while start + size < length:
            expected.append((song, start))
            start += size
        expected.append((song, max(0, length - size)))  # ends with its song, or is all of it
    songs, starts = covering(LENGTHS, size)
    assert list(zip(songs, starts, strict=True)) == expected


def test_excerpts_are_numbered_within_their_song() -> None:
    songs, numbers = numbered(np.array([3, 1, 1, 2]))
    assert songs.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert numbers.tolist() == [0, 1, 2, 0, 0, 0, 1]


def test_no_songs_have_no_excerpts() -> None:
    songs, starts = covering(np.array([], dtype=np.intp), 4)
    assert (len(songs), len(starts)) == (0, 0)
