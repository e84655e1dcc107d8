"""The engines of a server: loaded when a request names them, unloaded when another needs their memory."""

import asyncio
import contextlib
import functools
import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekiln.api import Engine
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Runtime
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.scheduler.scheduler import Scheduler
from edgekiln.runtimes.scheduler.sizing import most_tokens, sized_options, slot_bytes
from edgekiln.runtimes.scheduler.stats import SchedulerStats
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.serve.errors import ApiError
from edgekiln.serve.log import Log

OpenFunction = Callable[[Path], Engine]


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that answers requests.

    Attributes:
        name: by which requests name it.
        engine: its manifest, runtime and tokenizer.
        scheduler: of its answers.
        most_tokens: of a prompt and its answer, that fit into the engine and into the limit on its KV cache.
    """

    name: str
    engine: Engine
    scheduler: Scheduler
    most_tokens: int

    @property
    def runtime(self) -> Runtime:
        """The runtime."""
        return self.engine.runtime

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self.engine.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return self.scheduler.max_length


class _Entry:
    """An engine directory, loaded or not."""

    def __init__(self, name: str, path: Path, manifest: EngineManifest, nbytes: int) -> None:
        self.name = name
        self.path = path
        self.manifest = manifest
        self.nbytes = nbytes
        self.created = int((path / "engine.json").stat().st_mtime)
        self.loaded: LoadedEngine | None = None
        self.users = 0
        self.last_used = 0.0


class EnginePool:
    """The engines that requests may name."""

    def __init__(
        self,
        engines: Sequence[tuple[str, Path]],
        options: SchedulerOptions,
        memory: int | None,
        open_engine: OpenFunction,
        log: Log,
    ) -> None:
        """Read the manifests; `load_first` loads the first engine.

        Args:
            engines: name and directory of each.
            options: of the scheduler that each gets.
            memory: bytes of weights and KV caches of the engines that are loaded, at most; None: all may be loaded.
            open_engine: loads an engine directory.
            log: told of engines that are loaded and unloaded.

        Raises:
            EngineError: a directory is missing or damaged.
            RequestError: a name occurs twice, or an engine alone needs more than `memory`.
        """
        self._options = options
        self._memory = memory
        self._open = open_engine
        self._log = log
        self._entries: dict[str, _Entry] = {}
        for name, path in engines:
            if name in self._entries:
                raise RequestError(f"two engines are named {name}: give one another name, as in other={path}")
            manifest = read_manifest(path, verify=False)
            entry = _Entry(name, path, manifest, _engine_bytes(path, manifest, options))
            if memory is not None and entry.nbytes > memory:
                raise RequestError(
                    f"{path} needs {_mib(entry.nbytes)} MiB for weights and KV cache, over the {_mib(memory)} MiB of "
                    "--memory: raise it, or lower --kv-memory or --slots"
                )
            self._entries[name] = entry
        self._changing = asyncio.Lock()

    def load_first(self) -> None:
        """Load the first engine, so that its errors show at the start."""
        self._load(next(iter(self._entries.values())))

    def models(self) -> list[tuple[str, int]]:
        """Name and Unix time of the build of each engine."""
        return [(entry.name, entry.created) for entry in self._entries.values()]

    def is_loaded(self, name: str) -> bool:
        """Whether an engine is loaded."""
        return self._entry(name).loaded is not None

    @property
    def most_answers(self) -> int:
        """Answers that an engine takes at a time: those in slots, and those that wait."""
        return self._options.slots + self._options.max_waiting

    def max_length(self, name: str | None) -> int:
        """Tokens of a prompt and its answer, at most, of an engine, loaded or not.

        Raises:
            ApiError: 404 there is no such engine.
        """
        return self._options.longest_sequence(self._entry(name).manifest.architecture.max_length)

    def stats(self) -> list[tuple[str, SchedulerStats]]:
        """Name and statistics of the engines that are loaded. From any thread."""
        loaded = [entry.loaded for entry in list(self._entries.values())]
        return [(each.name, each.scheduler.stats()) for each in loaded if each is not None]

    def _entry(self, name: str | None) -> _Entry:
        if name is None:
            return next(iter(self._entries.values()))
        if name not in self._entries:
            names = ", ".join(self._entries)
            raise ApiError(404, f"there is no model {name!r:.80}: this server has {names}", "model", "model_not_found")
        return self._entries[name]

    @contextlib.asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[LoadedEngine]:
        """An engine, which stays loaded in the block; loaded if it is not. None is the first engine.

        Raises:
            ApiError: 404 there is no such engine; 503 those that are in use leave no memory for it.
            EdgekilnError: it cannot be loaded.
        """
        entry = self._entry(name)
        entry.users += 1  # keeps other requests from unloading it
        try:
            if entry.loaded is None:
                await self._ensure_loaded(entry)
            assert entry.loaded is not None
            yield entry.loaded
        finally:
            entry.users -= 1
            entry.last_used = time.monotonic()

    async def _ensure_loaded(self, entry: _Entry) -> None:
        async with self._changing:
            if entry.loaded is not None:
                return
            await self._make_room(entry)
            await asyncio.to_thread(self._load, entry)

    async def _make_room(self, entry: _Entry) -> None:
        if self._memory is None:
            return
        loaded = sorted((e for e in self._entries.values() if e.loaded is not None), key=lambda e: e.last_used)
        idle = [other for other in loaded if other.users == 0]
        over = sum(other.nbytes for other in loaded) + entry.nbytes - self._memory
        if over > sum(other.nbytes for other in idle):
            raise ApiError(
                503,
                f"the engines in use leave no memory for {entry.name}: try again later",
                code="no_memory",
                headers={"Retry-After": "10"},
            )
        for other in idle:
            if over <= 0:
                return
            over -= other.nbytes
            await asyncio.to_thread(self._unload, other)

    def _load(self, entry: _Entry) -> None:
        start = time.perf_counter()
        engine = self._open(entry.path)
        nbytes = functools.partial(slot_bytes, entry.manifest)
        options = sized_options(entry.manifest, self._options)
        scheduler = Scheduler(engine.runtime, engine.tokenizer, options, nbytes)
        most = most_tokens(nbytes, options.kv_memory, scheduler.max_length)
        entry.loaded = LoadedEngine(entry.name, engine, scheduler, most)
        # Collections during answers visit all objects of modules and engines, for tens of milliseconds, if not frozen.
        gc.collect()
        gc.freeze()
        self._log.write("engine_loaded", model=entry.name, seconds=round(time.perf_counter() - start, 3))

    def _unload(self, entry: _Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            loaded.scheduler.close()
            del loaded
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._log.write("engine_unloaded", model=entry.name)

    def close(self) -> None:
        """End all answers and unload all engines."""
        for entry in self._entries.values():
            self._unload(entry)


def _engine_bytes(path: Path, manifest: EngineManifest, options: SchedulerOptions) -> int:
    """Bytes that an engine needs at most: its files, and a KV cache of all slots."""
    files = sum((path / name).stat().st_size for name in manifest.files)
    cache = options.slots * slot_bytes(manifest, options.longest_sequence(manifest.architecture.max_length))
    return files + (cache if options.kv_memory is None else min(cache, options.kv_memory))


def _mib(nbytes: int) -> int:
    return -(-nbytes // (1 << 20))
