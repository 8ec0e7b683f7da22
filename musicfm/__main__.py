"""python3 -m musicfm download [msd|fma]: fetch the published weights into musicfm/data.
python3 -m musicfm convert FILE.pt: write the encoder's tensors of a checkpoint as safetensors."""

import argparse
import sys
from pathlib import Path

from musicfm.checkpoint import convert
from musicfm.published import CheckpointError, DownloadError, download


def main() -> None:
    parser = argparse.ArgumentParser(
        "python3 -m musicfm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("download", help="1.3 GB; goes on where it was stopped")
    trained_on = "msd: trained on the Million Song Dataset (default); fma: Free Music Archive"
    fetch.add_argument("name", nargs="?", choices=["msd", "fma"], default="msd", help=trained_on)
    other = commands.add_parser("convert", help="beside FILE.pt, for programs without torch")
    other.add_argument("file", type=Path, metavar="FILE.pt", help="an official checkpoint")
    chosen = parser.parse_args()
    try:
        if chosen.command == "download":
            print(*download(chosen.name), sep="\n")
        else:
            out = chosen.file.with_suffix(".safetensors")
            convert(chosen.file, out)
            print(out)
    except (CheckpointError, DownloadError, OSError) as error:
        print(f"musicfm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nmusicfm: stopped; a download goes on where it was", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
