"""Which artist is it? Music artist identification from audio.

    import artistid
    model = artistid.load_model("result/model_task2.safetensors")
    print(model.predict("song.mp3").top(3))
    embeddings = artistid.embed("song.mp3", encoder="musicnn")  # (excerpts, dim)

Names load what they need at first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artistid.inference import embed as embed
    from artistid.inference import load_model as load_model

__version__ = "1.0.0"
__all__ = ["__version__", "embed", "load_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from artistid import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'artistid' has no attribute {name!r}")
