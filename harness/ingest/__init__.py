"""Turn tables of another trainer's results into a study. Never imports torch."""

from harness.ingest.options import IngestRequest
from harness.ingest.study import Ingested, ingest

__all__ = ["IngestRequest", "Ingested", "ingest"]
