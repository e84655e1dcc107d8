"""A server under thousands of requests: none is lost, no slot stays taken, and memory stays flat.

A fifth of the requests is cancelled by closing the connection, a tenth is malformed. At the end the server must answer
at once and have no request left. Then it is killed and started again, and must answer at once.

Run: python -m bench.suites.soak --help
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from bench.common.http_client import Connection
from edgekiln.runtimes.threads import available_processors

PORT = 18090
TEXT = (Path(__file__).parents[1] / "texts" / "tide_mill.txt").read_text(encoding="utf-8")
MALFORMED = (
    b"{",
    b"[1, 2]",
    b'{"prompt": 5}',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "temperature": "hot"}',
    b'{"prompt": "\xff"}',
    b'{"prompt": "a", "n": 1e9}',
    b"{}",
)


def start(engine: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start the server, and wait until it answers."""
    command = [sys.executable, "-m", "edgekiln", "serve", engine, "--port", PORT, "--threads", threads, "--queue", 1000]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    while True:
        try:
            if b" 200 " in asyncio.run(get("/health"))[:40]:
                return process
        except OSError:
            pass
        if process.poll() is not None:
            raise SystemExit("the server did not start")
        time.sleep(0.05)


async def get(path: str) -> bytes:
    """The answer to a GET request, with its head."""
    return await send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())


async def send(request: bytes) -> bytes:
    """The answer to a request that asks to close the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def post(body: bytes) -> bytes:
    """A POST request to /v1/completions."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def one(kind: str, generator: random.Random) -> str:
    """Send a request; gives what came of it."""
    if kind == "malformed":
        status = (await send(post(generator.choice(MALFORMED))))[9:12]
        return "refused" if status in (b"400", b"422") else f"malformed: {status.decode()}"
    first = generator.randrange(len(TEXT) - 400)
    body: dict[str, Any] = {
        "prompt": TEXT[first : first + generator.randrange(20, 300)],
        "max_tokens": generator.randrange(1, 24),
        "temperature": generator.choice([0, 0.8]),
        "ignore_eos": True,
    }
    if kind == "cancelled":
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(post(json.dumps({**body, "stream": True, "max_tokens": 500}).encode()))
        if generator.random() < 0.7:
            await reader.readline()
            await asyncio.sleep(generator.random() * 0.3)
        writer.close()
        return "cancelled"
    connection = await Connection.open(PORT)
    sample = await connection.complete(body)
    connection.close()
    return "complete" if sample.tokens == body["max_tokens"] else f"{sample.tokens} tokens of {body['max_tokens']}"


def rss_mb(pid: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def soak(pid: int, count: int, clients: int, seed: int) -> tuple[Counter[str], list[float]]:
    """Send `count` requests from so many clients; gives what came of them, and memory at each hundredth of them."""
    generator = random.Random(seed)
    kinds = ["cancelled"] * (count // 5) + ["malformed"] * (count // 10)
    kinds += ["complete"] * (count - len(kinds))
    generator.shuffle(kinds)
    found: Counter[str] = Counter()
    memory: list[float] = []

    async def client() -> None:
        while kinds:
            found[await one(kinds.pop(), generator)] += 1
            if found.total() % max(1, count // 100) == 0:
                memory.append(rss_mb(pid))

    await asyncio.gather(*(client() for _ in range(clients)))
    return found, memory


async def running() -> int:
    """Requests that run or wait, by /metrics."""
    text = (await get("/metrics")).decode()
    lines = [line for line in text.splitlines() if line.startswith(("edgekiln_running", "edgekiln_waiting"))]
    return round(sum(float(line.rpartition(" ")[2]) for line in lines))


@click.command()
@click.argument("engine", type=click.Path(path_type=Path, exists=True))
@click.option("--requests", "count", type=int, default=10000, show_default=True)
@click.option("--clients", type=int, default=24, show_default=True)
@click.option("--threads", type=int, default=available_processors(), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(*, engine: Path, count: int, clients: int, threads: int, seed: int) -> None:
    """Soak a server of ENGINE, and fail unless all is well."""
    process = start(engine, threads)
    try:
        begin = time.perf_counter()
        found, memory = asyncio.run(soak(process.pid, count, clients, seed))
        seconds = time.perf_counter() - begin
        time.sleep(1)
        left = asyncio.run(running())
        process.kill()
        process.wait()
        begin = time.perf_counter()
        process = start(engine, threads)
        restart = time.perf_counter() - begin
        again = asyncio.run(one("complete", random.Random(seed)))
    finally:
        process.kill()
        process.wait()
    fifth = max(1, len(memory) // 5)
    after, end = statistics.median(memory[fifth : 2 * fifth] or memory), statistics.median(memory[-fifth:])
    click.echo(f"{count} requests in {seconds:.0f} s: {dict(found)}")
    click.echo(f"left at the end: {left}; started again in {restart:.1f} s after a kill, and then: {again}")
    click.echo(f"resident memory: {after:.0f} MB after a fifth, {end:.0f} MB at the end ({end / after - 1:+.1%})")
    expected = {"complete": count - count // 5 - count // 10, "cancelled": count // 5, "refused": count // 10}
    if dict(found) != {name: each for name, each in expected.items() if each} or left or again != "complete":
        raise SystemExit("something was lost")
    if end > 1.05 * after:
        raise SystemExit("memory grew")


if __name__ == "__main__":
    main()
