"""OpenVINO GenAI's ContinuousBatchingPipeline under load: clients in the same process, without HTTP.

Usage: `python -m bench.engines.openvino_batching MODEL_PATH THREADS STREAMS`. One line of JSON per load on stdin, one
with the times of its answers on stdout.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai

CACHE_GB = 4


class Batching:
    """The pipeline, with the defaults of OpenVINO for everything but threads, sequences and the size of the cache."""

    def __init__(self, path: str, threads: int, streams: int) -> None:
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.max_num_seqs = streams
        scheduling.cache_size = CACHE_GB
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            path, scheduling, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        self._next = 0

    def load(self, prompts: list[list[int]], generated: int, streams: int) -> dict[str, Any]:
        """Answer prompts from so many clients, each the next one when its last one has ended.

        Returns:
            The seconds of all, and for each answer when it began and when its tokens came.
        """
        config = openvino_genai.GenerationConfig()
        config.do_sample, config.ignore_eos, config.apply_chat_template = False, True, False
        config.max_new_tokens = config.min_new_tokens = generated
        waiting, running, samples = list(reversed(prompts)), [], []
        start = time.perf_counter()
        while waiting or running:
            while waiting and len(running) < streams:
                ids = openvino.Tensor(np.array([waiting.pop()], np.int64))
                sample = {"start": time.perf_counter(), "arrivals": []}
                running.append((self._pipeline.add_request(self._next, ids, config), sample))
                self._next += 1
            self._pipeline.step()
            now, still = time.perf_counter(), []
            for handle, sample in running:
                while handle.can_read():
                    for output in handle.read().values():
                        sample["arrivals"] += [now] * len(output.generated_ids)
                if len(sample["arrivals"]) < generated:
                    still.append((handle, sample))
                else:
                    samples.append(sample)
            running = still
        return {"seconds": time.perf_counter() - start, "samples": samples}


def main() -> None:
    """Load the model and answer."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    pipeline = Batching(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"version": openvino_genai.__version__}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(pipeline.load(**json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
