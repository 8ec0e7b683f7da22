"""Fetch the published weights of MusicFM, 1.3 GB, into musicfm/data."""

import argparse
import sys

from musicfm.hub import DownloadError
from musicfm.published import download


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m musicfm", description=__doc__)
    parser.add_argument("command", choices=["download"])
    trained_on = "msd: trained on the Million Song Dataset (default); fma: on Free Music Archive"
    parser.add_argument("name", nargs="?", choices=["msd", "fma"], default="msd", help=trained_on)
    try:
        print(*download(parser.parse_args().name), sep="\n")
    except (DownloadError, OSError) as error:
        print(f"musicfm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nmusicfm: interrupted; run it again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
