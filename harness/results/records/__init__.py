"""Records: one frozen pydantic model for each file, used by its writer and its reader."""

from harness.results.records.archive import ArchivedFile, CodeManifest
from harness.results.records.base import SCHEMA_VERSION, Positive, Seed, StrictModel, Versioned, now
from harness.results.records.checkpoint import CheckpointInfo
from harness.results.records.corpus import TokenFileScan, TokenizedText
from harness.results.records.lines import EvalRecord, LaunchInputs, LaunchRecord, StepRecord
from harness.results.records.probes import (
    PHASES,
    CollectiveTraffic,
    CompileReport,
    DecodeRecord,
    InitReport,
    LengthRecord,
    MemoryPrediction,
    PeakFlops,
    Phase,
    ProbeResults,
    RankMemory,
    RankPhases,
    RunTime,
)
from harness.results.records.run_spec import (
    AllowedViolation,
    InitSource,
    LaunchSpec,
    PredictedCost,
    ResolvedData,
    ResolvedModel,
    RunSpec,
    TokenSlice,
    VariantChoice,
)
from harness.results.records.settings import (
    DataSettings,
    DecodeProbeSettings,
    EquivalenceMargin,
    ModelSettings,
    ProbeSettings,
    TrainSettings,
)
from harness.results.records.status import Environment, FailureReason, RunState, RunStatus
from harness.results.records.study_summary import StudySummary

__all__ = [
    "PHASES",
    "SCHEMA_VERSION",
    "AllowedViolation",
    "ArchivedFile",
    "CheckpointInfo",
    "CodeManifest",
    "CollectiveTraffic",
    "CompileReport",
    "DataSettings",
    "DecodeProbeSettings",
    "DecodeRecord",
    "Environment",
    "EquivalenceMargin",
    "EvalRecord",
    "FailureReason",
    "InitReport",
    "InitSource",
    "LaunchInputs",
    "LaunchRecord",
    "LaunchSpec",
    "LengthRecord",
    "MemoryPrediction",
    "ModelSettings",
    "PeakFlops",
    "Phase",
    "Positive",
    "PredictedCost",
    "ProbeResults",
    "ProbeSettings",
    "RankMemory",
    "RankPhases",
    "ResolvedData",
    "ResolvedModel",
    "RunSpec",
    "RunState",
    "RunStatus",
    "RunTime",
    "Seed",
    "StepRecord",
    "StrictModel",
    "StudySummary",
    "TokenFileScan",
    "TokenSlice",
    "TokenizedText",
    "TrainSettings",
    "VariantChoice",
    "Versioned",
    "now",
]
