"""What every command shares: errors become exit codes, results go to stdout, bars to a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from glialite_runtime.errors import BackendUnavailableError, ConfigError, GliaLiteError

__all__ = ["bar", "emit", "log_to_stderr", "new_app", "run", "seconds", "stop_event"]

T = TypeVar("T")


def new_app(help_text: str) -> typer.Typer:
    """Return a typer application with the settings that all four commands share."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(app: Callable[..., Any], arguments: list[str] | None = None) -> int:
    """Run a typer application and return its exit code, never raising.

    One sentence goes to stderr for every error that we raise on purpose; anything else is our bug: traceback and 1.
    """
    # torch's threads wait for each other by spinning, which beside any other busy program makes training on two cores
    # seven times slower. Spinning less costs an idle machine a few percent. Read when torch is loaded, hence here.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app(args=arguments)
    except SystemExit as stop:  # typer's own: help, version, usage errors (2), Ctrl-C
        return stop.code if isinstance(stop.code, int) else 0
    except GliaLiteError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one place where errors are printed
        return error.exit_code
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("glialite"):
            print(  # noqa: T201
                f"error: this command needs {error.name}, which is not installed: pip install 'glialite[train,export]' "
                "(the base install is the clinic runtime alone)",
                file=sys.stderr,
            )
            return BackendUnavailableError.exit_code
        logging.getLogger(__name__).exception("this is a bug in GliaLite")
        return 1
    return 0


def emit(value: Any, text: str, *, as_json: bool) -> None:
    """Print a result on stdout: `value` as JSON for machines, else `text` for people."""
    print(json.dumps(value, indent=2, allow_nan=False) if as_json else text)  # noqa: T201


def log_to_stderr(verbose: bool = False) -> None:
    """Send log lines of level INFO (or DEBUG) and above to stderr with the time of day."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )


def seconds(option: str, text: str) -> float:
    """Return the seconds of a duration such as 30h, 90m or 45s; `option` is named when it is none (`ConfigError`)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hms])", text)
    if found is None:
        raise ConfigError(f"{option} {text!r} is not a number with h, m or s, such as 30h")
    return float(found[1]) * {"h": 3600, "m": 60, "s": 1}[found[2]]


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or the system's request to end sets once; a second one ends at once, as usual."""
    stop = threading.Event()
    kinds = [
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
    ]  # the last: Windows
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def asked(kind: int, frame: object) -> None:
        del frame
        stop.set()
        signal.signal(kind, before[signal.Signals(kind)])

    for kind in kinds:
        signal.signal(kind, asked)
    try:
        yield stop
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])


def bar(items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:
    """Yield `items`, with a progress bar on stderr when that is a terminal, else one line at start and end."""
    if length is None and isinstance(items, Sized):
        length = len(items)
    if sys.stderr.isatty():
        with typer.progressbar(items, length=length, label=label, file=sys.stderr) as shown:
            yield from shown
        return
    started, count = time.monotonic(), 0
    for item in items:
        yield item
        count += 1
    print(f"{label}: {count} done in {time.monotonic() - started:.1f} s", file=sys.stderr)  # noqa: T201
