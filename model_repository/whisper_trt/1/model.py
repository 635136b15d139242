"""Triton in, the engine, Triton out."""

import triton_python_backend_utils as pb_utils

from orchestrator.backend.context import ModelContext
from orchestrator.backend.jobs import read, respond, run
from orchestrator.backend.tensors import recognition_tensors
from orchestrator.engines import load
from orchestrator.engines.base import RecognitionOptions


class TritonPythonModel:
    """A recogniser: `orchestrator.contract.RECOGNIZER`."""

    def initialize(self, args):
        self.context = ModelContext.from_args(args)
        self.engine = load(self.context.engine, self.context.source)

    def execute(self, requests):
        jobs = read(requests, self.context, RecognitionOptions, pb_utils, takes_pcm16=self.engine.takes_pcm16)
        run(jobs, self.engine.recognize, self.context)
        return respond(jobs, recognition_tensors, pb_utils)

    def finalize(self):
        self.engine.close()
