"""Traces for OpenTelemetry, sent to the collector that ``gateway.otlp_endpoint`` names over HTTP (OTLP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from orchestrator import __version__
from orchestrator.errors import MissingDependencyError
from orchestrator.tracing import Attribute, Kind, Span, traced_by

if TYPE_CHECKING:
    from opentelemetry import trace

SERVICE: Final = "spark-speech-gateway"
_SEND_LIMIT_S: Final = 5
"""For one batch; a collector that is away must not hold up the gateway's end."""
_PREFIX: Final = "speech."


@contextmanager
def exporting(endpoint: str | None) -> Iterator[None]:
    """Send the spans of the block to the collector at ``endpoint`` (``http://host:port``); None: nothing.

    Raises:
        MissingDependencyError: the extra is not installed.
    """
    if endpoint is None:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"gateway.otlp_endpoint needs {error.name}, which is not installed",
            fix="pip install 'spark-speech[otel]', or leave gateway.otlp_endpoint empty",
        ) from error
    resource = Resource.create({"service.name": SERVICE, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=_SEND_LIMIT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        with traced_by(OpenTelemetry(provider.get_tracer(SERVICE, __version__))):
            yield
    finally:
        provider.shutdown()


class OpenTelemetry:
    """`orchestrator.tracing.Tracer` over OpenTelemetry's."""

    def __init__(self, tracer: trace.Tracer) -> None:
        """Take what makes the spans."""
        self._tracer = tracer

    @contextmanager
    def span(
        self, name: str, kind: Kind, carrier: Mapping[str, str], attributes: Mapping[str, Attribute | None]
    ) -> Iterator[Span]:
        """See `orchestrator.tracing.span`; ``carrier`` may hold a ``traceparent`` (W3C Trace Context)."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(carrier) if "traceparent" in carrier else None
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=trace.SpanKind[kind.upper()],
            # An error's message may name what a caller sent.
            record_exception=False,
            set_status_on_exception=False,
        ) as current:
            given = _Noted(current)
            given.note(**attributes)
            try:
                yield given
            except BaseException as error:
                given.failed(type(error).__name__)
                raise


class _Noted:
    """`orchestrator.tracing.Span` over OpenTelemetry's."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, **attributes: Attribute | None) -> None:
        for key, value in attributes.items():
            if value is not None:
                self._span.set_attribute(_PREFIX + key, value)

    def failed(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)
