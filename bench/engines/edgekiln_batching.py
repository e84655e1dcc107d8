"""edgekiln's scheduler under load: clients in the same process, without HTTP.

Usage: `python -m bench.engines.edgekiln_batching ENGINE THREADS STREAMS`. One line of JSON per load on stdin, one with
the times of its answers on stdout.
"""

import json
import os
import sys
import time
from queue import SimpleQueue
from typing import Any

import numpy as np

import edgekiln
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.scheduler.scheduler import Scheduler


class Batching:
    """The scheduler with its defaults for everything but threads and slots."""

    def __init__(self, path: str, threads: int, streams: int) -> None:
        engine = edgekiln.Engine.open(path, threads=threads)
        self._scheduler = Scheduler(engine.runtime, engine.tokenizer, SchedulerOptions(slots=streams))

    def load(self, prompts: list[list[int]], generated: int, streams: int) -> dict[str, Any]:
        """Answer prompts from so many clients, each the next one when its last one has ended.

        Returns:
            The seconds of all, and for each answer when it began and when its tokens came.
        """
        options = GenerateOptions(generated, ignore_eos=True)
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        samples: list[dict[str, Any]] = []
        waiting = list(reversed(prompts))
        start = time.perf_counter()

        def submit() -> None:
            sample: dict[str, Any] = {"start": time.perf_counter(), "arrivals": []}

            def end(error: BaseException | None) -> None:
                samples.append(sample)
                if waiting:
                    submit()
                ended.put(error)

            arrived = sample["arrivals"]
            ids = np.array(waiting.pop(), np.int64)
            self._scheduler.submit(ids, options, lambda _: arrived.append(time.perf_counter()), end)

        for _ in range(min(streams, len(prompts))):
            submit()
        for _ in prompts:
            if (error := ended.get()) is not None:
                raise error
        return {"seconds": time.perf_counter() - start, "samples": samples}


def main() -> None:
    """Load the engine and answer."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    batching = Batching(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"version": edgekiln.__version__}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(batching.load(**json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
