"""The scripts, where the package is installed without them: python3 -m artistid task1 --help"""

import argparse
import runpy
import sys

from artistid.foundation.files import checkout

SCRIPTS = ("task1", "task2", "task2_baseline", "ensemble", "predict", "app")


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m artistid", description=__doc__)
    parser.add_argument("script", choices=SCRIPTS, help="followed by its own options")
    name = parser.parse_args(sys.argv[1:2]).script
    sys.argv[:2] = [f"{name}.py"]
    if root := checkout():
        runpy.run_path(str(root / f"{name}.py"), run_name="__main__")
    else:
        runpy.run_module(f"artistid.scripts.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
