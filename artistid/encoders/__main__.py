"""List the pretrained encoders, or download the weights of one."""

import argparse
import sys

from artistid.encoders.base import Entry
from artistid.encoders.registry import ENCODERS, WITHOUT_DOWNLOAD
from musicfm.hub import DownloadError

HOW_TO_USE = f"""Use one with python3 task2_baseline.py --encoder NAME, or several joined by +.
The default is musicfm if its weights are at hand, else {WITHOUT_DOWNLOAD}."""


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m artistid.encoders", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    download = commands.add_parser("download", help="fetch the weights of one")
    names = [entry.name for entry in ENCODERS.values() if entry.download]
    download.add_argument("name", choices=names)
    chosen = parser.parse_args()
    try:
        if chosen.command == "download":
            fetched = ENCODERS[chosen.name].download
            assert fetched
            print(*fetched.fetch(), sep="\n")
        else:
            print(*map(described, ENCODERS.values()), HOW_TO_USE, sep="\n\n")
    except (DownloadError, OSError) as error:
        print(f"artistid.encoders: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nartistid.encoders: interrupted; run it again", file=sys.stderr)
        sys.exit(130)


def described(entry: Entry) -> str:
    weights = "part of the project"
    if entry.download:
        megabytes = sum(file.size for file in entry.download.files) / 1e6
        how = f"python3 -m artistid.encoders download {entry.name}"
        weights = f"{megabytes:,.0f} MB, {'at hand' if entry.download.at_hand() else how}"
    return (
        f"{entry.name}: {entry.dim} numbers for each {entry.excerpt_s:.2g} s\n"
        f"  trained on {entry.knows} ({entry.cite})\n"
        f"  weights: {weights}; {entry.licence}"
    )


if __name__ == "__main__":
    main()
