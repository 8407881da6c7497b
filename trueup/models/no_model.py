"""No model at all: for audits of texts and predictions that their data already hold."""

from trueup.files import content_hash
from trueup.models.work import Work


class NoModel:
    """Has a name, and can be asked nothing."""

    name = "none"
    fingerprint = content_hash("none")

    def __init__(self) -> None:
        self.work = Work()

    def __repr__(self) -> str:
        return "no model"
