"""`cotcli model verify`: are the installed files those that were installed?"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotcli.cli.output import OutputOptions
from cotcli.cli.run import say
from cotcli.cli.transfer import Bars, make_bars
from cotcli.errors import ModelError
from cotcli.files import checksum
from cotcli.install import mmproj_beside, read_record
from cotcli.registry import ResolvedModel, how_to_install_again, installed, resolve, traces
from cotcli.specs import ModelSpec, specs


@dataclass
class _Check:
    """One pair, and what is wrong with it; `known` is whether there is a checksum to compare with."""

    spec: ModelSpec
    quant: str
    language: Path
    known: bool = True
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.problems:
            return "broken: " + "; ".join(self.problems)
        return "ok" if self.known else "unknown: there is no record of its checksums"

    def to_json(self) -> dict[str, Any]:
        ok = None if not self.known and not self.problems else not self.problems
        return {
            "name": self.spec.name,
            "quant": self.quant,
            "language": str(self.language),
            "ok": ok,
            "problems": self.problems,
        }


def verify(name: str | None, *, json: bool, quiet: bool) -> int:
    """Checks one model, or all, and prints what it finds; the exit code."""
    bars = make_bars(OutputOptions(json=json, quiet=quiet))
    try:
        checks = [_check(target, bars) for target in _targets(name)]
    finally:
        if bars is not None:
            bars.stop(for_good=True)
    if json:
        from cotcli.render.jsonl import write_json

        write_json(sys.stdout, [check.to_json() for check in checks])
    else:
        for check in checks:
            print(f"{check.spec.name}:{check.quant}  {check.verdict}")
    broken = [check for check in checks if check.problems]
    if not broken:
        return 0
    error = ModelError(
        f"{', '.join(f'{check.spec.name}:{check.quant}' for check in broken)} cannot be relied on",
        f"Install it again: {how_to_install_again(broken[0].spec, broken[0].quant)}",
    )
    say(error)
    return error.exit_code


def _targets(name: str | None) -> list[ResolvedModel | _Check]:
    """Pairs that are there, and those of which only a record or one half is left."""
    base, _, quant = (name or "").partition(":")
    names = [base] if name else sorted({*specs(), *(pair.spec.name for pair in installed())})
    pairs = [pair for pair in installed() if pair.spec.name in names and quant.upper() in ("", pair.quant.upper())]
    there = {pair.language for pair in pairs}
    halves = [
        _Check(specs().get(one) or ModelSpec(one), trace.quant, trace.language)
        for one in names
        for trace in traces(one, quant or None)
        if trace.language not in there
        and any(path in trace.paths for path in (trace.language, mmproj_beside(trace.language)))
    ]
    for half in halves:
        half.problems += [
            f"{path.name} is missing" for path in (half.language, mmproj_beside(half.language)) if not path.is_file()
        ]
    if name and not pairs and not halves:
        return [resolve(name)]
    return [*pairs, *halves]


def _check(target: ResolvedModel | _Check, bars: Bars | None) -> _Check:
    if isinstance(target, _Check):
        return target
    check = _Check(target.spec, target.quant, target.language)
    wanted = {target.language: target.sha256, target.mmproj: target.mmproj_sha256}
    if target.sha256 is None:
        _compare_record(check, target)
        return check
    total, done = target.size, 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        if bars is not None:
            bars.show("verify", f"Checking {target.spec.name}:{target.quant}", done, total)

    for path, sha256 in wanted.items():
        if checksum(path, on_bytes=on_bytes) != sha256:
            check.problems.append(f"{path.name} has other bytes than it had")
    return check


def _compare_record(check: _Check, target: ResolvedModel) -> None:
    """A pair without usable checksums: there is no record, or it is broken or about files of another size."""
    check.known = False
    try:
        record = read_record(target.language)
    except ModelError as error:
        check.problems.append(error.message)
        return
    if record is not None:
        size = target.language.stat().st_size
        check.problems.append(f"{target.language.name} has {size} bytes instead of {record.language.bytes}")
