"""The scripts, where the package is installed without them: python3 -m artistid task1 --help"""

import runpy
import sys

from artistid.foundation.files import checkout

SCRIPTS = ("task1", "task2", "task2_baseline", "ensemble", "predict", "app")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in SCRIPTS:
        sys.exit(
            f"usage: python3 -m artistid {{{','.join(SCRIPTS)}}} [options], or --help after one"
        )
    sys.argv[:2] = [f"{name}.py"]
    if root := checkout():
        runpy.run_path(str(root / f"{name}.py"), run_name="__main__")
    else:
        runpy.run_module(f"artistid.scripts.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
