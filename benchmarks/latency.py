"""How long a recommendation takes over gRPC, against what gRPC alone costs.

    python -m benchmarks.latency [--saved_models saved_models]

Asks the model's own warm-up request of `recommend`, one shopper at a time, at several numbers of askers, and an
echo signature behind the same server (the floor: gRPC, protos, threads, no model). Servers run in their own process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from benchmarks.common import LESS, Comparison, parser, positive, show, start_log
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


def main(argv: Optional[Sequence[str]] = None) -> list[Comparison]:
    """Prints the table; returns its rows."""
    made = parser(__doc__)
    made.add_argument("--saved_models", type=Path, default=Path("saved_models"))
    made.add_argument("--name", default="tfmm")
    made.add_argument("--concurrency", type=positive, nargs="+", default=[1, 4], help="askers at once")
    made.add_argument("--requests", type=positive, default=500, help="at most, a round")
    made.add_argument("--seconds", type=float, default=10.0, help="at most, a round")
    made.add_argument("--op_threads", type=positive, help="cores that one operation may use; all where left out")
    options = made.parse_args(argv)
    start_log()
    asked = one_shopper(options.saved_models, options.name)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        write_echo(Path(scratch))
        waiting = ServerOptions(poll_seconds=3600)
        echo = servers.enter_context(served(Path(scratch), "echo", waiting, options.op_threads))
        model = servers.enter_context(served(options.saved_models, options.name, waiting, options.op_threads))
        for concurrency in options.concurrency:
            load = LoadOptions(concurrency, options.requests, options.seconds)
            pairs = [
                (
                    load_test(model, [asked], name=options.name, options=load),
                    load_test(echo, [{"item_ids": np.array([b"item"], object)}], name="echo", options=load),
                )
                for _ in range(options.rounds)
            ]
            rows += compare(concurrency, pairs)
    show("Latency of a recommendation over gRPC", rows)
    return rows


def compare(concurrency: int, pairs: Sequence[tuple[Load, Load]]) -> list[Comparison]:
    """Returns p50, p90 and p99 of the model and of the echo, and answers a second.

    Raises:
        RuntimeError: a request failed, so that the figures would not be those of answers.
    """
    failed = [str(load) for pair in pairs for load in pair if load.errors]
    if failed:
        raise RuntimeError(f"Expected answers to all requests, got errors: {failed[0]}.")
    names = ("recommend, one shopper a request", "echo behind the same server (no model)")
    asking = f"{concurrency} asker{'s' if concurrency > 1 else ''}"
    rows = []
    for rank in (50, 90, 99):
        values = [[load.percentile(rank) for load in loads] for loads in zip(*pairs)]
        rows.append(Comparison(f"p{rank}, {asking}", "ms", *names, values[0], values[1], LESS))
    values = [[load.per_second for load in loads] for loads in zip(*pairs)]
    return [*rows, Comparison(f"rate, {asking}", "answers/s", *names, values[0], values[1])]


if __name__ == "__main__":
    main()
