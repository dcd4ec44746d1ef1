"""Files that MindFormers' users have: its run YAML becomes a job."""

from orchestrator.mindformers.run_yaml import Imported, LeftOut, import_run_yaml
from orchestrator.mindformers.write import job_text

__all__ = ["Imported", "LeftOut", "import_run_yaml", "job_text"]
