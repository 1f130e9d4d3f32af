"""The cost of a training step: modalkit beside a loop once per ELBO term, and beside MultiVae's MVAE where installed.

    python tests/benchmarks/step.py                              # five recipes of the paper, about ten minutes
    python tests/benchmarks/step.py celeba_transforms --rounds 9
    python tests/benchmarks/step.py celeba19_mvae --device cuda --precision bf16 --compile reduce-overhead

For each recipe, all take turns in one process, over copies of the same networks and on the same rows, random subset
and noise: forward, backward, Adam. The loop runs the model once per term and decodes every modality in each, as
equation 4 is written down; MultiVae decodes a term's own. Ratios are medians over rounds of turns; on a shared machine
only they mean something. FLOPs are those that torch's counter sees (matrix products and convolutions, forward and
backward). The peaks that they are compared with are taken in the same run, before and after: the best of some matrix
products, and the best of the recipe's own convolutions, each alone, forward and backward.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the support room of the tests
os.environ.setdefault("OMP_WAIT_POLICY", "active")  # as the command line does on a machine that is its own

import torch
from support.once_per_term import once_per_term_loss
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modalkit.data import Batch
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.training.planning import Planner

PAPER = ("mnist_mvae", "fashion_mnist_mvae", "multimnist_mvae", "celeba19_mvae", "celeba_transforms")


@dataclass
class Contender:
    """One way to make a step."""

    name: str
    model: nn.Module
    loss: Callable[[Plan, Tensor], Tensor]
    learning_rate: float
    fused: bool = False
    seconds: list[float] = field(default_factory=list)
    flops: int = 0
    megabytes: float = 0.0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.model.parameters(), self.learning_rate, fused=self.fused)

    def step(self, plan: Plan, noise: Tensor) -> float:
        """Make one and return its seconds."""
        wait(noise.device)
        start = time.perf_counter()
        self.loss(plan, noise).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait(noise.device)
        return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def contenders(
    recipe: Recipe, device: torch.device, precision: str, batch: Batch, mode: str | None = None
) -> Iterator[Contender]:
    """Yield all ways, with the same weights; modalkit also with its networks compiled in a `mode`."""
    latent, rows = recipe.model.latent_dim, len(batch)
    torch.manual_seed(0)
    first = MultimodalVAE(recipe.modalities, latent)

    def copy(memory_format: torch.memory_format) -> MultimodalVAE:
        model = MultimodalVAE(recipe.modalities, latent)
        model.load_state_dict(first.state_dict())
        return model.to(device).to(memory_format=memory_format)

    def reduced() -> torch.autocast | nullcontext[None]:
        return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

    engine = copy(torch.channels_last)

    def by_engine(plan: Plan, noise: Tensor) -> Tensor:
        with reduced():
            return -evaluate_plan(engine, batch, plan, noise, 1.0).elbo.sum() / rows

    plain = copy(torch.contiguous_format)  # as anyone would write it

    def by_loop(plan: Plan, noise: Tensor) -> Tensor:
        with reduced():
            return once_per_term_loss(plain, batch, plan, noise, 1.0)

    rate = recipe.train.learning_rate
    yield Contender("modalkit", engine, by_engine, rate, fused=True)
    if mode:
        compiled = copy(torch.channels_last)
        compiled.compile_networks(mode)

        def by_compiled(plan: Plan, noise: Tensor) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            with reduced():
                return -evaluate_plan(compiled, batch, plan, noise, 1.0).elbo.sum() / rows

        yield Contender(f"modalkit, compiled ({mode})", compiled, by_compiled, rate, fused=True)
    yield Contender("once per term", plain, by_loop, rate)
    if importlib.util.find_spec("multivae"):
        from multivae_mvae import MultiVae

        values = {n: s.unpack(batch.values[n]) for n, s in recipe.modalities.items()}
        theirs = MultiVae(copy(torch.contiguous_format), values).to(device)

        def by_multivae(plan: Plan, noise: Tensor) -> Tensor:
            subset = next((plan.given[i, 0] for i, t in enumerate(plan.terms) if t.startswith("random")), None)
            chosen = [] if subset is None else [n for n, m in zip(recipe.modalities, subset, strict=True) if m]
            with reduced():
                return theirs.loss(chosen)

        yield Contender("MultiVae", theirs, by_multivae, rate)


def measure(recipe: Recipe, device: torch.device, precision: str, rounds: int, mode: str | None) -> None:
    """Measure one recipe and print."""
    rows, latent = recipe.train.batch_size, recipe.model.latent_dim
    batch = random_batch(recipe, rows).to(device)
    planner, ways = Planner(recipe), list(contenders(recipe, device, precision, batch, mode))
    peaks = [matmul_peak(device, precision), convolution_peak(ways[0].model, device, precision, rows)]
    for number in range(rounds + 1):
        plan = planner.plan(batch.present, "benchmark", number, 0)
        noise = torch.randn(len(plan.terms), rows, latent, device=device)
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            if number:
                way.seconds.append(way.step(plan, noise))
            else:  # the first also warms up
                with FlopCounterMode(display=False) as counter:
                    way.step(plan, noise)
                way.flops = counter.get_total_flops()
    for way in ways:
        way.megabytes = peak_memory(lambda way=way: way.step(plan, noise), device)  # type: ignore[misc]
    after = [matmul_peak(device, precision), convolution_peak(ways[0].model, device, precision, rows)]
    matmul, convolution = (max(pair) for pair in zip(peaks, after, strict=True))
    print(
        f"\n{Path(recipe.data.path).name}: {len(recipe.modalities)} modalities, {rows} rows, {rounds} rounds, "
        f"{precision} on {device}, {torch.get_num_threads()} threads; peaks: matrix products {matmul / 1e9:.0f} "
        f"GFLOP/s, convolutions {convolution / 1e9:.0f} GFLOP/s"
    )
    print("| | ms a step | samples/s | ratio | GFLOP | of matmul peak | of convolution peak | memory, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for way in ways:
        median = statistics.median(way.seconds)
        ratio = statistics.median(a / b for a, b in zip(ways[0].seconds, way.seconds, strict=True))
        speed = way.flops / median
        of = f"{speed / convolution:.0%}" if convolution else "-"
        print(
            f"| {way.name} | {1e3 * median:.1f} | {rows / median:.0f} | {ratio:.3f} | {way.flops / 1e9:.2f} "
            f"| {speed / matmul:.0%} | {of} | {way.megabytes:.0f} |",
            flush=True,
        )


def random_batch(recipe: Recipe, rows: int) -> Batch:
    """Return complete rows of what the recipe's kinds can be: drawn from fresh decoders."""
    torch.manual_seed(1)
    model = MultimodalVAE(recipe.modalities, recipe.model.latent_dim).eval()
    values = {}
    with torch.no_grad():
        for name, schema in recipe.modalities.items():
            drawn = model.likelihood(name, torch.randn(rows, recipe.model.latent_dim)).sample()
            if schema.dtype == "uint8" and schema.event_shape:  # intensities between black and white
                drawn = torch.rand(drawn.shape)
            values[name] = schema.pack(drawn)
    return Batch(values, torch.ones(rows, len(values), dtype=torch.bool))


