"""``python -m orchestrator.training``: corpus, train, aligner, evaluate, dialogue."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import SpeechError
from orchestrator.progress import ProgressReporter, ProgressTask

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

SHIPPED = Path(__file__).parent / "checkpoint"
_LINES = 50


class _LineTask:
    def __init__(self, description: str, total: float | None) -> None:
        self._description = description
        self._total = total
        self._shown = 0.0

    def update(
        self, *, completed: float | None = None, total: float | None = None, description: str | None = None
    ) -> None:
        self._total = total or self._total
        self._description = description or self._description
        if completed is not None and self._total and completed - self._shown >= self._total / _LINES:
            self._shown = completed
            typer.echo(f"{self._description}: {completed:.0f} of {self._total:.0f}", err=True)

    def finish(self, description: str | None = None) -> None:
        typer.echo(description or f"{self._description}: done", err=True)


class LineProgress:
    """Progress as plain lines on standard error: training often runs where there is no terminal."""

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a job."""
        return _LineTask(description, total)


def _progress() -> ProgressReporter:
    return LineProgress()


@app.command()
def corpus(
    out: Annotated[Path, typer.Option(help="Folder for the corpus.")],
    utterances: Annotated[int, typer.Option(help="How many utterances.")] = 30_000,
    seed: int = 1,
    workers: Annotated[int, typer.Option(help="Synthesisers at work at once.")] = 2,
) -> None:
    """Synthesise the training corpus."""
    from orchestrator.training.recordings import plan, record

    record(plan(utterances, seed), out, _progress(), workers=workers)


@app.command()
def train(
    recordings: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    out: Annotated[Path, typer.Option(help="Folder for the state and the checkpoint.")],
    device: str = "cuda",
    seed: int = 1,
    frame_steps: int = 600,
    ctc_steps: int = 500,
    joint_steps: int = 3000,
    batch_scale: Annotated[float, typer.Option(help="Factor on the batch sizes.")] = 1.0,
    budget_s: Annotated[float | None, typer.Option(help="Stop and save after so many seconds.")] = None,
    fall_s: Annotated[
        float | None, typer.Option(help="Let the learning rate fall in so many seconds.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that make batches.")] = 2,
    start: Annotated[Path | None, typer.Option(help="Go on from this checkpoint.")] = None,
) -> None:
    """Train the checkpoint; run it again with the same folder to resume."""
    from orchestrator.training.recordings import Recordings
    from orchestrator.training.train import Schedule, Trainer

    schedule = Schedule(
        frame_steps, ctc_steps, joint_steps, batch_scale=batch_scale, fall_s=fall_s, budget_s=budget_s
    )
    trainer = Trainer(
        Recordings(recordings),
        out,
        schedule,
        device=device,
        seed=seed,
        workers=workers,
        start=start,
    )
    typer.echo(trainer.run(_progress()))


@app.command()
def aligner(
    out: Annotated[Path, typer.Option(help="Folder for the corpus and the head.")],
    encoder: Annotated[Path, typer.Option(help="Moonshine tiny's encoder_model.ort.")],
    utterances: Annotated[int, typer.Option(help="How many utterances.")] = 700,
    epochs: int = 20,
    prior: Annotated[float, typer.Option(help="Power of the label prior.")] = 0.3,
    seed: int = 1,
    workers: Annotated[int, typer.Option(help="Synthesisers at work at once.")] = 2,
) -> None:
    """Train the aligner's head on Moonshine's encoder."""
    from orchestrator.engines.alignment.moonshine_ctc import Encoder
    from orchestrator.training.aligner import hear, plan, save, train
    from orchestrator.training.recordings import Recordings, record

    progress = _progress()
    record(plan(utterances, seed), out / "corpus", progress, workers=workers)
    heard = hear(Encoder(encoder), Recordings(out / "corpus"), seed, progress)
    typer.echo(save(train(heard, epochs, prior, seed, progress), out))


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="The .nemo file.")] = SHIPPED / "parakeet-tiny.nemo",
    count: Annotated[int, typer.Option(help="Sentences in a test set.")] = 200,
    seed: int = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Word error rates on freshly synthesised held-out sentences."""
    from orchestrator.training.evaluate import evaluate as run
    from orchestrator.training.evaluate import held_out_sets, restore, table

    progress = _progress()
    scores = run(restore(checkpoint), held_out_sets(count, seed, progress), progress)
    typer.echo(
        json.dumps([asdict(s) | {"wer": s.wer} for s in scores], indent=2) if as_json else table(scores)
    )


@app.command()
def dialogue(out: Annotated[Path, typer.Option(help="Folder for the recording.")] = SHIPPED) -> None:
    """Make the two-speaker recording with its reference."""
    from orchestrator.training.dialogue import write_dialogue

    typer.echo(write_dialogue(out))


def main() -> None:
    """Entry point; a known failure is one line, not a traceback."""
    try:
        app()
    except ModuleNotFoundError as error:
        typer.echo(f"{error.name} is not installed\nFix: pip install 'spark-speech[serve]'", err=True)
        sys.exit(2)
    except SpeechError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
