"""Triton in, the streaming engine, Triton out."""

import triton_python_backend_utils as pb_utils

from orchestrator.backend.chunks import read_chunks
from orchestrator.backend.context import ModelContext
from orchestrator.backend.gauges import StreamGauges
from orchestrator.backend.replies import replies
from orchestrator.backend.streams import Streams
from orchestrator.backend.warmup import settle, warm_up
from orchestrator.engines import load_streaming


class TritonPythonModel:
    """A recogniser of live streams: `orchestrator.contract.STREAM_RECOGNIZER`."""

    def initialize(self, args):
        self.context = ModelContext.from_args(args)
        engine = load_streaming(self.context.engine, self.context.source)
        self.streams = Streams(engine, self.context)
        warm_up(engine, self.context.device)
        self.gauges = StreamGauges(args["model_instance_name"], pb_utils)
        settle()

    def execute(self, requests):
        jobs = read_chunks(requests, self.context, pb_utils)
        self.streams.step(jobs)
        self.gauges.report(self.streams.counts)
        return replies(jobs, pb_utils)

    def finalize(self):
        self.gauges.close()
        self.streams.close()
