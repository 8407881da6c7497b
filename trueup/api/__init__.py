"""The top-level functions; what they need of torch and pandas is imported when they are called."""

from trueup.api.aligning import align as align
from trueup.api.audit_run import AuditRun as AuditRun
from trueup.api.auditing import audit as audit
from trueup.api.comparing import Comparison as Comparison
from trueup.api.comparing import compare as compare
from trueup.api.generating import Generation as Generation
from trueup.api.generating import generate as generate
from trueup.api.selecting import select as select
