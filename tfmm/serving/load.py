"""How long answers take under a given number of askers: a bounded load test."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Callable

import numpy as np

from tfmm.serving.client import Client
from tfmm.serving.errors import ServingError
from tfmm.serving.queries import RECOMMEND


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How much to ask; whichever bound comes first ends it.

    Attributes:
        concurrency: askers, each of which waits for its answer before it asks again.
        requests: answers at most, warm-up not counted.
        seconds: at most.
        warm_up: requests that are not measured.
    """

    concurrency: int = 1
    requests: int = 1000
    seconds: float = 10.0
    warm_up: int = 20

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.requests < 1 or self.seconds <= 0 or self.warm_up < 0:
            raise ValueError(f"Expected positive bounds, got {self}.")


@dataclasses.dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        milliseconds: `[answers]` from asking to having the answer, ascending.
        seconds: from the first question to the last answer.
        errors: gRPC code -> how many requests ended so; these are not in `milliseconds`.
    """

    milliseconds: np.ndarray
    seconds: float
    errors: Mapping[str, int]

    def percentile(self, rank: float) -> float:
        """Returns the latency in ms that `rank` percent of the answers did not exceed (NaN without answers)."""
        if not len(self.milliseconds):
            return float("nan")
        return float(np.percentile(self.milliseconds, rank, method="inverted_cdf"))

    @property
    def per_second(self) -> float:
        """Answers per second over all askers."""
        return len(self.milliseconds) / self.seconds

    def __str__(self) -> str:
        ranks = "  ".join(f"p{rank} {self.percentile(rank):.2f} ms" for rank in (50, 90, 99))
        failed = f"  errors {dict(self.errors)}" if self.errors else ""
        return f"{len(self.milliseconds)} answers  {self.per_second:.0f}/s  {ranks}{failed}"


def measure(call: Callable[[int], object], options: LoadOptions = LoadOptions()) -> Load:  # noqa: B008  frozen
    """Returns the latencies of `call(number)`, made by `options.concurrency` threads at once."""
    for number in range(options.warm_up):
        call(number)
    numbers = itertools.count()  # next() on it is atomic
    times: list[list[float]] = [[] for _ in range(options.concurrency)]
    errors: Counter[str] = Counter()
    started = time.perf_counter()

    def ask(mine: list[float]) -> None:
        while (number := next(numbers)) < options.requests and time.perf_counter() - started < options.seconds:
            asked = time.perf_counter()
            try:
                call(number)
                mine.append(time.perf_counter() - asked)
            except ServingError as error:
                errors[error.code.name] += 1

    threads = [threading.Thread(target=ask, args=[mine]) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return Load(np.sort(np.concatenate([np.array(mine) for mine in times])) * 1e3, seconds, dict(errors))


def load_test(
    target: str,
    requests: Sequence[Mapping[str, np.ndarray]],
    *,
    name: str = "tfmm",
    signature: str = RECOMMEND,
    options: LoadOptions = LoadOptions(),  # noqa: B008  frozen
    allow_remote: bool = False,
) -> Load:
    """Returns how fast `target` ("host:port") answers `requests`, asked in turn.

    Raises:
        PermissionError: where `target` is another machine and `allow_remote` is not set.
    """
    if not allow_remote:
        _check_loopback(target)
    if not requests:
        raise ValueError("Expected at least one request to ask.")
    with Client(target, name=name, timeout=max(10.0, options.seconds)) as client:
        return measure(lambda number: client.predict(requests[number % len(requests)], signature=signature), options)


def _check_loopback(target: str) -> None:
    host = target.rsplit(":", 1)[0].strip("[]")
    addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise PermissionError(f"Expected this machine (127.0.0.1), got {target}: pass allow_remote where it is yours.")
