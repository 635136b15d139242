"""The gateway's figures for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_REAL_TIME: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class GatewayMetrics:
    """Counters and histograms of one gateway; labels never hold what a caller chose freely."""

    def __init__(self, in_flight: Callable[[], float], streams: Callable[[], float] = lambda: 0) -> None:
        """Make the registry.

        Args:
            in_flight: how many transcriptions are in work, asked at each scrape.
            streams: how many live streams are open, likewise.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "spark_speech_gateway_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.latency = Histogram(
            "spark_speech_gateway_request_seconds",
            "From a request's head to the last byte of its answer.",
            ("route",),
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.errors = Counter(
            "spark_speech_gateway_errors",
            "Requests that failed, by kind.",
            ("kind",),
            registry=self.registry,
        )
        self.audio_seconds = Counter(
            "spark_speech_gateway_audio_seconds", "Audio transcribed.", registry=self.registry
        )
        self.real_time_factor = Histogram(
            "spark_speech_gateway_real_time_factor",
            "Time of a transcription, upload not counted, over the duration of its audio.",
            buckets=_REAL_TIME,
            registry=self.registry,
        )
        Gauge(
            "spark_speech_gateway_in_flight",
            "Transcriptions in work, uploads included.",
            registry=self.registry,
        ).set_function(in_flight)
        Gauge("spark_speech_gateway_streams", "Live streams open.", registry=self.registry).set_function(
            streams
        )
        self.stream_response = Histogram(
            "spark_speech_gateway_stream_response_seconds",
            "From a message of a live stream to the answer that holds what its audio changed.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )

        self.first_words = Histogram(
            "spark_speech_gateway_stream_first_partial_seconds",
            "From the arrival of the audio that ends an utterance's first word to the first words told.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.final_words = Histogram(
            "spark_speech_gateway_stream_final_seconds",
            "From the arrival of the audio that ends an utterance's last word to its final words.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.stream_real_time_factor = Histogram(
            "spark_speech_gateway_stream_real_time_factor",
            "Time that a live stream waited for the upstream over the duration of its audio.",
            buckets=_REAL_TIME,
            registry=self.registry,
        )
        upstream_time = Histogram(
            "spark_speech_gateway_upstream_seconds",
            "Time of a recording, or a piece of a live stream, at Triton: its queue and its work.",
            ("kind",),
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        upstream_queue = Gauge(
            "spark_speech_gateway_upstream_waiting",
            "Recordings and pieces of live streams that wait for Triton's answer.",
            ("kind",),
            registry=self.registry,
        )
        # Looking a label up for each piece of each stream would cost as much as counting it.
        self._upstream = {
            kind: (upstream_queue.labels(kind), upstream_time.labels(kind)) for kind in ("recording", "piece")
        }

    @contextmanager
    def upstream(self, kind: Literal["recording", "piece"]) -> Iterator[None]:
        """Count the block as one that waits for the upstream, and its time where it succeeds."""
        waiting, time = self._upstream[kind]
        waiting.inc()
        started = monotonic()
        try:
            yield
            time.observe(monotonic() - started)
        finally:
            waiting.dec()

    def watch_upstreams(self, outstanding: Callable[[], Mapping[str, int]]) -> None:
        """Tell of several upstreams: what each that is there has in work, asked at each scrape."""
        self.registry.register(_Upstreams(outstanding))

    def transcribed(self, audio_s: float, took_s: float) -> None:
        """Count one transcription of ``audio_s`` seconds of audio that took ``took_s``."""
        self.audio_seconds.inc(audio_s)
        if audio_s > 0:
            self.real_time_factor.observe(took_s / audio_s)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)


class _Upstreams(Collector):
    """One line for each upstream that is there, and none for one that is away."""

    def __init__(self, outstanding: Callable[[], Mapping[str, int]]) -> None:
        self._outstanding = outstanding

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """See `prometheus_client.registry.Collector`."""
        family = GaugeMetricFamily(
            "spark_speech_gateway_upstream_outstanding",
            "Requests and live streams in work at each upstream that answers.",
            labels=("upstream",),
        )
        for upstream, count in self._outstanding().items():
            family.add_metric([upstream], count)
        yield family
