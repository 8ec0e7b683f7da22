"""Task 2: which artist is it, by a convolutional network on mel spectrograms, from scratch.

Trains on random crops of train, keeps the epoch that does best on val, and predicts test; a song
gets the mean posterior of excerpts that cover it. For several GPUs or machines: torchrun task2.py.
"""

from dataclasses import asdict, dataclass

from artistid import cli, devices, melspec, networks, training
from artistid.checkpoints import ResumeFile, corpus_digest, save_network
from artistid.excerpts import open_songs
from artistid.report import SPLITS


@dataclass(frozen=True)
class Settings(training.TrainingSettings, cli.CommonSettings):
    def check(self) -> None:
        cli.CommonSettings.check(self)
        training.TrainingSettings.check(self)


def main(settings: Settings) -> None:
    with (
        devices.start(settings.device, settings.precision) as compute,
        cli.open_run("task2", "log_task2.txt", settings) as run,
    ):
        mel = melspec.MelSettings()
        with compute.main_first():
            entries = run.extract(melspec.recipe(mel))
        artists = run.corpus.artists
        tracks = {split: run.corpus.split(split) for split in SPLITS}
        songs = {
            split: open_songs([entries[track] for track in own], compute.device)
            for split, own in tracks.items()
        }
        train, val = (
            training.Examples(songs[split], run.labels(tracks[split])) for split in ("train", "val")
        )

        widths = networks.MelCNNSettings(len(artists), mel.n_mels)
        network = training.initialised(networks.MelCNN, widths, settings, compute)
        n_frames = round(settings.crop_seconds * mel.frames_per_second)
        trainer = training.Trainer(network, train, val, n_frames, settings, compute)
        interrupted = ResumeFile(
            run.outputs.results / "model_task2_resume.pt",
            {**training.resumable(settings, compute), **asdict(widths), **asdict(mel)},
            corpus_digest(run.corpus, entries),
        )
        trainer.fit(interrupted)
        on_val, on_test = (trainer.posteriors(songs[split]) for split in ("val", "test"))
        if not compute.is_main:
            return
        run.stage_done("training")

        run.draw_curves("accuracy_curve.png", "MelCNN", trainer.curves, trainer.best_epoch)
        run.draw_confusion("confusion_matrix_task2.png", "MelCNN", on_val, tracks["val"])
        description = {"artists": artists, "network": asdict(widths), "mel": asdict(mel)}
        save_network(
            run.outputs.results / "model_task2.safetensors",
            network,
            {"task": "task2", **description, "crop_frames": n_frames},
        )
        val_scores = run.score(on_val, tracks["val"])
        test_scores = run.write_test(on_test)
        run.stage_done("evaluation")
        run.write_metrics(
            val_scores,
            test_scores,
            best_epoch=trainer.best_epoch + 1,
            curves=trainer.curves,
            device=str(compute),
        )
        interrupted.remove()


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
