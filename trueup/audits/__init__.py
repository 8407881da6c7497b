"""Audits: measurements of a model's lean, each in three steps with an interval on every number."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from trueup.audits.behaviour.bead import Bead as Bead
from trueup.audits.behaviour.decoding_robustness import DecodingRobustness as DecodingRobustness
from trueup.audits.behaviour.discretion import Discretion as Discretion
from trueup.audits.behaviour.group_swap import GroupSwap as GroupSwap
from trueup.audits.behaviour.honesty import Honesty as Honesty
from trueup.audits.behaviour.judge_bias import JudgeBias as JudgeBias
from trueup.audits.behaviour.portia import Portia as Portia
from trueup.audits.behaviour.token_shift import TokenShift as TokenShift
from trueup.audits.behaviour.values import Values as Values
from trueup.audits.comparison import ComparisonRow as ComparisonRow
from trueup.audits.comparison import compare_audits as compare_audits
from trueup.audits.comparison import compare_items as compare_items
from trueup.audits.comparison import unpaired as unpaired
from trueup.audits.embedding.biaslens import BiasLens as BiasLens
from trueup.audits.embedding.ceat import Ceat as Ceat
from trueup.audits.embedding.corpus_cooccurrence import CorpusCooccurrence as CorpusCooccurrence
from trueup.audits.embedding.cweat import Cweat as Cweat
from trueup.audits.embedding.seat import Seat as Seat
from trueup.audits.embedding.sentence_bias_score import SentenceBiasScore as SentenceBiasScore
from trueup.audits.embedding.weat import Weat as Weat
from trueup.audits.estimates import estimate as estimate
from trueup.audits.probability.association import Association as Association
from trueup.audits.probability.aul import AUL as AUL
from trueup.audits.probability.aula import AULA as AULA
from trueup.audits.probability.bbq import BBQ as BBQ
from trueup.audits.probability.cbs import CBS as CBS
from trueup.audits.probability.crows_pairs import CrowsPairs as CrowsPairs
from trueup.audits.probability.disco import DisCo as DisCo
from trueup.audits.probability.lmb import LMB as LMB
from trueup.audits.probability.lpbs import LPBS as LPBS
from trueup.audits.probability.perplexity import Perplexity as Perplexity
from trueup.audits.probability.stereoset import StereoSet as StereoSet
from trueup.audits.probability.winogender import Winogender as Winogender
from trueup.audits.protocol import Audit as Audit
from trueup.audits.protocol import Metric as Metric
from trueup.audits.protocol import Probe as Probe
from trueup.audits.protocol import chunks as chunks
from trueup.audits.sources import probes_of as probes_of
from trueup.audits.sources import read_data as read_data
from trueup.audits.text.co_occurrence import CoOccurrence as CoOccurrence
from trueup.audits.text.counterfactual_sentiment import (
    CounterfactualSentiment as CounterfactualSentiment,
)
from trueup.audits.text.demographic_representation import (
    DemographicRepresentation as DemographicRepresentation,
)
from trueup.audits.text.full_generation_bias import FullGenerationBias as FullGenerationBias
from trueup.audits.text.gender_polarity import GenderPolarity as GenderPolarity
from trueup.audits.text.honest import Honest as Honest
from trueup.audits.text.psycholinguistic_norms import PsycholinguisticNorms as PsycholinguisticNorms
from trueup.audits.text.regard import Regard as Regard
from trueup.audits.text.score_parity import ScoreParity as ScoreParity
from trueup.audits.text.social_group_substitution import (
    SocialGroupSubstitution as SocialGroupSubstitution,
)
from trueup.audits.text.stereotypical_associations import (
    StereotypicalAssociations as StereotypicalAssociations,
)
from trueup.audits.text.toxicity import Toxicity as Toxicity
from trueup.errors import UserError, build, unknown_name

AUDITS: dict[str, type[Audit]] = {
    "association": Association,
    "aul": AUL,
    "aula": AULA,
    "bbq": BBQ,
    "bead": Bead,
    "biaslens": BiasLens,
    "cbs": CBS,
    "ceat": Ceat,
    "co-occurrence": CoOccurrence,
    "corpus-co-occurrence": CorpusCooccurrence,
    "counterfactual-sentiment": CounterfactualSentiment,
    "crows-pairs": CrowsPairs,
    "cweat": Cweat,
    "decoding-robustness": DecodingRobustness,
    "demographic-representation": DemographicRepresentation,
    "disco": DisCo,
    "discretion": Discretion,
    "full-generation-bias": FullGenerationBias,
    "gender-polarity": GenderPolarity,
    "group-swap": GroupSwap,
    "honest": Honest,
    "honesty": Honesty,
    "judge-bias": JudgeBias,
    "lmb": LMB,
    "lpbs": LPBS,
    "perplexity": Perplexity,
    "portia": Portia,
    "psycholinguistic-norms": PsycholinguisticNorms,
    "regard": Regard,
    "score-parity": ScoreParity,
    "seat": Seat,
    "sentence-bias-score": SentenceBiasScore,
    "social-group-substitution": SocialGroupSubstitution,
    "stereoset": StereoSet,
    "stereotypical-associations": StereotypicalAssociations,
    "token-shift": TokenShift,
    "toxicity": Toxicity,
    "values": Values,
    "weat": Weat,
    "winogender": Winogender,
}


def audit(name_or_instance: str | Audit, settings: Mapping[str, Any] | None = None) -> Audit:
    """An audit by its registered name, or an instance with some of its fields changed.

    Names are those of `AUDITS` and of other packages' entry points in the group `trueup.audits`.
    Raises: UserError for an unknown name, with the nearest known one, and for an unknown field.
    """
    if isinstance(name_or_instance, str):
        return build(name_or_instance, _class_of(name_or_instance), settings or {})
    if not settings:
        return name_or_instance
    return build(
        name_or_instance.name, type(name_or_instance), {**vars(name_or_instance), **settings}
    )


def _class_of(name: str) -> type[Audit]:
    """The class registered under a name, here or by another package."""
    if name in AUDITS:
        return AUDITS[name]
    points = {point.name: point for point in entry_points(group="trueup.audits")}
    if name not in points:
        raise unknown_name("audit", name, [*AUDITS, *points])
    try:
        found: type[Audit] = points[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"audit {name!r}: {points[name].value} cannot be loaded ({error})"
        ) from error
    return found
