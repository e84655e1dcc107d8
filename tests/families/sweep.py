"""Run `check` for many model types, each in a process of its own, so that none can end the sweep."""

import multiprocessing
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from families.check import Outcome, check

TIMEOUT = 600.0  # seconds a type, on a busy machine
MEMORY = 6 << 30  # bytes of data a type

# A server that has imported torch and transformers forks each process, which saves seconds of imports.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["families.check"])


def model_types() -> list[str]:
    """Every type of transformers that has a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def sweep(names: list[str], workers: int) -> Iterator[tuple[str, Outcome]]:
    """Check `names`, `workers` at a time; outcomes come in the order in which they are ready."""
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(check_apart, name): name for name in names}
        for future in as_completed(running):
            yield running[future], future.result()


def check_apart(name: str, timeout: float = TIMEOUT, memory: int = MEMORY) -> Outcome:
    """`check` in a process with a limit on its time in seconds and on its data in bytes."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(name, sender, memory), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            return Outcome("traceback", f"not ready after {timeout:.0f} s")
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        process.join()
        return Outcome("traceback", f"the process ended with exit status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _child(name: str, sender: Connection, memory: int) -> None:
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    torch.set_num_threads(1)
    # Libraries print warnings and progress; the report has what matters.
    silent = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silent, descriptor)
    sender.send(check(name))