def best(work: Callable[[], object], device: torch.device, seconds: float = 0.5) -> float:
    """Return the fewest seconds that some work took, tried for a while."""
    work()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_peak(device: torch.device, precision: str) -> float:
    """Return the best FLOP/s of matrix products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    return 2 * n**3 / best(lambda: a @ b, device)


def convolution_peak(model: nn.Module, device: torch.device, precision: str, rows: int) -> float:
    """Return the best FLOP/s of the model's own convolutions, each alone, forward and backward; 0 if it has none."""
    shapes: dict[tuple[object, ...], tuple[nn.Module, Tensor]] = {}

    def seen(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        shapes[(type(layer), *layer.weight.shape, *inputs[0].shape[1:])] = layer, inputs[0]  # type: ignore[misc]

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_pre_hook(seen) for layer in layers]
    with torch.no_grad():
        for name, schema in model.schemas.items():  # type: ignore[union-attr]
            if len(schema.event_shape) == 3:
                model.encoders[name](torch.rand(rows, *schema.event_shape, device=device))  # type: ignore[index,operator]
                model.decoders[name](torch.randn(rows, model.latent_dim, device=device))  # type: ignore[index,operator]
    for hook in hooks:
        hook.remove()
    peak = 0.0
    for layer, inputs in shapes.values():
        inputs = inputs.contiguous(memory_format=torch.channels_last).requires_grad_()

        def both(layer: nn.Module = layer, inputs: Tensor = inputs) -> None:
            reduced = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
            with reduced:
                output = layer(inputs)
            output.backward(output.detach())
            inputs.grad = layer.weight.grad = None  # type: ignore[assignment]

        with FlopCounterMode(display=False) as counter:
            both()
        peak = max(peak, counter.get_total_flops() / best(both, device, 0.2))
    return peak


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Return by how many megabytes memory rises above what is held between steps."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    held = _status("VmRSS")
    work()
    return (_status("VmHWM") - held) / 1e3


def _status(key: str) -> int:
    """Return a figure of this process, in kilobytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{key}:")[1].split()[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=PAPER, help=f"by default {', '.join(PAPER)}")
    parser.add_argument("--rounds", type=int, help="turns that are counted; more for small recipes by default")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--compile", help="also modalkit with its networks compiled, in this mode of torch.compile")
    arguments = parser.parse_args()
    for name in arguments.recipes:
        recipe = load_recipe(name if Path(name).is_file() else Path("recipes", f"{name}.yaml"))
        large = sum(len(s.event_shape) == 3 and min(s.event_shape[1:]) >= 64 for s in recipe.modalities.values())
        rounds = arguments.rounds or (7 if large else 21)
        measure(recipe, arguments.device, arguments.precision, rounds, arguments.compile)


if __name__ == "__main__":
    main()
