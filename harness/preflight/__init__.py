"""Check every distinct architecture of a study before anything starts."""

from harness.preflight.file import check_file
from harness.preflight.models import check_models
from harness.preflight.study import check_study, is_refused

__all__ = ["check_file", "check_models", "check_study", "is_refused"]
