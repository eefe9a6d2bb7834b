"""Compiler settings that help on this hardware; read by JAX when it starts, so set before."""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
"""Empty: XLA's own convolution and matrix kernels instead of the experimental library's."""


def set_cpu_flags() -> str | None:
    """Adds the flag that makes convolutions about twice as fast on the CPU to `XLA_FLAGS`.

    Call before JAX is imported. A flag of that name already in `XLA_FLAGS` is kept, so that
    `XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=dot` decides otherwise.

    Returns:
      The flag where it was added, else None.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA ends the process on a flag that it does not know: only where it was tried.
    tried = importlib.metadata.version("jaxlib").startswith("0.10.")
    if not tried or CPU_FLAG in flags:
        return None
    os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAG}".strip()
    return CPU_FLAG


CACHE_BYTES = 2 * 2**30
"""Compiled programs that are kept; beyond it the longest unused go. The fusion's take 2 MB."""


def keep_compiled_programs() -> Path | None:
    """Lets JAX keep what it compiles in the user's cache folder, for the next start to find.

    Call before JAX is imported. `JAX_COMPILATION_CACHE_DIR` names another folder and
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing; what the user has set stays.

    Returns:
      The folder where it was chosen here, else None.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # A home that machines share: code for one processor may hold what another does not know.
    folder = home / "jaxbusi" / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # With a limit JAX takes a lock, and without one it takes none: runs may share the folder.
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(CACHE_BYTES))
    return folder


def _processor() -> str:
    """A name for what the processor can do: its kind, and on Linux the list of its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    described = f"{platform.machine()} {platform.processor()} {features}"
    return hashlib.sha256(described.encode()).hexdigest()[:12]
