"""Which artist is it? A page for the browser: drop a song, or record one.

Shows the likeliest artists with their probabilities, the prediction over the song, and the
training songs that it is most like. Only this machine can open the page unless --host says
otherwise, nothing is fetched from elsewhere, and a song is deleted when the next one comes or the
page is closed.
"""

import base64
import html
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from artistid import cli, inference
from artistid.audio.decode import AudioError
from artistid.foundation import progress
from artistid.foundation.errors import UserError, printable
from artistid.inference import Predictor
from artistid.models.devices import DeviceName
from artistid.results import figures
from artistid.vocals import separation
from artistid.vocals.voice import Separated

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import gradio
    from starlette.datastructures import Headers
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
except ImportError:
    cli.stop("app.py: needs Gradio: pip install 'gradio>=6,<7'")

MAX_BYTES = 100 * 2**20
MAX_S = 30 * 60
N_BARS = 5
STYLE = "footer { display: none !important } .timeline img { width: 100% }"


@dataclass(frozen=True)
class Settings:
    models: Annotated[
        Path, arg(metavar="FOLDER", help_behavior_hint="(default: result/, else result/demo/)")
    ] = Path("result")
    """Folder with the models to choose from."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on; 0.0.0.0: other machines can open the page, too."""
    port: int = 7860
    """Port to listen on."""
    device: DeviceName = "auto"
    """Where to compute; auto: CUDA or MPS if available, else the CPU."""
    quiet: bool = False
    """Show only errors."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise UserError(f"--port {self.port}: must be from 1 to 65535")


class Said(NamedTuple):
    """What the page shows of a song, in the order of its blocks."""

    words: str = ""
    bars: dict[str, float] | None = None
    timeline: str = ""
    nearest: str = ""


@dataclass(frozen=True)
class Models:
    paths: dict[str, Path]  # by name
    device: DeviceName
    vocals: Path  # folder for those that are separated
    loaded: dict[str, Predictor] = field(default_factory=dict)

    def say(self, name: str, song: str | None) -> Said:
        if song is None:
            return Said()
        try:
            if name not in self.loaded:
                voice = Separated(self.vocals)
                self.loaded[name] = inference.load_model(
                    self.paths[name], device=self.device, voice=voice
                )
            prediction = self.loaded[name].predict(song, MAX_S)
        except (AudioError, UserError) as error:
            return Said(f"<h3>{escaped(Path(song).name)}: {escaped(error)}</h3>")
        best = prediction.top(N_BARS)
        artist = best[0][0]
        mark = "unknown? " if prediction.is_unknown else ""
        png = base64.b64encode(figures.timeline_png(prediction, Path(song).stem)).decode()
        nearest = "".join(f"<li>{escaped(near)}</li>" for near in prediction.nearest(artist))
        note = f"<p>{escaped(prediction.note)}</p>" if prediction.note else ""
        return Said(
            f"<h3>{mark}{escaped(artist)}</h3>{note}",
            {printable(name): probability for name, probability in best},
            f'<img alt="posterior of each excerpt" src="data:image/png;base64,{png}">',
            f"Nearest training songs by {escaped(artist)}:<ol>{nearest}</ol>",
        )

    def forget_vocals(self) -> None:
        for vocals in self.vocals.rglob(f"[!.]*{separation.SUFFIX}"):
            vocals.unlink(missing_ok=True)


def escaped(text: object) -> str:
    """`text` as part of a page; a name need not be UTF-8."""
    return html.escape(printable(text))


def page_of(models: Models) -> "gradio.Blocks":
    songs: dict[str | None, str] = {}  # by session, until the next one comes or it ends

    def answer(song: str | None, model: str, request: gradio.Request) -> Said:
        if songs.get(request.session_hash) != song:
            delete(request)
        if song is not None:
            songs[request.session_hash] = song
        said = models.say(model, song)
        if song is not None and song not in songs.values():  # the window was closed meanwhile
            models.forget_vocals()
        return said

    def delete(request: gradio.Request) -> None:
        song = songs.pop(request.session_hash, None)
        if song and song not in songs.values():  # the same file has one name for all sessions
            Path(song).unlink(missing_ok=True)
            models.forget_vocals()

    names = list(models.paths)
    with gradio.Blocks(title="Which artist is it?") as page:
        gradio.Markdown("# Which artist is it?")
        with gradio.Row():
            with gradio.Column():
                song = gradio.Audio(
                    sources=["upload", "microphone"], type="filepath", label="A song", buttons=[]
                )
                model = gradio.Dropdown(names, value=names[0], label="Model")
            with gradio.Column():
                words = gradio.HTML()
                bars = gradio.Label(
                    num_top_classes=N_BARS, label="Likeliest artists", show_heading=False
                )
        timeline = gradio.HTML(elem_classes="timeline")
        nearest = gradio.HTML()
        shown = [words, bars, timeline, nearest]
        for changed in (song.change, model.change):
            changed(answer, [song, model], shown, api_visibility="private")
        page.unload(delete)
    return page


class OwnPages:
    """Refuses what pages of other sites ask for: their scripts, and names that they have given to
    this address."""

    def __init__(self, app: Any, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_refused = scope["type"] == "http" and not self._is_own(Headers(scope=scope))
        refusal = PlainTextResponse("another site's page", status_code=403)
        await (refusal if is_refused else self.app)(scope, receive, send)

    def _is_own(self, headers: Headers) -> bool:
        host = headers.get("host", "")
        origin = headers.get("origin", f"http://{host}").partition("://")[2]
        name = host.partition(":")[0]  # port 80 is not named
        return origin == host and ("*" in self.hosts or name in self.hosts)


def main(settings: Settings) -> None:
    paths = inference.newest_models(settings.models, settings.models / "demo")
    progress.silence_decoders()
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "localhost"
    os.environ["no_proxy"] = f"{no_proxy},127.0.0.1,{settings.host}"  # Gradio asks for its own page
    is_local = settings.host in ("127.0.0.1", "localhost")
    hosts = ("127.0.0.1", "localhost") if is_local else ("*",)
    with tempfile.TemporaryDirectory(prefix="artistid-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        models = Models(
            {path.name: path for path in paths}, settings.device, Path(uploads, "vocals")
        )
        page = page_of(models)
        try:
            page.launch(
                server_name=settings.host,
                server_port=settings.port,
                max_file_size=MAX_BYTES,
                app_kwargs={"middleware": [Middleware(OwnPages, hosts=hosts)]},
                theme=gradio.themes.Soft(font="system-ui", font_mono="monospace"),
                css=STYLE,
                ssr_mode=False,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            place = f"--host {settings.host} --port {settings.port}"
            raise UserError(f"{place}: cannot listen there") from error
        if not settings.quiet:
            print(f"open {page.local_url} in a browser; Ctrl-C ends it", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        page.close(verbose=False)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, "start it again")
