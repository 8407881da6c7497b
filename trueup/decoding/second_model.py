"""A second model beside the policy, which must read the same tokens."""

from trueup.decoding.rewards import opened_model
from trueup.errors import UserError
from trueup.models.language_model import LanguageModel


def second_model(source: LanguageModel | str, lm: LanguageModel, *, field: str) -> LanguageModel:
    """The model itself, or the one that lies there.

    Raises: UserError where it reads other tokens than the policy `lm`.
    """
    model = opened_model(source)
    if model is not lm and model.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        raise UserError(
            f"{field} {model.name}: has another vocabulary than {lm.name}; "
            "give one with the same tokenizer"
        )
    return model
