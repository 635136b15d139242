"""Whether two stacks fit beside each other: the choice between ``blue_green`` and ``in_place``; pure."""

from __future__ import annotations

from typing import Final

GIB: Final = 1024**3


def choose(
    wanted: str, *, serving: bool, available_bytes: int, footprint_bytes: int, floor_bytes: int
) -> tuple[str, str]:
    """The mode of a rollout and the reason for it, one sentence.

    Args:
        wanted: ``auto``, ``blue_green`` or ``in_place``.
        serving: whether a slot serves now.
        available_bytes: ``MemAvailable``.
        footprint_bytes: what the running slot takes; the new one is taken to need as much.
        floor_bytes: what must stay available.
    """
    left = available_bytes - footprint_bytes
    if not serving:
        return "blue_green", "nothing serves yet"
    sums = (
        f"{_gib(available_bytes)} available less {_gib(footprint_bytes)} for a second stack leave "
        f"{_gib(max(0, left))}, the floor is {_gib(floor_bytes)}"
    )
    if wanted == "blue_green":
        return "blue_green", f"asked for; {sums}"
    if wanted == "in_place":
        return "in_place", f"asked for; {sums}"
    return ("blue_green" if left >= floor_bytes else "in_place"), sums


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
