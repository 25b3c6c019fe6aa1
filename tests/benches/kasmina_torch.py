"""What PyTorch takes for the pass of a Kasmina layer, on the CPU.

    python tests/benches/kasmina_torch.py [--threads N] [--ours rows.json]

The same shapes and mixes as `cargo bench --bench kasmina`: adapters of rank 16, y = x + alpha * up(gelu(down(x))).
Two forms are measured, because they are what one would write:

- `batched`: the computing seeds' chunks gathered, two batched matrix products over all seeds, scattered back;
- `compiled`: the same through torch.compile, where a C++ compiler is at hand.

Time is CPU time of all threads beside wall time; eight pairs of buffers are used in turn, as in our bench. With --ours,
the JSON that `gavel kasmina bench --json` prints, each row stands beside ours with the ratio.
"""

import argparse
import json
import shutil
import statistics
import sys
import time

import torch

SHAPES = [(1024, 4096, 1024), (8192, 4096, 1024), (1024, 4096, 64)]
MIXES = [("dormant", 0.0), ("30 %", 0.3), ("all", 1.0)]
RANK, PAIRS, ALPHA = 16, 8, 0.5


def layer(width: int, seeds: int, share: float, generator: torch.Generator):
    """Weights of the computing seeds, and the function that runs the layer."""
    chunk = width // seeds
    computing = (torch.rand(seeds, generator=generator) < share).nonzero().flatten()
    count = len(computing)
    down = torch.randn(count, chunk, RANK, generator=generator) * (2 / chunk) ** 0.5
    up = torch.randn(count, RANK, chunk, generator=generator) * 0.5 / chunk**0.5
    down_bias = torch.zeros(count, 1, RANK)
    up_bias = torch.zeros(count, 1, chunk)
    whole = count == seeds

    def grown(parts: torch.Tensor) -> torch.Tensor:
        hidden = torch.baddbmm(down_bias, parts, down)
        active = torch.nn.functional.gelu(hidden, approximate="tanh")
        return parts + ALPHA * torch.baddbmm(up_bias, active, up)

    def run(x: torch.Tensor, y: torch.Tensor) -> None:
        rows = x.shape[0]
        if count == 0:
            y.copy_(x)
            return
        chunks = x.view(rows, seeds, chunk)
        if whole:
            y.view(rows, seeds, chunk).copy_(grown(chunks.transpose(0, 1)).transpose(0, 1))
        else:
            y.copy_(x)
            parts = chunks.index_select(1, computing).transpose(0, 1)
            y.view(rows, seeds, chunk).index_copy_(1, computing, grown(parts).transpose(0, 1))

    return run


def measure(run, inputs, outputs, seconds: float):
    """Median milliseconds of a call: CPU of all threads, and wall."""
    run(inputs[0], outputs[0])
    busy, wall, begin = [], [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(busy) < 5:
        cpu, clock = time.process_time(), time.perf_counter()
        for x, y in zip(inputs, outputs):
            run(x, y)
        busy.append((time.process_time() - cpu) * 1e3 / PAIRS)
        wall.append((time.perf_counter() - clock) * 1e3 / PAIRS)
    return statistics.median(busy), statistics.median(wall)


def ours_by_key(path):
    """Our passes without telemetry, by shape and mix."""
    if path is None:
        return {}
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    passes = [row for row in rows if row["what"] == "pass" and not row["telemetry"] and row["backend"] == "cpu"]
    key = lambda row: (row["shape"]["rows"], row["shape"]["width"], row["shape"]["seeds"], row["mix"])
    return {key(row): row for row in passes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    parser.add_argument("--ours", help="JSON of our rows, for the ratio")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first so many")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    ours = ours_by_key(options.ours)
    compiles = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    print(f"PyTorch {torch.__version__}, {options.threads} threads, compiler: {'yes' if compiles else 'none'}")
    for rows, width, seeds in SHAPES[: options.shapes]:
        inputs = [torch.randn(rows, width) for _ in range(PAIRS)]
        outputs = [torch.empty(rows, width) for _ in range(PAIRS)]
        for mix, share in MIXES:
            run = layer(width, seeds, share, torch.Generator().manual_seed(1))
            forms = [("batched", run)]
            if compiles and share > 0:
                forms.append(("compiled", torch.compile(run)))
            for name, form in forms:
                try:
                    busy, wall = measure(form, inputs, outputs, options.seconds)
                except Exception as error:  # torch.compile fails in many ways; the other rows still count
                    print(f"B{rows} H{width} S{seeds} {mix:<8} {name:<9} failed: {error}", file=sys.stderr)
                    continue
                row = ours.get((rows, width, seeds, mix))
                ratio = f"   ours {row['busy_ms']:8.2f} ms   {busy / row['busy_ms']:6.2f} x" if row else ""
                print(f"B{rows} H{width} S{seeds} {mix:<8} {name:<9} {busy:9.2f} ms CPU {wall:9.2f} ms wall{ratio}")


if __name__ == "__main__":
    main()
