"""Measures how long a recommendation takes over gRPC, as a multiple of what gRPC alone costs in the same run.

python benchmarks/latency.py --saved_models saved_models

Asks the model's own warm-up request of `recommend`, one shopper at a time, at several numbers of askers, and an
echo signature behind the same server (the floor: gRPC, protos, threads, no model). Servers run in their own process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfmm.serving.load import Load, LoadOptions, load_test
from tfmm.serving.queries import RECOMMEND
from tfmm.serving.server import ServerOptions, serve
from tfmm.serving.versions import newest_version
from tfmm.serving.warmup import read_warmup


def write_echo(directory: Path) -> None:
    """Writes a model that returns the ids it is given."""
    module = tf.Module()
    module.echo = tf.function(
        lambda item_ids: {"item_ids": tf.identity(item_ids)}, [tf.TensorSpec([None], tf.string, "item_ids")]
    )
    tf.saved_model.save(module, str(directory / "echo" / "1"), signatures={RECOMMEND: module.echo})


def _serve(
    saved_models: str,
    name: str,
    options: ServerOptions,
    op_threads: int | None,
    channel: multiprocessing.connection.Connection,
) -> None:
    if op_threads:
        tf.config.threading.set_intra_op_parallelism_threads(op_threads)
    server = serve(Path(saved_models), name=name, port=0, options=options)
    channel.send(server.port)
    channel.recv()  # anything: stop
    server.stop(1.0)


@contextlib.contextmanager
def served(saved_models: Path, name: str, options: ServerOptions, op_threads: int | None) -> Iterator[str]:
    """Yields "host:port" of a server in another process."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    arguments = (str(saved_models), name, options, op_threads, theirs)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
    process.start()
    theirs.close()  # so that recv() ends with EOFError if the server dies before it listens
    try:
        yield f"127.0.0.1:{ours.recv()}"
        ours.send("stop")
    finally:
        process.join(10)
        process.terminate()


def one_shopper(saved_models: Path, name: str) -> Mapping[str, np.ndarray]:
    """Returns the first row of the model's own warm-up request of `serving_default`."""
    version = newest_version(saved_models / name)
    for signature, inputs in read_warmup(version):
        if signature in (RECOMMEND, "recommend"):
            return {key: array[:1] for key, array in inputs.items()}
    raise SystemExit(f"Expected a warm-up request of {RECOMMEND} in {version}; export the model again.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved_models", type=Path, default=Path("saved_models"))
    parser.add_argument("--name", default="tfmm")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--op_threads", type=int, default=None)
    arguments = parser.parse_args()
    asked = one_shopper(arguments.saved_models, arguments.name)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        write_echo(Path(scratch))
        options = ServerOptions(poll_seconds=3600)
        echo = servers.enter_context(served(Path(scratch), "echo", options, arguments.op_threads))
        model = servers.enter_context(served(arguments.saved_models, arguments.name, options, arguments.op_threads))
        table = Table("askers", "what", "answers/s", "p50 ms", "p90 ms", "p99 ms", "p50 / echo", "errors")
        table.columns[1].no_wrap = True
        for concurrency in arguments.concurrency:
            load = LoadOptions(concurrency, arguments.requests, arguments.seconds)
            floor = load_test(echo, [{"item_ids": np.array([b"item"], object)}], name="echo", options=load)
            full = load_test(model, [asked], name=arguments.name, options=load)
            add(table, concurrency, "echo", floor, floor)
            add(table, concurrency, "recommend", full, floor)
    Console().print(table)


def add(table: Table, concurrency: int, what: str, load: Load, floor: Load) -> None:
    figures = [f"{load.percentile(rank):.2f}" for rank in (50, 90, 99)]
    ratio = f"{load.percentile(50) / floor.percentile(50):.1f}x"
    table.add_row(str(concurrency), what, f"{load.per_second:.0f}", *figures, ratio, str(dict(load.errors) or ""))


if __name__ == "__main__":
    main()
