"""Run `glialite` once, as a clinic does, and say how it ended and what it took."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["GLIALITE", "Ending", "glialite"]

GLIALITE: Final = "from glialite_runtime.cli import main; main()"


@dataclass(frozen=True)
class Ending:
    """How a run ended: exit code, what it said on stderr, seconds of processor time, peak of memory in MB."""

    code: int
    said: str
    seconds: float
    peak_mb: int

    @property
    def fault(self) -> str:
        """What no run may do: end otherwise than promised, show a traceback, take 5 s or 700 MB."""
        if self.code not in (0, 3, 7) or "Traceback" in self.said:
            return f"exit code {self.code}: {self.said[-300:]}"
        if self.seconds > 5 or self.peak_mb > 700:
            return f"took {self.seconds:.1f} s and {self.peak_mb} MB"
        return ""


def glialite(*words: str, before: str = "", prefix: tuple[str, ...] = (), log: Path = Path(os.devnull)) -> Ending:
    """Run the command with `words`; `before` is Python that runs first, `prefix` stands before the interpreter."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", f"{before}\n{GLIALITE}", *words], stdout=log.open("wb"), stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None  # noqa: S101 - for the type checker
        said = process.stderr.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ending(process.returncode, said, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)
