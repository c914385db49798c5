"""The statistics of a server in the text format of Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import (
  CounterMetricFamily,
  GaugeMetricFamily,
  HistogramMetricFamily,
  Metric,
)
from prometheus_client.registry import Collector

from dlrm_jax.serving.service import Service
from dlrm_jax.serving.statistics import Histogram

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST
_LABELS = ('model', 'version')


def _buckets(found: Histogram) -> list[tuple[str, float]]:
  """Cumulative counts by the upper end of the bucket."""
  total, buckets = 0, []
  for end, count in zip((*found.ends, '+Inf'), found.counts, strict=True):
    total += count
    buckets.append((str(end), total))
  return buckets


class _OfServer(Collector):
  """Reads the statistics when they are asked for."""

  def __init__(self, service: Service) -> None:
    self._service = service

  def collect(self) -> Iterator[Metric]:
    """All metrics."""
    requests = CounterMetricFamily(
      'dlrm_requests', 'Answered requests.', labels=_LABELS
    )
    rows = CounterMetricFamily('dlrm_rows', 'Scored rows.', labels=_LABELS)
    refusals = CounterMetricFamily(
      'dlrm_refusals',
      'Refused requests.',
      labels=(*_LABELS, 'status'),
    )
    failures = CounterMetricFamily(
      'dlrm_device_failures', 'Batches that failed.', labels=_LABELS
    )
    unknown = CounterMetricFamily(
      'dlrm_unknown_ids',
      'Ids that the training did not see.',
      labels=(*_LABELS, 'feature'),
    )
    queue = GaugeMetricFamily(
      'dlrm_queue_rows', 'Rows that wait.', labels=_LABELS
    )
    batches = HistogramMetricFamily(
      'dlrm_batch_rows', 'Rows of a batch.', labels=_LABELS
    )
    seconds = HistogramMetricFamily(
      'dlrm_request_seconds',
      'Seconds of answered requests in each stage.',
      labels=(*_LABELS, 'stage'),
    )
    for version in self._service.repository.served():
      labels, found = [version.model, version.number], version.statistics
      requests.add_metric(labels, found.answered)
      rows.add_metric(labels, found.rows)
      failures.add_metric(labels, found.errors)
      queue.add_metric(labels, version.engine.queue_rows)
      batches.add_metric(labels, _buckets(found.batches), found.batches.sum)
      for status, count in found.refused.items():
        refusals.add_metric([*labels, status], count)
      for feature, count in found.unknown.items():
        unknown.add_metric([*labels, feature], count)
      for stage, times in found.times.items():
        seconds.add_metric([*labels, stage], _buckets(times), times.sum)
    for status, count in self._service.refused.items():
      refusals.add_metric(['', '', status], count)
    ready = GaugeMetricFamily('dlrm_ready', 'Whether every model is served.')
    ready.add_metric([], float(self._service.ready))
    yield from (requests, rows, refusals, failures, unknown)
    yield from (queue, batches, seconds, ready)


def metrics_of(service: Service) -> bytes:
  """All metrics of a server as text."""
  registry = CollectorRegistry()
  registry.register(_OfServer(service))
  return exposition.generate_latest(registry)
