"""What steers a model while it writes, without training: prompt steps, edits, searches."""

from importlib.metadata import entry_points

from trueup.decoding.activation_steering import ActivationSteering
from trueup.decoding.args import ARGS
from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.contrast import Contrast
from trueup.decoding.deal import DeAL
from trueup.decoding.guide_align import GuideAlign
from trueup.decoding.p_aligner import PAligner
from trueup.decoding.pine import Pine
from trueup.decoding.plain import PlainSearch
from trueup.decoding.prompt_defense import PromptDefense
from trueup.decoding.protocol import Decoded, Decoder, DecoderNeeds, Request
from trueup.decoding.rps import RPS
from trueup.decoding.transfer_q import TransferQ
from trueup.decoding.urial import Urial
from trueup.errors import UserError, unknown_name

__all__ = ["DECODERS", "Decoded", "Decoder", "DecoderNeeds", "Request", "decoder_class"]

DECODERS: dict[str, type[Decoder]] = {
    "activation-steering": ActivationSteering,
    "args": ARGS,
    "best-of-n": BestOfN,
    "contrast": Contrast,
    "deal": DeAL,
    "guide-align": GuideAlign,
    "p-aligner": PAligner,
    "pine": Pine,
    "prompt-defense": PromptDefense,
    "rps": RPS,
    "sample": PlainSearch,
    "transfer-q": TransferQ,
    "urial": Urial,
}


def decoder_class(name: str) -> type[Decoder]:
    """The class registered under a name, here or as an entry point `trueup.decoding`.

    Raises: UserError where there is none, or another package's cannot be loaded.
    """
    if name in DECODERS:
        return DECODERS[name]
    others = {point.name: point for point in entry_points(group="trueup.decoding")}
    if name not in others:
        raise unknown_name("decoder", name, {**DECODERS, **others})
    try:
        loaded: type[Decoder] = others[name].load()
    except (ImportError, AttributeError) as failure:
        place = others[name].value
        raise UserError(f"{place}: decoder {name!r} cannot be loaded: {failure}") from failure
    return loaded
