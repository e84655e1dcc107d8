"""Try the causal model types of transformers, and write docs/families.md: see `make families`.

Exits with 1 if an engine is wrong or edgekiln fails without one of its errors.
"""

import argparse
import sys
from pathlib import Path

import transformers

from families import report
from families.check import Outcome
from families.sweep import model_types, sweep


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m families", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TYPE", help="model types to try; all by default")
    parser.add_argument("--workers", type=int, default=1, help="model types to try at the same time (default: 1)")
    parser.add_argument("--out", type=Path, help="write the report into this file; with TYPE, replace their rows in it")
    parser.add_argument("--compare", type=Path, help="print what differs from this report")
    parser.add_argument("--command", default="make families", help="command to name in the report")
    arguments = parser.parse_args()
    known = model_types()
    if unknown := sorted(set(arguments.names) - set(known)):
        parser.error(f"transformers {transformers.__version__} has no causal model type {', '.join(unknown)}")
    if arguments.names and arguments.out and arguments.out.exists():
        version = report.version(arguments.out.read_text())
        if version != transformers.__version__:
            parser.error(
                f"{arguments.out} is of transformers {version}, not {transformers.__version__}: leave out TYPE"
            )
    names = arguments.names or known
    outcomes: dict[str, Outcome] = {}
    for name, outcome in sweep(names, arguments.workers):
        outcomes[name] = outcome
        print(f"{len(outcomes)}/{len(names)} {name}: {outcome.kind}: {outcome.detail}", flush=True)
        if outcome.log:
            print(outcome.log, file=sys.stderr, flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in report.totals(outcomes).items() if count))
    if arguments.compare:
        old = report.read(arguments.compare.read_text())
        shown = {name: outcome for name, outcome in old.items() if name in outcomes or not arguments.names}
        print("\n".join(report.changes(shown, outcomes)) or f"nothing differs from {arguments.compare}")
    if arguments.out:
        kept = report.read(arguments.out.read_text()) if arguments.names and arguments.out.exists() else {}
        text = report.write(kept | outcomes, transformers.__version__, arguments.command)
        arguments.out.write_text(text)
    return any(outcome.kind in ("wrong", "traceback") for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
