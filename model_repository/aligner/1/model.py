"""Triton in, the aligner, Triton out."""

import triton_python_backend_utils as pb_utils

from orchestrator.backend.context import ModelContext
from orchestrator.backend.jobs import read, read_words, respond, run
from orchestrator.backend.tensors import alignment_tensors
from orchestrator.engines import load_aligner
from orchestrator.engines.alignment.base import AlignmentOptions


class TritonPythonModel:
    """An aligner: `orchestrator.contract.ALIGNER`."""

    def initialize(self, args):
        self.context = ModelContext.from_args(args)
        self.engine = load_aligner(self.context.engine, self.context.source)

    def execute(self, requests):
        jobs = read(requests, self.context, AlignmentOptions, pb_utils)
        read_words(jobs, self.context, pb_utils)
        run(jobs, self.engine.align, self.context)
        return respond(jobs, alignment_tensors, pb_utils)

    def finalize(self):
        self.engine.close()
