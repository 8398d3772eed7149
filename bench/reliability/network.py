"""Everything works where there is no network, and nothing ever asks for one.

`make proof-network` runs the clinic's commands in an emptied network namespace, and with a filter of the kernel that
ends the process at once when it asks for a socket. A control shows that the filter does so.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.reliability.command import glialite
from bench.reliability.ledger import WORK, Ledger, arguments, run_slice, small_case, write_section

NO_SOCKETS: Final = """
import ctypes, struct
def op(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)
# Load the number of the system call; 41 is socket on x86-64: end the process; anything else: allow.
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, 41) + op(0x06, 0, 0, 0x80000000) + op(0x06, 0, 0, 0x7FFF0000)
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("at", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
prctl = lambda *words: libc.prctl(*map(ctypes.c_ulong, words))
given = Filter(len(program) // 8, ctypes.addressof(buffer))
if prctl(38, 1, 0, 0, 0) or libc.prctl(ctypes.c_int(22), ctypes.c_ulong(2), ctypes.byref(given)):
    raise SystemExit("no seccomp")
"""
EMPTY: Final = ("unshare", "-rn")


def trials(case: Path, bundle: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Return name, words and what runs before, of every trial."""
    model = ("--bundle", str(bundle), "--threads", "1")
    results = "RESULTS"
    return [
        ("control: a socket is asked for", ("--version",), NO_SOCKETS + "import socket; socket.socket()"),
        ("segment", ("segment", str(case), "--out", results, *model), NO_SOCKETS),
        ("batch", ("batch", str(case.parent), "--out", results, *model), NO_SOCKETS),
        ("selftest", ("selftest", *model), NO_SOCKETS),
        ("inspect", ("inspect", str(bundle)), NO_SOCKETS),
        ("verify", ("verify", f"{results}/{case.name}/{case.name}-report.json"), NO_SOCKETS),
        ("watch", ("watch", str(case.parent), results, "--once", "--bundle", str(bundle)), NO_SOCKETS),
    ]


def main() -> None:
    """Run all, and write the figures."""
    given = arguments(__doc__ or "", 7).parse_args()
    case = small_case(given.cases, WORK)
    inbox = WORK / "inbox" / case.name
    inbox.mkdir(parents=True, exist_ok=True)
    for path in case.iterdir():
        (inbox / path.name).write_bytes(path.read_bytes())
    ledger = Ledger("network")
    with tempfile.TemporaryDirectory() as results:

        def trial(number: int) -> dict[str, Any]:
            name, words, before = trials(inbox.resolve(), given.bundle.resolve())[number]
            words = tuple(
                word.replace("RESULTS", f"{results}/{name}" if name != "verify" else f"{results}/segment")
                for word in words
            )
            ended = glialite(*words, before=before, prefix=EMPTY)
            right = -signal.SIGSYS if name.startswith("control") else 0
            codes = (right, 128 + signal.SIGSYS) if right else (0,)
            return {"what": name, "code": ended.code, "fault": "" if ended.code in codes else ended.said[-300:] or "?"}

        if len(ledger.trials) >= given.count:
            ledger.path.unlink()
            ledger = Ledger("network")
        run_slice(ledger, given.count, given.seconds, trial)
    wrong = [t for t in ledger.trials if t["fault"]]
    names = ", ".join(f"`{t['what']}`" for t in ledger.trials[1:])
    write_section(
        "network",
        f"In an emptied network namespace (`unshare -rn`), with a seccomp filter that ends the process at its first "
        f"`socket` call: {names}: {len(ledger.trials) - 1 - len(wrong)} of {len(ledger.trials) - 1} did their work. "
        f"The control, which asks for a socket, was ended by the filter (exit code {ledger.trials[0]['code']}).",
    )
    if wrong:
        raise SystemExit("\n".join(map(str, wrong)))


if __name__ == "__main__":
    main()
