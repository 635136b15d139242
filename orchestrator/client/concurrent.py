"""Run things side by side so that the first failure is *the* failure, not a group of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import anyio

from orchestrator.errors import SpeechError

Result = TypeVar("Result")


async def gather(*jobs: Callable[[], Awaitable[Result]]) -> list[Result]:
    """Run ``jobs`` at the same time; their results in the order of the jobs.

    Raises:
        SpeechError: the first one that a job raised; the other jobs are cancelled and waited for.
    """
    results: list[Result | None] = [None] * len(jobs)
    errors: list[SpeechError] = []

    async def run(index: int, job: Callable[[], Awaitable[Result]]) -> None:
        try:
            results[index] = await job()
        except SpeechError as error:
            errors.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index, job in enumerate(jobs):
            group.start_soon(run, index, job)
    if errors:
        raise errors[0]
    return cast("list[Result]", results)
