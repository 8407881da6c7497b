"""Models: white-box causal and masked ones, black-box endpoints, and how they score and decode."""

from trueup.models.decoding_state import DecodingState as DecodingState
from trueup.models.encoding import Completion as Completion
from trueup.models.encoding import Prompt as Prompt
from trueup.models.language_model import LanguageModel as LanguageModel
from trueup.models.language_model import Scores as Scores
from trueup.models.loading import load as load
from trueup.models.masked_language_model import MaskedLanguageModel as MaskedLanguageModel
from trueup.models.masked_language_model import load_masked as load_masked
from trueup.models.prefix_tree import Group as Group
from trueup.models.sampling import Sample as Sample
from trueup.models.work import Work as Work
