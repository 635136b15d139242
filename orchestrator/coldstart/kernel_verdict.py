"""What becomes of a file's GPU code on a platform."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.coldstart.compatibility import Fit, Outcome, Platform, best_fit
from orchestrator.coldstart.elf import Role
from orchestrator.coldstart.fatbin import Entry, Kind
from orchestrator.coldstart.gpu_target import UNKNOWN_MINOR, shown_version
from orchestrator.coldstart.jit_cost import jit_seconds
from orchestrator.coldstart.kernel_words import by_target, entry_target, words
from orchestrator.coldstart.kernels import FileAudit, Module


@dataclass(frozen=True, slots=True)
class TargetCount:
    """One line of a file's listing.

    Attributes:
        role: how the code gets to the driver.
        kind: ``ptx``, ``cubin``, ``lto_ir`` or ``other``.
        target: ``sm_120``, ``compute_86``.
        version: of PTX, or of the machine code's format.
        bits: 32 or 64.
        compression: how it is stored.
        count: of entries.
        stored_bytes, size_bytes: of all of them, as stored and before compression.
    """

    role: str
    kind: str
    target: str
    version: str
    bits: int
    compression: str
    count: int
    stored_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How many modules end how."""

    native: int = 0
    jit: int = 0
    fails: int = 0

    @property
    def total(self) -> int:
        """All."""
        return self.native + self.jit + self.fails

    @classmethod
    def of(cls, fits: Iterable[Fit]) -> Tally:
        """Count."""
        counts = Counter(found.outcome for found in fits)
        return cls(counts[Outcome.NATIVE], counts[Outcome.JIT], counts[Outcome.FAILS])


@dataclass(frozen=True, slots=True)
class FileVerdict:
    """The verdict on a file.

    Attributes:
        path: of the file.
        outcome: jit where any of its modules is compiled first, fails where none runs; None where there is
            no GPU code to judge. A library that keeps its code as data is native where any of that is.
        text: the verdict in words, without the file's name.
        fixes: what helps.
        modules: of those that the program registers, how many end how.
        embedded: of those that the library keeps as data and loads by its own choice.
        jit_bytes: of PTX to compile, before compression, when all registered modules are used.
        jit_s: a rough time for it, seconds on one core.
        targets: the listing.
        problems: what could not be read.
        size: of the file, bytes.
    """

    path: str
    outcome: Outcome | None
    text: str
    fixes: tuple[str, ...]
    modules: Tally
    embedded: Tally
    jit_bytes: int
    jit_s: float
    targets: tuple[TargetCount, ...]
    problems: tuple[str, ...]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "jit_s": round(self.jit_s, 1)}


def judge(audit: FileAudit, platform: Platform) -> FileVerdict:
    """Judge one file; pure.

    Args:
        audit: what it holds.
        platform: where it is to run; where its runtime is not known, the one that the file needs counts.
    """
    if platform.runtime is None and audit.runtime is not None:
        platform = replace(platform, runtime=(audit.runtime, UNKNOWN_MINOR))
    own = _fits(audit.modules, platform, (Role.REGISTERED, Role.FILE))
    inputs = [module for module in audit.modules if module.role is Role.LINK_INPUT]
    if audit.linked:
        pool = [entry for module in inputs for entry in module.container.entries]
        own = [_linked_again(found, pool, platform) for found in own]
    embedded = _fits(audit.modules, platform, (Role.EMBEDDED,))
    unlinked = bool(inputs) and not own and not embedded
    if unlinked:
        own = _fits(inputs, platform, (Role.LINK_INPUT,))
    modules, resources = Tally.of(own), Tally.of(embedded)
    outcome = _outcome(modules, resources)
    jit_bytes = sum(found.entry.size_bytes for found in own if found.outcome is Outcome.JIT)
    related = _related(audit, platform)
    text, fixes = words(platform, outcome, own, embedded, jit_bytes, related=related, unlinked=unlinked)
    return FileVerdict(
        path=audit.path,
        outcome=outcome,
        text=text,
        fixes=fixes,
        modules=modules,
        embedded=resources,
        jit_bytes=jit_bytes,
        jit_s=jit_seconds(jit_bytes),
        targets=_listing(audit.modules),
        problems=audit.problems,
        size=audit.size,
    )


def _fits(modules: Iterable[Module], platform: Platform, roles: Sequence[Role]) -> list[Fit]:
    # The entries of a container are versions of one module: where one is empty, all are.
    filled = (
        module.container.entries
        for module in modules
        if module.role in roles and not any(entry.empty for entry in module.container.entries)
    )
    found = (best_fit(entries, platform) for entries in filled)
    return [one for one in found if one is not None]


def _linked_again(found: Fit, pool: Sequence[Entry], platform: Platform) -> Fit:
    """What a module of linked code comes to where only the inputs of its link fit: the driver links again."""
    if found.outcome is not Outcome.FAILS:
        return found
    again = best_fit(pool, platform)
    return again if again is not None and again.outcome is not Outcome.FAILS else found


def _related(audit: FileAudit, platform: Platform) -> bool:
    return any(
        entry.kind is Kind.CUBIN and entry.target.major == platform.gpu.major
        for module in audit.modules
        if module.role is not Role.EMBEDDED
        for entry in module.container.entries
    )


def _outcome(modules: Tally, embedded: Tally) -> Outcome | None:
    if not modules.total and not embedded.total:
        return None
    if modules.jit or modules.native:
        return Outcome.JIT if modules.jit else Outcome.NATIVE
    if embedded.jit or embedded.native:
        return Outcome.NATIVE if embedded.native else Outcome.JIT
    return Outcome.FAILS


def _listing(modules: Iterable[Module]) -> tuple[TargetCount, ...]:
    kinds: dict[tuple[object, ...], list[Entry]] = {}
    roles: dict[tuple[object, ...], Role] = {}
    for module in modules:
        for entry in module.container.entries:
            target = entry.target
            key = (
                *(module.role, entry.kind, target.major, target.minor, target.variant),
                *(entry.version, entry.bits, entry.compression),
            )
            kinds.setdefault(key, []).append(entry)
            roles[key] = module.role
    ordered = sorted(
        kinds,
        key=lambda key: (roles[key], kinds[key][0].kind, by_target(kinds[key][0]), kinds[key][0].version),
    )
    return tuple(_line(roles[key], kinds[key]) for key in ordered)


def _line(role: Role, entries: Sequence[Entry]) -> TargetCount:
    first = entries[0]
    return TargetCount(
        role=str(role),
        kind=first.kind.name.lower(),
        target=entry_target(first),
        version=shown_version(first.version),
        bits=first.bits,
        compression=str(first.compression),
        count=len(entries),
        stored_bytes=sum(entry.stored_bytes for entry in entries),
        size_bytes=sum(entry.size_bytes for entry in entries),
    )
