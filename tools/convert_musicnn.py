"""Make artistid/data/msd_musicnn.safetensors of the checkpoint in the package musicnn 0.1.0.

    pip download musicnn==0.1.0 --no-deps
    python3 -m tools.convert_musicnn musicnn-0.1.0-py3-none-any.whl

A checkpoint of TensorFlow is two files: `.index`, a sorted table in LevelDB's format, says for
each variable its type, shape, and where its bytes lie in `.data-00000-of-00001`. Formats:
github.com/google/leveldb/blob/main/doc/table_format.md and tensorflow/core/protobuf/
tensor_bundle.proto.
"""

import hashlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from artistid.encoders.musicnn import WEIGHTS
from artistid.foundation.files import replacing

WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
FOLDER = "musicnn/MSD_musicnn/"
FOOTER = 48  # bytes: two handles, padding, 8 bytes of magic number
FLOAT = 1  # of tensorflow/core/framework/types.proto

Array = NDArray[np.float32]


def main(wheel: Path) -> None:
    content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        sys.exit(f"{wheel}: not the wheel of musicnn 0.1.0")
    with zipfile.ZipFile(wheel) as archive:
        index = archive.read(f"{FOLDER}.index")
        data = archive.read(f"{FOLDER}.data-00000-of-00001")
        licence = archive.read("musicnn-0.1.0.dist-info/LICENSE.md").decode()
    weights = in_torch_layout(dict(read_variables(index, data)))
    notes = {"source": f"{FOLDER} of musicnn-0.1.0-py3-none-any.whl", "licence": licence}
    with replacing(WEIGHTS) as temporary:
        temporary.write_bytes(save(weights, metadata=notes))
    print(f"{WEIGHTS}: {len(weights)} tensors, {WEIGHTS.stat().st_size:,} bytes")


def in_torch_layout(variables: dict[str, Array]) -> dict[str, Array]:
    """The encoder's weights by the names of artistid.musicnn.MusiCNN."""
    norms = [
        "normalise",
        *(f"front.{i}.norm" for i in range(5)),
        *(f"mid.{i}.norm" for i in range(3)),
    ]
    norms += ["pooled_norm", "dense_norm"]
    kinds = {"gamma": "weight", "beta": "bias"}
    kinds |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    weights = {
        f"{ours}.{kinds[kind]}": variables[f"{_numbered('batch_normalization', i)}/{kind}"]
        for i, ours in enumerate(norms)
        for kind in kinds
    }
    convolutions = [
        f"{part}.{i}.convolution" for part, n in (("front", 5), ("mid", 3)) for i in range(n)
    ]
    for i, ours in enumerate(convolutions):
        theirs = _numbered("conv2d", i)
        kernel = variables[f"{theirs}/kernel"].transpose(3, 2, 0, 1)  # (out, in, time, mels)
        # in the mid-end the width of the kernel is that of the features: they are its channels
        weights[f"{ours}.weight"] = (
            kernel if ours.startswith("front") else kernel[:, 0].swapaxes(1, 2)
        )
        weights[f"{ours}.bias"] = variables[f"{theirs}/bias"]
    weights["dense.weight"] = variables["dense/kernel"].T
    weights["dense.bias"] = variables["dense/bias"]
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def _numbered(name: str, i: int) -> str:
    return f"{name}_{i}" if i else name


# --- TensorFlow's checkpoint -----------------------------------------------------------------


def read_variables(index: bytes, data: bytes) -> Iterator[tuple[str, Array]]:
    """Names and values of all variables, without the state of the optimizer."""
    for name, entry in _table(index):
        if name and "Adam" not in name:
            fields = dict(_fields(entry))
            if fields.get(1) == FLOAT:
                start, size = fields.get(4, 0), fields[5]
                yield (
                    name,
                    np.frombuffer(data[start : start + size], "<f4").reshape(_shape(fields[2])),
                )


def _table(index: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a table, block by block."""
    footer = index[-FOOTER:]
    place = 0
    for _ in range(2):  # the handle of the meta-index, which is not needed
        _, place = _varint(footer, place)
    start, place = _varint(footer, place)
    size, _ = _varint(footer, place)
    for _, handle in _block(index[start : start + size]):
        start, place = _varint(handle, 0)
        size, _ = _varint(handle, place)
        for key, value in _block(index[start : start + size]):
            yield key.decode(), value


def _block(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each key repeats so many bytes of the one before; restart points end the block."""
    n_restarts = int.from_bytes(block[-4:], "little")
    end, place, key = len(block) - 4 * (n_restarts + 1), 0, b""
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        size, place = _varint(block, place)
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + size]
        place += own + size


def _shape(message: bytes) -> tuple[int, ...]:
    """Of a TensorShapeProto: the size is field 1 of each field 2."""
    return tuple(
        dict(_fields(value)).get(1, 0) for number, value in _fields(message) if number == 2
    )


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields: integers and byte strings."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        if tag & 7 == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
        elif tag & 7 == 2:
            size, place = _varint(message, place)
            yield tag >> 3, message[place : place + size]
            place += size
        else:  # a checksum, of 4 bytes
            place += 4


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, 7 bits a byte, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


if __name__ == "__main__":
    main(Path(sys.argv[1]))
