"""Triton in, the diarizer, Triton out."""

import triton_python_backend_utils as pb_utils

from orchestrator.backend.context import ModelContext
from orchestrator.backend.jobs import read, respond, run
from orchestrator.backend.tensors import diarization_tensors
from orchestrator.diarization import load
from orchestrator.diarization.base import DiarizationOptions


class TritonPythonModel:
    """A diarizer: `orchestrator.contract.DIARIZER`."""

    def initialize(self, args):
        self.context = ModelContext.from_args(args)
        self.diarizer = load(self.context.folder, self.context.device, self.context.threads)

    def execute(self, requests):
        jobs = read(requests, self.context, DiarizationOptions, pb_utils)
        run(jobs, self.diarize, self.context)
        return respond(jobs, diarization_tensors, pb_utils)

    def diarize(self, batch, options):
        return [self.diarizer.diarize(samples, options) for samples in batch]
