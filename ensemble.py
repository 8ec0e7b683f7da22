"""All models together: which artist is it, by the mean of what several models say.

After two or more of the tasks have run on the same songs: averages their calibrated posteriors,
scores the result on val, predicts test, and saves a model that names its members.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from artistid import cli, ensemble
from artistid.ensemble import Weighting
from artistid.foundation import progress
from artistid.results.record import Task

TASK = Task("ensemble", log="log_ensemble.txt", confusion="confusion_matrix_ensemble.png")


@dataclass(frozen=True)
class Settings:
    members: Annotated[
        tuple[str, ...],
        arg(metavar="MODEL ...", help_behavior_hint="(default: every task that has run)"),
    ] = ()
    """A task for the model that predicts in it, such as task2; or one of its models, such as
    task1:KNN or task2_baseline:LDA."""
    weights: Weighting = "auto"
    """How much the members count; auto: fitted on val if cross-validation within val prefers that
    to equal weights."""
    out: Annotated[
        Path | None,
        arg(metavar="FOLDER", help_behavior_hint="(default: here and result/, or result/demo/)"),
    ] = None
    """The folder that was --out of the tasks, and where the ensemble writes, too."""
    quiet: bool = False
    """Show only errors; the log file has the rest."""


def main(settings: Settings) -> None:
    outputs = ensemble.find_outputs(settings.out)
    members = ensemble.find_members(outputs.results, settings.members)
    with progress.logging_to(outputs.texts / TASK.log, settings.quiet):
        ensemble.combine_and_report(TASK, members, settings.weights, cli.flat(settings), outputs)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, "run it again")
