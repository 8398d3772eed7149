"""The processor is asked before numpy is imported; one that is too old gets a sentence instead of a crash."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from glialite_runtime import processor
from glialite_runtime.errors import BackendUnavailableError
from glialite_runtime.processor import instruction_sets, processor_name, require_x86_64_v2

CORE_2 = "flags\t\t: fpu sse sse2 pni ssse3 cx16 lahf_lm"
NEHALEM = "flags\t\t: fpu sse sse2 pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"

here_is_linux_x86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="asks the processor the way Linux on x86-64 does"
)


def emulated(cpu: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is absent: apt-get install qemu-user")
    script = str(Path(sys.executable).with_name("glialite"))
    command = [emulator, "-cpu", cpu, sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_an_old_processor_is_told_what_it_lacks() -> None:
    """The sentence names the instructions that are missing, and only those, and what is needed."""
    with pytest.raises(BackendUnavailableError, match=r"lacks SSE4\.1, SSE4\.2, POPCNT; .* x86-64-v2") as caught:
        require_x86_64_v2(processor._cpuinfo(CORE_2))
    assert caught.value.exit_code == 5


def test_a_processor_of_2008_passes() -> None:
    """Nehalem has all of x86-64-v2 and no AVX."""
    found = processor._cpuinfo(f"processor : 0\n{NEHALEM}\n")
    require_x86_64_v2(found)
    assert not found["AVX"]


@pytest.mark.parametrize("flag", NEHALEM.split()[5:])
def test_each_part_of_the_level_is_needed(flag: str) -> None:
    """Without any one of SSSE3, CX16, SSE4.1, SSE4.2, POPCNT, LAHF numpy may crash."""
    words = [word for word in NEHALEM.split() if word != flag]
    with pytest.raises(BackendUnavailableError):
        require_x86_64_v2(processor._cpuinfo(" ".join(words)))


@pytest.mark.parametrize("text", ["", "model name : x\n", "flag : sse2"])
def test_what_cannot_be_known_passes(text: str) -> None:
    """A system that tells nothing is not refused."""
    assert processor._cpuinfo(text) == {}
    require_x86_64_v2({})


def test_another_architecture_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """ARM knows no x86 levels."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert instruction_sets() == {}


@here_is_linux_x86
def test_glibc_and_the_kernel_say_the_same() -> None:
    """What CPUID says through glibc is what /proc/cpuinfo says, so the bits are the right ones."""
    asked, told = processor._glibc(), processor._cpuinfo(Path("/proc/cpuinfo").read_text())
    if not asked:
        pytest.skip("glibc is older than 2.33")
    assert asked == told
    assert processor_name()


def test_the_command_refuses_before_numpy_is_imported(tmp_path: Path) -> None:
    """Exit code 5 with the sentence, and nothing heavy in the process."""
    code = (
        "import sys\n"
        "from glialite_runtime import processor\n"
        "processor.instruction_sets = lambda: {'SSE4.2': False}\n"
        "from glialite_runtime.cli import app\n"
        "from glialite_runtime.command import run\n"
        "code = run(app, ['selftest'])\n"
        "print('numpy' in sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (5, "False")
    assert "lacks SSE4.2;" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@here_is_linux_x86
def test_an_emulated_core_2_ends_with_the_sentence() -> None:
    """On a real processor below the level, as far as an emulator is one: no SIGILL."""
    done = emulated("core2duo", "--version")
    assert done.returncode == 5
    assert "lacks SSE4.1, SSE4.2, POPCNT" in done.stderr


@pytest.mark.slow
@here_is_linux_x86
def test_an_emulated_nehalem_works() -> None:
    """The oldest processor that is promised starts the command."""
    done = emulated("Nehalem", "--version")
    assert (done.returncode, done.stdout[:9]) == (0, "GliaLite ")
