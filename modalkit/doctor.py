"""What this machine offers to modalkit, and what is missing: the checks of `modalkit doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import modalkit
from modalkit import registry
from modalkit.data.fetching import cache_folder
from modalkit.errors import ModalkitError

_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning-fabric": "lightning_fabric",
    "numpy": "numpy",
    "scikit-image": "skimage",
    "opencv": "cv2",
    "dlib": "dlib",
    "soundfile": "soundfile",
    "pyarrow": "pyarrow",
}
_EXTRAS = {"serve": "starlette", "onnx": "onnx", "cluster": "distributed", "wandb": "wandb", "mlflow": "mlflow"}
_LITTLE_SPACE = 1 << 30  # bytes; a checkpoint of a large model and its copy have some hundred MB
_FEW_FILES = 256  # open files; worker processes and memory-mapped shards need some hundred


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        state: ``"ok"``; ``"note"``, for what is missing but not always needed; ``"problem"``, for what must be mended.
        about: what was checked.
        text: what was found, and what to do about it.
    """

    state: Literal["ok", "note", "problem"]
    about: str
    text: str


def findings() -> Iterator[Finding]:
    """Yield the results of all checks, one after the other: a check takes up to some seconds."""
    for check in (_versions, _packages, _plugins, _builders, _devices, _precision, _extras, _folders, _open_files):
        yield from check()


def _versions() -> Iterator[Finding]:
    where = Path(modalkit.__file__).parent
    yield Finding("ok", "modalkit", f"{modalkit.__version__} in {where}")
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _packages() -> Iterator[Finding]:
    """Import what the core needs: packages of different versions can be installed side by side and not work."""
    for package, module in _PACKAGES.items():
        try:
            found = importlib.import_module(module)
        except Exception as error:
            again = "torch and torchvision together" if package.startswith("torch") else "it"
            text = f"cannot be imported ({type(error).__name__}: {error}); install {again} again"
            yield Finding("problem", package, text)
        else:
            yield Finding("ok", package, str(getattr(found, "__version__", "imports")))


def _plugins() -> Iterator[Finding]:
    for word, group in registry.groups().items():
        plugins = registry.provided(group)
        for one in plugins:
            if one.failure:
                yield Finding("problem", word, f"{one.name} of {one.provider} cannot be used: {one.failure}")
        if not any(one.failure for one in plugins):
            yield Finding("ok", word, f"{len(plugins)} load")


def _builders() -> Iterator[Finding]:
    """Ask builders what they need beside packages, such as the landmark model of faces."""
    for one in registry.provided(registry.BUILDERS):
        if one.plugin is None or one.plugin.require is None:
            continue
        try:
            one.plugin.require()
        except ModalkitError as error:
            yield Finding("note", f"builder {one.name}", str(error))
        else:
            yield Finding("ok", f"builder {one.name}", "has what it needs")


def _devices() -> Iterator[Finding]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("ok", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}")
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding("ok", "GPU", f"none that torch can use ({built}); training runs on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        yield Finding("ok", f"GPU {number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB")


def _precision() -> Iterator[Finding]:
    """Compare products in bfloat16 with products in float32 on the CPU."""
    import torch

    single, half = (torch.ones(256, 256, dtype=kind) for kind in (torch.float32, torch.bfloat16))
    ratio = _median_time(lambda: half @ half) / _median_time(lambda: single @ single)
    text = f"bfloat16 products take {ratio:.2g} times as long as float32 on this CPU"
    advice = "; --precision bf16-mixed may train faster" if ratio < 0.7 else "; keep --precision 32 on it"
    yield Finding("ok", "precision", text + advice)


def _median_time(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _extras() -> Iterator[Finding]:
    missing = [extra for extra, module in _EXTRAS.items() if importlib.util.find_spec(module) is None]
    there = [extra for extra in _EXTRAS if extra not in missing]
    yield Finding("ok", "extras", f"installed: {', '.join(there) or 'none'}")
    if missing:
        yield Finding("note", "extras", f'not installed: {", ".join(missing)} (pip install "modalkit-vae[NAME]")')


def _folders() -> Iterator[Finding]:
    places = {"working folder": Path.cwd(), "cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
    for about, folder in places.items():
        nearest = next(one for one in (folder, *folder.parents) if one.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=nearest):
                pass
        except OSError as error:
            hint = "; set MODALKIT_CACHE to another folder" if about == "cache" else ""
            yield Finding("problem", about, f"{folder}: cannot write there ({error.strerror}){hint}")
            continue
        free = shutil.disk_usage(nearest).free
        text = f"{folder}: writable, {free / 2**30:.1f} GiB free"
        yield Finding("ok" if free > _LITTLE_SPACE else "note", about, text)


def _open_files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FEW_FILES:
        yield Finding("note", "open files", f"at most {soft}; raise the limit with `ulimit -n 1024`")
