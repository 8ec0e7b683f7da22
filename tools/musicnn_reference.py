"""Write tests/data/musicnn_reference.npz: what the authors' own code makes of three patches.

pip install tensorflow-cpu==2.15.1        # in an environment of its own
pip download musicnn==0.1.0 --no-deps && unzip musicnn-0.1.0-py3-none-any.whl -d FOLDER
python3 tools/musicnn_reference.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "musicnn_reference.npz"
POOLS = ("mean_pool", "max_pool")
NAMES = ("logits", "timbral", "temporal", "cnn1", "cnn2", "cnn3", *POOLS, "penultimate")
KEPT = ("logits", *POOLS, "penultimate")


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    from musicnn import models

    tf.compat.v1.disable_eager_execution()
    patches = tf.compat.v1.placeholder(tf.float32, [None, 187, 96])
    outputs = models.define_model(patches, False, "MSD_musicnn", 50)
    session = tf.compat.v1.Session()
    tf.compat.v1.train.Saver().restore(session, f"{folder}/musicnn/MSD_musicnn/")
    draw = np.random.default_rng(0)
    power = draw.gamma(0.3, 0.2, (3, 187, 96)) * np.exp(-np.arange(96) / 20)
    made_up = np.log10(1 + 1e4 * power).astype(np.float32)
    values = dict(zip(NAMES, session.run(list(outputs), {patches: made_up}), strict=True))
    np.savez_compressed(OUT, patches=made_up, **{name: values[name] for name in KEPT})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
